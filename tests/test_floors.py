"""Imports point one way: torch below diffusers below Lightning; Hydra only in the two programs and their room."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
FLOORS = {
    0: {"errors", "files", "batch", "noise", "objective", "seeds", "weights", "pixels"}
    | {"alignment", "plots", "card", "checkpoints", "hardware", "hub", "terminal", "compiling", "normalisation"},
    1: {
        "adapters",
        "conditioning",
        "data",
        "denoiser",
        "exporting",
        "folder",
        "freezing",
        "guidance",
        "memory",
        "metrics",
        "model_kinds",
        "optimization",
        "sampling",
        "soundness",
        "training_schedule",
        "transformers_folder",
    },
    2: {"callbacks", "datamodule", "evaluating", "evaluation", "logger", "module", "preflight", "sharing", "trainer"},
    3: {"command"},
}
LIBRARIES = {"torch": 0, "diffusers": 1, "datasets": 1, "transformers": 1, "peft": 1, "lightning": 2}
LIBRARIES |= {"hydra": 3, "omegaconf": 3}
PACKAGE = SOURCE / "chrysalis"  # beside it lies only the door by which Hydra finds the launcher
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py" or p.parent.name != "chrysalis")


def floor_of(room: str) -> int:
    return next(floor for floor, rooms in FLOORS.items() if room in rooms)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {
                f"{node.module}.{alias.name}" if node.module == "chrysalis" else node.module for alias in node.names
            }
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = path.relative_to(SOURCE / "chrysalis").parts[0].removesuffix(".py")
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "chrysalis" and rest:
            assert floor_of(rest.split(".")[0]) <= floor_of(room), f"{path.name} imports {name} from a floor above"
        elif top in LIBRARIES:
            assert LIBRARIES[top] <= floor_of(room), f"{path.name} may not import {name}"


def test_every_room_has_a_floor():
    rooms = {p.relative_to(SOURCE / "chrysalis").parts[0].removesuffix(".py") for p in MODULES}
    assert rooms == {room for floor in FLOORS.values() for room in floor}


def test_sampling_and_metrics_never_meet():
    for here, there in (("sampling", "metrics"), ("metrics", "sampling")):
        for path in (SOURCE / "chrysalis" / here).rglob("*.py"):
            assert not any(name.startswith(f"chrysalis.{there}") for name in imported(path))


def test_no_cycles():
    graph = {}
    for path in MODULES:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = {n for n in imported(path) if n.startswith("chrysalis.")}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"cycle: {' -> '.join([*path, name])}"
        if name in done or name not in graph:
            return
        path.append(name)
        for other in graph[name]:
            visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)
