"""Checkpoints: saving and loading.

A checkpoint holds tensors and plain Python types only. It is written atomically, verified against its checksums before it replaces
the previous one, and loaded without executing pickled code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reid.errors import CheckpointError
from reid.files import atomic, check_zip, flush_to_disk
from reid.models.weights import tested_weights as tested_weights

logger = logging.getLogger(__name__)

SCHEMA = 1


def save(path: Path, *, previous: Path | None = None, **content: Any) -> None:
    """Writes a checkpoint, verifies its checksums, and then moves it to `path`.

    Args:
        path: the checkpoint file. An existing file is replaced only after the new one has been verified and flushed to disk.
        previous: where the existing file at `path` is moved to. A kill between the two renames leaves only this file: see `load_first`.
        content: entries of the checkpoint: tensors, state dicts and plain Python types.

    Raises:
        DataError: the file cannot be written.
        CheckpointError: torch cannot write the file, or its checksums do not match.
    """
    with atomic(path) as temporary:
        try:
            torch.save({"schema": SCHEMA, **content}, temporary)
            verify_checksums(temporary)
        except (
            RuntimeError,
            zipfile.BadZipFile,
        ) as error:  # torch's ZIP writer raises a RuntimeError where Python's would raise an OSError
            raise CheckpointError(
                f"{path}: cannot write this checkpoint: {str(error).splitlines()[0]}; is the disk full?"
            ) from None
        flush_to_disk(temporary)
        if previous is not None and path.exists():
            os.replace(path, previous)
    with contextlib.suppress(
        OSError
    ):  # some file systems cannot fsync a folder; then a power failure may undo the renames
        _sync_names(path.parent)


def verify_checksums(path: Path) -> None:
    """Verifies the CRC-32 checksums that torch.save wrote into a checkpoint; torch.load does not check them.

    Raises:
        zipfile.BadZipFile: a checksum differs, or the ZIP structure is damaged.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        check_zip(file)


def _sync_names(folder: Path) -> None:
    """Flushes a folder's entries (names of new and renamed files) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path, *needed: str) -> dict[str, Any]:
    """Loads a checkpoint of this project onto the CPU.

    Args:
        path: the checkpoint file.
        needed: names of entries that it must contain.

    Raises:
        CheckpointError: the file is missing, damaged, from another program, or of another schema; or an entry is missing or has the
            wrong type.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; expected a file written by robust-reid train")
    try:
        verify_checksums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of tensors and plain types: {reason}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        found = f"{schema!r:.40}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected a checkpoint of robust-reid train with schema {SCHEMA}, got {found}")
    if missing := [name for name in needed if name not in content]:
        raise CheckpointError(f"{path}: expected {', '.join(needed)} in this checkpoint, {missing[0]} is missing")
    for name, is_right in _TYPES.items():
        if name in content and not is_right(content[name]):
            raise CheckpointError(
                f"{path}: {name} has a type that robust-reid train does not write; use another checkpoint"
            )
    return content


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())


_TYPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("model", "loss", "ema", "evidence"), _tensors),
    **dict.fromkeys(("optimizer", "scaler"), lambda value: isinstance(value, dict)),
    "config": lambda value: isinstance(value, str),
    "pids": lambda value: isinstance(value, list) and all(type(pid) is int for pid in value),
    "step": lambda value: type(value) is int and value >= 0,
    "best": lambda value: value is None or isinstance(value, float | int),
    "windows": lambda value: value is None or (isinstance(value, Tensor) and value.ndim == 2),
    "damaged": _texts,
    "names": lambda value: isinstance(value, dict) and all(_texts(value.get(kind, {})) for kind in ("pid", "camid")),
    "corrections": lambda value: isinstance(value, dict),
}


def load_first(paths: Sequence[Path], *needed: str) -> tuple[Path, dict[str, Any]]:
    """Loads the first checkpoint of `paths` (newest first) that can be read; logs a warning for each one that cannot.

    Returns:
        Path and content of the checkpoint.

    Raises:
        CheckpointError: none can be loaded; its one line names them all.
    """
    problems: list[str] = []
    for path in paths:
        try:
            content = load(path, *needed)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; resuming from the previous checkpoint, %s, instead", problem, path)
        return path, content
    raise CheckpointError("; and ".join(problems))


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path | str) -> None:
    """Loads a state dict whose keys and shapes must match the module's exactly.

    Raises:
        CheckpointError: they do not match; the message gives the first differences, and the module is unchanged.
    """
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unknown or shapes:
        details = [f"{len(missing)} keys missing (first: {missing[0]})"] if missing else []
        details += [f"{len(unknown)} keys unknown (first: {unknown[0]})"] if unknown else []
        details += [
            f"{key}: expected {tuple(own[key].shape)}, got {tuple(state[key].shape)}" for key in sorted(shapes)[:1]
        ]
        raise CheckpointError(
            f"{source}: the weights belong to a different model: {'; '.join(details)}; use the config it was trained with"
        )
    module.load_state_dict(state)
