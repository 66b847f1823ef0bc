"""The house holds: a file imports from its own package and from lower floors only, and no import cycle exists."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors"},
    {"files", "tracklets", "protocol", "config", "runtime", "features", "findings"},
    {"datasets", "models", "losses", "metric_losses", "augment", "evaluation", "gallery", "audit", "report"},
    {"engine"},
    {"binding", "experiment", "rundir", "cli", "commands", "cifar", "embedder"},
    {"verbs", "__main__"},
    {"tools"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Rooms of one floor that build on each other, in that order; every other pair on a floor stays apart.
SAME_FLOOR = [
    ("files", "tracklets", "protocol", "config", "runtime", "features"),
    ("cli", "rundir", "binding", "experiment", "commands"),
    ("cli", "binding", "cifar", "commands"),
    ("rundir", "binding", "experiment", "embedder"),
    ("verbs", "__main__"),
]


def sources() -> list[Path]:
    return sorted([*(ROOT / "reid").rglob("*.py"), *(ROOT / "tools").glob("*.py")])


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner if node.module == "reid" else {str(node.module)}
    return {name for name in found if name.split(".")[0] == "reid"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    room = "tools" if parts[0] == "tools" else parts[1]
    if room == "__init__":
        assert imports(path) <= {"reid.embedder.Embedder", "reid.embedder"}  # late: tests/commands/test_embedder.py
        return
    for name in imports(path):
        other = room_of(name)
        if other in (room, ""):
            continue
        below = FLOOR_OF[other] < FLOOR_OF[room]
        beside = any(row.index(other) < row.index(room) for row in SAME_FLOOR if other in row and room in row)
        assert below or beside, (
            f"{path.relative_to(ROOT)} (floor {FLOOR_OF[room]}) imports {name} (floor {FLOOR_OF[other]})"
        )


def test_no_cycles_between_files() -> None:
    graph = {}
    for path in sources():
        if path.parts[-2] != "tools":
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[module] = imports(path) - {module}
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"import cycle among {sorted(graph)}"


def test_only_runtime_reads_the_process_variables() -> None:
    readers = [path.name for path in sources() if "WORLD_SIZE" in path.read_text() or '"RANK"' in path.read_text()]
    assert readers == ["runtime.py"]
