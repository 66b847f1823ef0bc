"""Loading of weight files of torchreid, fast-reid, BoT, timm and robust-reid, with conversion to the key names of this project.

Only tensors, plain Python types and NumPy numbers are read from a file; no code from it is ever executed.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from reid.errors import CheckpointError
from reid.files import check_zip

_NECK = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_NUMBERS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?", **{f"i{2**i}": "bhiq"[i] for i in range(4)}}
_NUMBERS |= {f"u{2**i}": "BHIQ"[i] for i in range(4)}  # NumPy's names of number types -> struct's


@dataclass(frozen=True)
class _Layout:
    """Key names of a toolkit: the prefixes of the backbone's keys, of a BNNeck's, and of the classifier's and the like."""

    name: str
    backbone: str
    necks: tuple[str, ...]
    heads: tuple[str, ...]


_OWN = _Layout("a run of robust-reid", "embedding.backbone.", ("embedding.neck.",), ("head.",))
_LAYOUTS = (
    _OWN,
    _Layout("fast-reid", "backbone.", ("heads.bottleneck.0.", "heads.bnneck."), ("heads.", "pixel_mean", "pixel_std")),
    _Layout("BoT", "base.", ("bottleneck.",), ("classifier.",)),
)
_PLAIN = _Layout("", "", (), ())  # the backbone's own key names: timm, torchvision, torchreid


@dataclass(frozen=True, eq=False)
class Weights:
    """Content of a weight file, by purpose.

    Args:
        path: the file.
        layout: the toolkit whose key names the file has; empty for the backbone's own names, as in timm, torchvision and torchreid.
        backbone: tensors by the backbone's own key names; all tensors of a plain state dict.
        neck: tensors of a BNNeck: weight, bias, running_mean, running_var (and num_batches_tracked), by these names.
        rest: tensors of a classifier and the like, by the key names of the file.
        about: metadata of a checkpoint of robust-reid (config, pids, step, names); empty for other files.
    """

    path: Path
    layout: str
    backbone: Mapping[str, Tensor]
    neck: Mapping[str, Tensor] = field(default_factory=dict)
    rest: Mapping[str, Tensor] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path | str) -> Weights:
    """Load a weight file onto the CPU.

    Args:
        path: `.safetensors`, or a file of `torch.save`: a state dict, bare or under `state_dict`, `model` or the like, or a
            checkpoint of robust-reid train, from which the weights for testing are taken.

    Raises:
        CheckpointError: the file is missing or damaged, holds anything but tensors, plain types and NumPy numbers, or has no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"model.weights: no such file: {path}; expected weights by torch.save, or .safetensors")
    try:
        if zipfile.is_zipfile(path):  # torch does not verify its checksums
            with open(path, "rb") as file:
                check_zip(file)
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with _numbers_allowed():
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:160]
        raise CheckpointError(
            f"model.weights: {path} cannot be read as tensors ({reason}); expected a state dict by torch.save, or "
            ".safetensors; pickled Python objects are refused: save the state_dict() of a model, not the model"
        ) from error
    state = _state_dict(content, path)
    layout = next((layout for layout in _LAYOUTS if any(key.startswith(layout.backbone) for key in state)), _PLAIN)
    about = {}
    if layout is _OWN and "pids" in content:
        if not isinstance(content.get("config", ""), str):
            raise CheckpointError(
                f"model.weights: {path}: expected its config as text, got {type(content['config']).__name__}"
            )
        about = {key: value for key, value in content.items() if key in ("config", "pids", "step", "names")}
    return _sorted(path, layout, state, about)


def tested_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a training checkpoint for testing, extraction and publishing: the moving average (EMA) if it has one."""
    return state["ema"] if "ema" in state else state["model"]


def load_neck(neck: nn.Module, weights: Weights) -> str:
    """Load the BNNeck of a weight file into a neck, if both have one.

    Returns:
        What was done, in words; empty if neither has one.

    Raises:
        CheckpointError: a tensor of the file's BNNeck is missing or has another shape.
    """
    if isinstance(neck, nn.Identity):
        return "its BNNeck is not loaded; set model.neck=bn to load it" if weights.neck else ""
    if not weights.neck:
        return "it has no BNNeck; the BNNeck starts untrained"
    own = neck.state_dict()
    given = {key: weights.neck.get(key, own[key] if key == "num_batches_tracked" else None) for key in own}
    for key, value in given.items():
        if value is None or value.shape != own[key].shape:
            got = "none" if value is None else tuple(value.shape)
            raise CheckpointError(
                f"model.weights: {weights.path}: {key} of its BNNeck: expected {tuple(own[key].shape)}, got {got}; set model.neck=none"
            )
    neck.load_state_dict(given)
    return "its BNNeck is loaded too"


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by key, without the key prefixes that wrappers (DataParallel, torch.compile) add."""
    state: Any = content
    if isinstance(content, dict):
        if "schema" in content and "pids" in content and "model" in content:
            state = tested_weights(content)
        else:
            nests = (content.get(key) for key in ("state_dict_ema", "model_ema", "state_dict", "model"))
            state = next((nested for nested in nests if isinstance(nested, dict)), content)
    tensors = (
        {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
        if isinstance(state, dict)
        else {}
    )
    if not tensors:
        found = [f"{key!s:.40}" for key in state] if isinstance(state, dict) else [type(state).__name__]
        raise CheckpointError(
            f"model.weights: {path} has no tensors at the top level or under 'state_dict' or 'model'; found {some(found)}"
        )
    return {_unwrapped(key): value for key, value in tensors.items()}


def _unwrapped(key: str) -> str:
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key


def _sorted(path: Path, layout: _Layout, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> Weights:
    """Sort tensors by purpose. A key that matches no prefix of the layout is kept with the backbone, which then fails to load."""
    backbone, neck, rest = {}, {}, {}
    for key, value in state.items():
        part = next((key.removeprefix(prefix) for prefix in layout.necks if key.startswith(prefix)), "")
        if part in _NECK:
            neck[part] = value
        elif layout.backbone and key.startswith(layout.backbone):
            backbone[key.removeprefix(layout.backbone)] = value
        elif layout.heads and key.startswith(layout.heads):
            rest[key] = value
        else:
            backbone[key] = value
    return Weights(path, layout.name, backbone, neck, rest, about)


def some(keys: Sequence[Any], shown: int = 3) -> str:
    """Join the first names, followed by how many more there are."""
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(map(str, keys[:shown])) + more


class _Dtype:
    """Replaces numpy.dtype; only the type code and the byte order are used."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(dtype: _Dtype, content: bytes) -> float | int | bool:
    """Replacement for NumPy's constructor of scalars, which would not check the content of the file."""
    if not isinstance(dtype, _Dtype) or dtype.code not in _NUMBERS:
        raise ValueError(f"a NumPy scalar of {getattr(dtype, 'code', dtype)!r:.40}, expected a number")
    [number] = struct.unpack((">" if dtype.order == ">" else "<") + _NUMBERS[dtype.code], content)
    return number


@contextmanager
def _numbers_allowed() -> Iterator[None]:
    """Let torch.load convert NumPy scalars, such as torchreid's `rank1`, to Python numbers without running code of NumPy."""
    makers: list[Any] = [(_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*makers, (_Dtype, "numpy.dtype")]):
        yield
