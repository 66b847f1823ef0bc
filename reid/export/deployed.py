"""Export of a trained network to one file (ONNX, TorchScript or torch.export), and loading of such a file.

Shapes: B batch, C channels, H W pixels of a resized image, h w pixels of the network's input, D feature.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reid.errors import ReidError
from reid.export import onnx_file
from reid.export.onnx_file import OnnxNetwork

FORMATS = ("onnx", "torchscript", "torch-export")
OPSET = 20  # of ONNX: read by ONNX Runtime 1.17 (2024) and later
METADATA = "metadata.json"  # extra file for the metadata in the two formats of torch; ONNX has a field for it

Run = Callable[
    [np.ndarray], tuple[np.ndarray, np.ndarray]
]  # input of the file -> (B, D) unit rows, (B,) their norms before normalisation


class Deployed(nn.Module):
    """Images -> unit features (B, D) float32, as extraction computes them for single frames, and their norms (B,) before normalisation.

    The norms are needed for tracklets, whose features are pooled before they are scaled to unit length.

    Args:
        network: (B, C, h, w) -> (B, D); it is copied and set to evaluation mode.
        mean: of red, green, blue in 0..255.
        std: of red, green, blue in 0..255.
        resize: (H, W) of the resized images.
        crop: (h, w) of the network's input, the centre crop.
        inside: the input is (B, H, W, C) uint8 RGB, which is cropped and normalised here; else (B, C, h, w) float32, normalised.
        half: the network computes in float16.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Tensor,
        std: Tensor,
        resize: Sequence[int],
        crop: Sequence[int],
        *,
        inside: bool,
        half: bool = False,
    ) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval().requires_grad_(False)
        self.network = network.half() if half else network
        self.mean, self.std = nn.Buffer(mean.clone().float()), nn.Buffer(std.clone().float())
        self.resize, self.crop, self.inside, self.half_precision = tuple(resize), tuple(crop), inside, half
        self.eval()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input image of the file."""
        return (*self.resize, 3) if self.inside else (3, *self.crop)

    def prepared(self, pixels_BHWC: Tensor) -> Tensor:
        """Convert resized uint8 images to the input of the file."""
        return pixels_BHWC if self.inside else self._normalised(pixels_BHWC)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images_BChw = self._normalised(images) if self.inside else images
        images_BChw = images_BChw.half() if self.half_precision else images_BChw.to(self.mean.dtype)
        features_BD = self.network(images_BChw).to(self.mean.dtype)
        return nn.functional.normalize(features_BD), torch.linalg.vector_norm(features_BD, dim=1)

    def _normalised(self, pixels_BHWC: Tensor) -> Tensor:
        top, left = ((whole - part) // 2 for whole, part in zip(self.resize, self.crop, strict=True))
        crops_BhwC = pixels_BHWC[:, top : top + self.crop[0], left : left + self.crop[1]]
        return ((crops_BhwC.to(self.mean.dtype) - self.mean) / self.std).permute(0, 3, 1, 2)


class Exported(nn.Module):
    """An exported ONNX file as a network: normalised images (B, C, h, w) float32 on the CPU -> features (B, D), not of unit length.

    It has no parameters. A copy is the module itself; pickling stores the file's content.
    """

    def __init__(self, network: OnnxNetwork) -> None:
        super().__init__()
        self.network, self.num_features, self.fingerprint = network, network.num_features, network.fingerprint

    def forward(self, images_BChw: Tensor) -> Tensor:
        return torch.from_numpy(self.network.features(images_BChw.contiguous().numpy()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Exported:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _exported, (self.network.file, self.network.threads, self.network.content)


def _exported(file: Path, threads: int, content: bytes) -> Exported:
    return Exported(OnnxNetwork(file, threads=threads, content=content))


def write(model: Deployed, format: str, path: Path, metadata: str) -> None:
    """Write the file; its batch size is dynamic.

    Args:
        model: on the CPU.
        format: one of `FORMATS`.
        path: the file; its suffix does not matter.
        metadata: JSON text to store in the file: in ONNX as the property `onnx_file.METADATA`, else as the extra file `METADATA`.

    Raises:
        ReidError: the network cannot be exported to this format.
    """
    pixels_BHWC = torch.zeros(
        2, *model.resize, 3, dtype=torch.uint8
    )  # with a single image, tracing would fix the batch size
    example = model.prepared(pixels_BHWC)
    try:
        with _quiet(), torch.no_grad():
            _WRITERS[format](model, example, path, metadata)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ReidError(
            f"--format {format}: this network cannot be exported in this format: {type(error).__name__}: {reason}; try another format"
        ) from error


def _write_onnx(model: Deployed, example: Tensor, path: Path, metadata: str) -> None:
    batch = {"images": {0: torch.export.Dim("batch")}}
    names = {"input_names": ["images"], "output_names": ["features", "length"]}
    how = {"opset_version": OPSET, "dynamo": True, "external_data": False, "verbose": False}
    torch.onnx.export(model, (example,), path, dynamic_shapes=batch, **names, **how)  # type: ignore[arg-type]
    set_metadata(path, metadata)


def _write_torchscript(model: Deployed, example: Tensor, path: Path, metadata: str) -> None:
    torch.jit.save(torch.jit.trace(model, example), path, _extra_files={METADATA: metadata})


def _write_torch_export(model: Deployed, example: Tensor, path: Path, metadata: str) -> None:
    program = torch.export.export(model, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    content = io.BytesIO()  # torch.export.save requires a suffix for paths
    torch.export.save(program, content, extra_files={METADATA: metadata})
    path.write_bytes(content.getvalue())


_WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript, "torch-export": _write_torch_export}


def set_metadata(path: Path, metadata: str) -> None:
    """Set the metadata of an ONNX file and its checksum, replacing any that are there.

    They are appended to the network: two protobuf messages one after the other are read as one.
    """
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    network = model.SerializeToString()
    tail = b""
    for _ in range(2):  # the first one tells how long the file is
        properties = onnx.ModelProto()
        total = len(network) + len(tail)
        onnx.helper.set_model_props(properties, onnx_file.properties(metadata, network, total))
        tail = properties.SerializeToString()
    path.write_bytes(network + tail)


def load(path: Path, format: str, *, threads: int = 0) -> tuple[Run, str]:
    """Load a file of `write`; return it as a function on the CPU, and its metadata.

    Args:
        path, format: as for `write`.
        threads: number of threads of ONNX Runtime; 0: as many as there are cores.
    """
    if format == "onnx":
        session, properties = onnx_file.session(path.read_bytes(), threads)
        return lambda images: tuple(session.run(["features", "length"], {"images": images})), properties[
            onnx_file.METADATA
        ]
    extra: dict[str, Any] = {METADATA: ""}
    with _quiet():
        if format == "torchscript":
            model: Any = torch.jit.load(path, _extra_files=extra)
        else:
            model = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra).module()

    @torch.inference_mode()
    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features, length = model(torch.from_numpy(images))
        return features.numpy(), length.numpy()

    told = extra[METADATA]
    return run, told.decode() if isinstance(told, bytes) else told


def quantise(path: Path, images: Sequence[np.ndarray]) -> None:
    """Quantise weights and activations of an ONNX file to 8-bit integers, in place; its metadata is lost.

    Args:
        path: a float32 file.
        images: batches of its input, to calibrate the ranges of activations.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, np.ndarray]] = iter([{"images": batch} for batch in images])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self._left, None)

    prepared = path.with_name(f"{path.name}.prepared")
    try:
        with _quiet():
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(prepared, path, Reader(), per_channel=True)
    finally:
        prepared.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporters: they warn that they are deprecated or trace, and log each pass. `robust-reid export` checks outputs instead."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "root")
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
