"""The pages quote the code as it is, and their links lead somewhere."""

import re

import pytest
from conftest import REPOSITORY

from benchmarks import early_stopping

RECORDS = ("early_stopping", "early_stopping_others")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def bare(code: str) -> str:
    """The lines of code without their indentation and the empty ones between them."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


SOURCES = [bare(p.read_text()) for p in sorted((REPOSITORY / "src").rglob("*.py"))]


def test_code_in_the_ideas_is_quoted_from_the_source():
    quotes = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "ideas.md").read_text(), re.DOTALL)
    assert len(quotes) >= 3
    for quote in quotes:
        assert any(bare(quote) in source for source in SOURCES), quote


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_early_stopping_table_is_what_the_records_give():
    page = (REPOSITORY / "docs" / "experiments.md").read_text()
    folder = REPOSITORY / "benchmarks" / "results"
    runs, others = (early_stopping.recorded(folder / f"{name}.json") for name in RECORDS)
    assert len(runs) == 6
    assert f"and of {len(others)} of the sections above" in page
    for row in early_stopping.table(runs, others):
        assert row in page
