"""How many hostile inputs are tried, and the table of what became of them.

`FAULTS=10000 make faults` tries so many of each kind (a twentieth where each needs a process of its own), other ones each time. The
default is quick enough for every run of the tests, and always the same: tests that pass once pass again.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from reid.errors import LONGEST, ReidError

FAULTS = int(os.environ.get("FAULTS", "40"))
DERANDOMIZE = "FAULTS" not in os.environ
SECONDS = 10.0  # of a processor's time for one input: a machine may have much else to do
Outcome = dict[str, float]
TALLY: dict[str, Outcome] = defaultdict(lambda: {"tried": 0, "refused": 0, "taken": 0, "slowest": 0.0})


def many(share: int = 1) -> Any:
    """Settings of hypothesis: so many inputs, or one in `share` of them."""
    return settings(
        max_examples=max(2, FAULTS // share),
        deadline=None,
        database=None,
        derandomize=DERANDOMIZE,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def attempt(kind: str, read: Callable[[], Any]) -> Any:
    """What `read` gives, or None where it refuses in lines as they should be; anything else it raises is a fault."""
    outcome, began = TALLY[kind], time.process_time()
    outcome["tried"] += 1
    try:
        value = read()
        outcome["taken"] += 1
        return value
    except ReidError as error:
        assert error.problems
        for line in error.problems:
            assert 0 < len(line) <= LONGEST and line.isprintable(), repr(line)
        outcome["refused"] += 1
        return None
    finally:
        seconds = time.process_time() - began
        outcome["slowest"] = max(outcome["slowest"], seconds)
        assert seconds < SECONDS, f"{kind}: one input took {seconds:.1f} s"


@pytest.fixture(scope="session", autouse=True)
def _table() -> Any:
    yield
    lines = ["", f"| {'kind':<24} | tested | refused | accepted | slowest ms |", "|---|--:|--:|--:|--:|"]
    for kind, told in sorted(TALLY.items()):
        numbers = (f"{told[name]:.0f}" for name in ("tried", "refused", "taken"))
        lines.append(f"| {kind:<24} | {' | '.join(numbers)} | {1000 * told['slowest']:.0f} |")
    if file := os.environ.get("FAULTS_TABLE"):
        with open(file, "a", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
