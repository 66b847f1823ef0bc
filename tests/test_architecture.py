"""What neither the linter nor the import contracts of pyproject.toml can tell."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_only_runtime_reads_the_process_variables() -> None:
    readers = [
        path.name
        for path in (ROOT / "reid").rglob("*.py")
        if "WORLD_SIZE" in path.read_text() or '"RANK"' in path.read_text()
    ]
    assert readers == ["processes.py"]
