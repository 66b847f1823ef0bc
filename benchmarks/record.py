"""Save a measurement as JSON, with everything needed to repeat it."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid.files import atomic
from reid.runtime import environment


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


_COMMIT = _commit()  # at import: the checkout may change during the measurement


def keep(file: Path | None, report: Mapping[str, Any], argv: list[str] | None = None) -> None:
    """Write a report with command, commit, hardware and versions atomically.

    Args:
        file: None to write nothing.
        argv: the script's arguments; by default those of the process. Absolute paths are reduced to their last part.
    """
    if file is None:
        return
    words = [Path(word).name if os.path.isabs(word) else word for word in (sys.argv[1:] if argv is None else argv)]
    about = {
        "schema": 1,
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "commit": _COMMIT,
        "environment": environment(),
    }
    with atomic(file) as part:
        part.write_text(json.dumps(about | dict(report), indent=1) + "\n")
