"""Checkpoints: tensors and plain Python types only, written atomically, read without executing pickles."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reid.errors import CheckpointError
from reid.files import atomic

SCHEMA = 1


def save(path: Path, **content: Any) -> None:
    """Writes a checkpoint.

    Args:
        path: where; the file appears whole or not at all.
        content: what; tensors, state dicts and plain Python types.
    """
    with atomic(path) as temporary:
        try:
            torch.save({"schema": SCHEMA, **content}, temporary)
        except RuntimeError as error:  # torch's own writer, where Python's would raise OSError
            raise CheckpointError(
                f"{path}: cannot write this checkpoint: {str(error).splitlines()[0]}; is the disk full?"
            ) from None


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of this project onto the CPU.

    Raises:
        CheckpointError: missing, damaged, of another program, or of a newer schema.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; expected a file written by tools/train.py")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums that torch.save writes
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"checksum of {damaged} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of tensors and plain types: {reason}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected a checkpoint of tools/train.py with schema {SCHEMA}, got {found}")
    return content


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
