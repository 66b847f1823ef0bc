"""Damaged and missing images: the policy of a run, and the list of images left out."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from reid.errors import ConfigError, DataError
from reid.files import atomic
from reid.runtime import gather_rows

logger = logging.getLogger(__name__)

COLUMNS = ["path", "reason"]


class DamagedImages:
    """The policy for damaged and missing images, and a record of those met.

    Args:
        policy: `error` stops at the first one; `skip` leaves them out, counts and lists them.

    Attributes:
        files: path -> reason, in the order first met.
        count: images left out, repeats included.

    Raises:
        ConfigError: another policy.
    """

    def __init__(self, policy: str = "error") -> None:
        if policy not in ("error", "skip"):
            raise ConfigError(f"data.damaged: expected error or skip, got {policy!r}")
        self.policy, self.count = policy, 0
        self.files: dict[str, str] = {}

    def note(self, path: str, reason: str) -> None:
        """Count an image that is left out, and log it the first time."""
        self.count += 1
        if path not in self.files:
            self.files[path] = reason
            logger.warning("%s: left out: %s", path, reason)

    def of_all_processes(self, device: torch.device) -> dict[str, str]:
        """Gather path and reason of the images left out by any process. A collective call: every process must make it."""
        text = json.dumps(self.files) + "\n"
        rows = gather_rows(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device))
        lines = rows.cpu().numpy().tobytes().splitlines()
        return {path: reason for line in lines for path, reason in json.loads(line).items()}


def write_list(file: Path, files: Mapping[str, str]) -> None:
    """Write path and reason of images left out as CSV, sorted by path; without any, remove the file.

    Raises:
        DataError: the folder cannot be written.
    """
    if not files:
        file.unlink(missing_ok=True)
        return
    with (
        atomic(file) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *sorted(files.items())])


def read_list(file: Path) -> dict[str, str]:
    """Read the CSV that `write_list` wrote; empty if there is no file.

    Raises:
        DataError: the file is damaged.
    """
    if not file.exists():
        return {}
    try:
        with open(file, newline="", encoding="utf-8", errors="surrogateescape") as stream:
            header, *rows = csv.reader(stream)
        if header != COLUMNS:
            raise ValueError(f"its first line is {','.join(header)}")
        return {path: reason for path, reason in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{file}: expected the columns {', '.join(COLUMNS)}: {error}; delete it to start a new list"
        ) from None
