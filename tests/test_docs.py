"""The pages quote the code as it is, their links lead somewhere, and each is short enough to be read."""

import re

import pytest
from conftest import REPOSITORY

from benchmarks import early_stopping

RECORDS = ("early_stopping", "early_stopping_others")
ROOT = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*ROOT, *sorted((REPOSITORY / "docs").glob("*.md"))]
SCREEN = 60  # lines


def bare(code: str) -> str:
    """The lines of code without their indentation and the empty ones between them."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


def prose(page) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def links(page) -> list[tuple[str, str]]:
    """(path, anchor) of every link to a file of the repository; the path is empty for the page itself."""
    found = re.findall(r"\]\(([^)#]*?)(?:#([^)]*))?\)", prose(page))
    return [(target, anchor) for target, anchor in found if "://" not in target]


def anchors(page) -> set[str]:
    """The headings of a page, as GitHub writes them in addresses."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


SOURCES = [bare(p.read_text()) for p in sorted((REPOSITORY / "src").rglob("*.py"))]


def test_code_in_the_ideas_is_quoted_from_the_source():
    quotes = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "ideas.md").read_text(), re.DOTALL)
    assert len(quotes) >= 3
    for quote in quotes:
        assert any(bare(quote) in source for source in SOURCES), quote


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target, anchor in links(page):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_tests_that_a_page_names_exist(page):
    there = {file.name for file in (REPOSITORY / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+\.py\b", page.read_text())) <= there


def test_every_page_is_two_clicks_from_the_readme():
    reached = {(REPOSITORY / target).resolve() for target, _ in links(ROOT[0]) if target}
    for page in [page for page in PAGES if page in reached]:
        reached |= {(page.parent / target).resolve() for target, _ in links(page) if target}
    assert set(PAGES[1:]) <= reached


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "log.md"], ids=lambda p: p.name)
def test_no_section_is_longer_than_a_screen(page):
    for section in re.split(r"^##+ ", page.read_text(), flags=re.MULTILINE):
        assert section.count("\n") <= SCREEN, f"{page.name}: {section.splitlines()[0]}"


def test_the_readme_is_short():
    assert ROOT[0].read_text().count("\n") <= 200


def test_the_early_stopping_table_is_what_the_records_give():
    page = (REPOSITORY / "docs" / "experiments.md").read_text()
    text = " ".join(page.split())
    folder = REPOSITORY / "benchmarks" / "results"
    runs, others = (early_stopping.recorded(folder / f"{name}.json") for name in RECORDS)
    assert len(runs) == 6
    assert f"in {len(others)} runs of the sections above" in text
    for row in early_stopping.table(runs, others):
        assert row in page
