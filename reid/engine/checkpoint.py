"""Checkpoints: tensors and plain Python types only, written atomically, proven before they replace another, read without
executing pickles.
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
    """Writes a checkpoint, reads it back against its checksums, and only then puts it in its place.

    Args:
        path: where; what stood there stays until the new file is proven and on the disk.
        previous: what stood at `path` before is kept here. A kill between the two renames leaves this file alone: see `load_first`.
        content: what; tensors, state dicts and plain Python types.

    Raises:
        DataError: it cannot be written. CheckpointError: it did not reach the disk as it is.
    """
    with atomic(path) as temporary:
        try:
            torch.save({"schema": SCHEMA, **content}, temporary)
            verify_checksums(temporary)
        except (
            RuntimeError,
            zipfile.BadZipFile,
        ) as error:  # torch's own writer raises the one where Python's would raise OSError
            raise CheckpointError(
                f"{path}: cannot write this checkpoint: {str(error).splitlines()[0]}; is the disk full?"
            ) from None
        flush_to_disk(temporary)
        if previous is not None and path.exists():
            os.replace(path, previous)
    with contextlib.suppress(
        OSError
    ):  # some file systems cannot sync a folder; after a loss of power the renames may then be undone
        _sync_names(path.parent)


def verify_checksums(path: Path) -> None:
    """Compares a checkpoint with the checksums that torch.save wrote into it, and that torch.load does not look at.

    Raises:
        zipfile.BadZipFile: it differs. OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        check_zip(file)


def _sync_names(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path, *needed: str) -> dict[str, Any]:
    """Reads a checkpoint of this project onto the CPU.

    Args:
        path: the file.
        needed: names of what must be in it.

    Raises:
        CheckpointError: missing, damaged, of another program, or of a newer schema; or an entry is missing or of another type.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; expected a file written by robust-reid train")
    try:
        verify_checksums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of tensors and plain types: {reason}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        found = f"{schema!r:.40}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected a checkpoint of robust-reid train with schema {SCHEMA}, got {found}")
    if missing := [name for name in needed if name not in content]:
        raise CheckpointError(f"{path}: expected {', '.join(needed)} in this checkpoint, found no {missing[0]}")
    for name, is_right in _TYPES.items():
        if name in content and not is_right(content[name]):
            raise CheckpointError(
                f"{path}: {name} in it is of no type that robust-reid train writes; take another checkpoint"
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
    """The first checkpoint that can be read, newest first; says which could not and which is taken instead.

    Raises:
        CheckpointError: none can; one line names them all.
    """
    problems: list[str] = []
    for path in paths:
        try:
            content = load(path, *needed)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; going on from %s instead, the checkpoint before it", problem, path)
        return path, content
    raise CheckpointError("; and ".join(problems))


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path | str) -> None:
    """Loads a state dict that must match key for key and shape for shape.

    Raises:
        CheckpointError: naming the first differences; the module is then unchanged.
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
            f"{source}: weights of another model: {'; '.join(details)}; use the config it was trained with"
        )
    module.load_state_dict(state)
