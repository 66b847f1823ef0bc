"""Networks in ONNX files written by `robust-reid export`, run by ONNX Runtime on the CPU. This module does not import torch.

Shapes: N images, C = 3 channels, H W pixels of a resized image, h w pixels of the network's input, D feature.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reid.errors import CheckpointError, ConfigError

# Properties of the file: the metadata as JSON; the SHA-256 of metadata and network; the number of bytes of the network, which comes first,
# and of the whole file, because anything appended would change the network.
METADATA, CHECKSUM, LENGTH = "robust_reid", "robust_reid_sha256", "robust_reid_bytes"
_LARGEST = 2**13  # pixels of one side that images are resized to
_POOLINGS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "max": np.max,
}  # as in `reid.models.pooling`, without torch
_AT_ONCE = 8  # images at once, as in extraction: more do not fit the caches


def is_onnx(file: Path) -> bool:
    """Whether a weight file is an exported network, by its suffix."""
    return file.suffix.lower() == ".onnx"


def require_packages(what: str, *names: str) -> None:
    """Checks that the packages for ONNX are installed.

    Raises:
        ConfigError: naming the missing packages.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise ConfigError(f"{what}: needs {', '.join(missing)}; install with: pip install 'robust-reid[export]'")


def properties(metadata: str, network: bytes, total: int) -> dict[str, str]:
    """The properties of a file, whose lengths do not depend on `total`, its number of bytes."""
    checksum = hashlib.sha256(metadata.encode() + network).hexdigest()
    return {METADATA: metadata, CHECKSUM: checksum, LENGTH: f"{len(network):012d} of {total:012d}"}


def session(content: bytes, threads: int) -> tuple[Any, dict[str, str]]:
    """A network as a session of ONNX Runtime, and the properties of its file; any exception of ONNX Runtime if it is none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4  # fatal errors only: all are raised too
    made = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return made, made.get_modelmeta().custom_metadata_map


class OnnxNetwork:
    """A network in a file of `robust-reid export --format onnx --preprocessing outside`.

    Its features equal those of the exported network up to the rounding of float32, if it is a float32 file, and it then has the same
    fingerprint. Files of other number formats have a fingerprint of their own.

    Args:
        file: the file; nothing in it is executed except the operators of ONNX.
        threads: used for one forward pass; 0: as many as there are cores.
        content: of the file, if it has been read already.

    Attributes:
        content: of the file.
        about: the metadata.
        fingerprint: as in `gallery.json`.
        num_features: D.
        resize: (H, W).
        crop: (h, w).
        mean, std: (C,) float32 of red, green, blue in [0, 1].
        pooling: name of the pooling of frames to tracklets.

    Raises:
        CheckpointError: the file is missing, damaged, or not written by robust-reid export.
        ConfigError: onnxruntime is not installed, or the file takes images that are rounded to whole numbers.
    """

    def __init__(self, file: Path, *, threads: int = 0, content: bytes | None = None) -> None:
        require_packages(str(file), "onnxruntime")
        try:
            content = file.read_bytes() if content is None else content
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
        self.file, self.threads, self.content = file, threads, content
        try:
            self._session, told = session(content, threads)
        except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CheckpointError(
                f"{file}: not an ONNX file, or damaged: {reason[:200]}; export the network again"
            ) from None
        self.about = _checked(told, content, file)
        try:
            self._set(self.about)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file}: its metadata cannot be used ({type(error).__name__}: {error}); export the network again"
            ) from None
        if self.about["dtype"] != "float32":
            self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    def _set(self, about: dict[str, Any]) -> None:
        if about["preprocessing"] != "outside":
            raise ConfigError(
                f"{self.file}: exported with --preprocessing inside, whose input is rounded to whole numbers, so that its features differ "
                "from those of extraction; export with --preprocessing outside"
            )
        self.fingerprint, self.pooling = str(about["fingerprint"]), str(about["tracklet_pooling"])
        self.resize, self.crop = ((int(height), int(width)) for height, width in (about["resize"], about["crop"]))
        self.mean, self.std = (np.array(about[name], np.float32).reshape(3) for name in ("mean", "std"))
        self.num_features = int(about["output"]["features"]["shape"][1])
        [images], [features, _] = self._session.get_inputs(), self._session.get_outputs()
        if images.shape[1:] != [3, *self.crop] or features.shape[1:] != [self.num_features]:
            raise ValueError(f"it takes {images.shape} and gives {features.shape}")
        if (
            any(small > large for small, large in zip(self.crop, self.resize, strict=True))
            or max(self.resize) > _LARGEST
        ):
            raise ValueError(f"crop {self.crop} of {self.resize}")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise ValueError(f"mean {self.mean} and std {self.std}")
        if self.pooling not in _POOLINGS:
            raise ValueError(f"pooling {self.pooling!r}")

    def features(self, images_NChw: np.ndarray) -> np.ndarray:
        """(N, D) float32 features, not scaled to unit length, of normalised (N, C, h, w) float32 images; may run in several threads."""
        features_ND, length_N = self._session.run(["features", "length"], {"images": images_NChw})
        return features_ND * length_N[:, None]

    def embed_tracklet(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(D,) float32 unit feature of a tracklet's images, (any height, any width, C) uint8 RGB each, pooled as in extraction."""
        parts = [images[i : i + _AT_ONCE] for i in range(0, len(images), _AT_ONCE)]
        features = [self.features(np.stack([self._prepared(image) for image in part])) for part in parts]
        pooled_D = _POOLINGS[self.pooling](np.concatenate(features).astype(np.float64), axis=0)
        return (pooled_D / np.linalg.norm(pooled_D)).astype(np.float32)

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        """The (C, h, w) input for an image, resized as in `reid.augment`: bilinear with antialiasing, without rounding."""
        (height, width), (h, w) = self.resize, self.crop
        top, left = (height - h) // 2, (width - w) // 2
        channels = (Image.fromarray(np.ascontiguousarray(image[:, :, c], np.float32)) for c in range(3))
        pixels = np.stack([np.asarray(one.resize((width, height), Image.Resampling.BILINEAR)) for one in channels])
        crop = pixels[:, top : top + h, left : left + w]
        return (crop - 255 * self.mean[:, None, None]) / (255 * self.std[:, None, None])


def _checked(told: dict[str, str], content: bytes, file: Path) -> dict[str, Any]:
    """The metadata, if the file is the one that was written."""
    if METADATA not in told:
        raise CheckpointError(
            f"{file}: not written by robust-reid export, so its preprocessing and pooling are unknown; expected a file that was"
        )
    length = told.get(LENGTH, "")[:12]
    network = content[: int(length)] if re.fullmatch(r"\d{12}", length, re.ASCII) else b""
    if properties(told[METADATA], network, len(content)) != told:
        raise CheckpointError(f"{file}: damaged or changed since its export: wrong checksum; export the network again")
    about = json.loads(told[METADATA])
    if not isinstance(about, dict):
        raise CheckpointError(f"{file}: metadata: expected an object, got {type(about).__name__}")
    return about
