"""Python interface to a trained network: features of images, tracklets and detections, with the preprocessing of extraction.

Shapes: N images, T tracklets, Q queries, G gallery, H W pixels, D feature.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reid.datasets.decoding import decode, rgb_of
from reid.datasets.images import WIDE
from reid.errors import ConfigError, DataError
from reid.experiment import published
from reid.experiment.trained import Source, Trained
from reid.models.fused import fused
from reid.models.pooling import POOLINGS
from reid.runtime import Runtime, alone

logger = logging.getLogger(__name__)

Colour: TypeAlias = Literal["rgb", "bgr"]
Picture: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor"
_AT_ONCE = 8  # images per forward pass on a CPU, as in extraction


class Detections(Protocol):
    """Boxes that a detector or tracker found in one frame, such as supervision's `Detections`; only `xyxy` is used."""

    xyxy: Any
    """(N, 4) left, top, right, bottom in pixels."""


class Embedder:
    """A trained network that embeds images; create it with `reid.load`.

    Images are paths, Pillow images, or arrays (H, W, 3) of uint8 or of floats in [0, 1]. Arrays are RGB; for those of OpenCV give
    `colour="bgr"`. Each image shows one person.
    """

    def __init__(self, trained: Trained, source: Source, runtime: Runtime) -> None:
        self._trained, self._source, self._runtime = trained, source, runtime
        crop = torch.zeros(1, 3, *trained.preprocess.crop, device=runtime.device)
        self._network: nn.Module = fused(trained.embedding, crop)

    def __repr__(self) -> str:
        config = self._trained.config
        height, width = config.augment.crop
        return f"Embedder of {self._source}: {config.model.name}, {height} x {width} pixels to {self.num_features} features"

    @classmethod
    def load(cls, source: str | Path, *, checkpoint: str = "last", device: str = "auto") -> Embedder:
        """Loads a network, as `reid.load` does."""
        found = published.find(source, checkpoint)
        config = found.config([f"machine.device={json.dumps(device)}"])
        runtime = alone(config.machine.device, config.machine.dtype)
        return cls(found.load(config, runtime), found, runtime)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str = "auto") -> Embedder:
        """Loads what `save_pretrained` wrote: a folder, or an id of the Hugging Face hub."""
        return cls.load(source, device=device)

    @property
    def num_features(self) -> int:
        """Feature dimension D."""
        return self._trained.embedding.num_features

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a feature depends on, as in `gallery.json`: features with different fingerprints must not be mixed."""
        return self._trained.fingerprint

    def embed(self, images: Picture | Iterable[Picture], *, colour: Colour = "rgb") -> np.ndarray:
        """Computes the features of images.

        Args:
            images: any number of images, or a single one.
            colour: channel order of arrays; ignored for paths and Pillow images.

        Returns:
            (N, D) float32 rows of unit norm.

        Raises:
            DataError: an image is missing or damaged, or an array has another shape, type or range.
            ConfigError: `colour` is neither rgb nor bgr.
        """
        features = [*self._features(self._pixels(images, colour))]
        return _unit(torch.cat(features)) if features else np.zeros((0, self.num_features), np.float32)

    def embed_tracklets(self, tracklets: Iterable[Iterable[Picture]], *, colour: Colour = "rgb") -> np.ndarray:
        """Computes the features of tracklets, pooled over all their frames as in extraction.

        Args:
            tracklets: the images of each tracklet, at least one.
            colour: as in `embed`.

        Returns:
            (T, D) float32 rows of unit norm.

        Raises:
            DataError: as in `embed`, or a tracklet has no image.
        """
        rows = []
        for number, images in enumerate(tracklets):
            pool = POOLINGS[self._trained.config.test.pooling](1, self.num_features)
            count = 0
            for features in self._features(self._pixels(images, colour, f"tracklet {number}, ")):
                pool.add(features, torch.zeros(len(features), dtype=torch.int64))
                count += len(features)
            if not count:
                raise DataError(f"tracklet {number}: expected at least one image, got none")
            rows.append(pool.result())
        return _unit(torch.cat(rows)) if rows else np.zeros((0, self.num_features), np.float32)

    def embed_detections(self, image: Picture, detections: Detections, *, colour: Colour = "rgb") -> np.ndarray:
        """Computes the features of the detections in one frame.

        Args:
            image: the whole frame.
            detections: an object with boxes `xyxy`, such as supervision's `Detections`; parts outside of the frame are cut off.
            colour: as in `embed`.

        Returns:
            (N, D) float32 rows of unit norm, in the order of the boxes.

        Raises:
            DataError: as in `embed`, or a box is invalid or lies outside of the frame.
        """
        frame = _pixels_of(image, colour, "image")
        boxes = np.asarray(getattr(detections, "xyxy", None), np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise DataError(f"detections: expected boxes `xyxy` of shape (N, 4), got {boxes.shape}")
        crops = [_crop(frame, box, number) for number, box in enumerate(boxes)]
        return self.embed(crops)

    def similarity(self, features: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
        """Computes cosine similarities.

        Args:
            features: (Q, D) rows of unit norm, as from `embed`.
            others: (G, D) rows of unit norm; `features` themselves by default.

        Returns:
            (Q, G) float32, in [-1, 1] up to rounding.

        Raises:
            DataError: the rows do not have this network's D dimensions.
        """
        others = features if others is None else others
        for given in (features, others):
            if given.ndim != 2 or given.shape[1] != self.num_features:
                raise DataError(f"similarity: expected features (N, {self.num_features}), got {given.shape}")
        return features @ others.T

    def save_pretrained(self, folder: str | Path, *, licence: str | None = None) -> None:
        """Saves weights (safetensors), settings (JSON) and a model card, for `reid.load` and for the Hugging Face hub.

        The card describes training data, wrong labels, protocol and results; review it before publishing it.

        Args:
            folder: created if it does not exist.
            licence: of the weights, such as `cc-by-nc-4.0`; None: the card states that none was given.

        Raises:
            ReidError: the folder is a run directory, or cannot be written.
        """
        published.write(Path(folder), self._trained, self._source, licence)

    def _pixels(self, images: Picture | Iterable[Picture], colour: Colour, where: str = "") -> Iterator[np.ndarray]:
        alone = isinstance(images, (str, Path, Image.Image)) or getattr(images, "ndim", 0) in (2, 3)
        wide = 0
        for number, image in enumerate([images] if alone else images):  # type: ignore[arg-type]
            pixels = _pixels_of(image, colour, f"{where}image {number}")
            height, width = pixels.shape[:2]
            wide += width > WIDE * height
            if wide == 1 and width > WIDE * height:
                logger.warning(
                    "%simage %d: %d x %d is much wider than a person: is it a full frame? Crop the person first",
                    where,
                    number,
                    width,
                    height,
                )
            yield pixels

    def _features(self, images: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """(n, D) float32 features on the CPU, one batch at a time, not normalised to unit norm."""
        device = self._runtime.device
        at_once = _AT_ONCE if device.type == "cpu" else self._trained.config.test.batch_size
        batch: list[Tensor] = []
        for pixels in images:
            batch.append(torch.from_numpy(pixels))
            if len(batch) == at_once:
                yield self._forward(batch)
                batch = []
        if batch:
            yield self._forward(batch)

    @torch.inference_mode()
    def _forward(self, images: list[Tensor]) -> Tensor:
        same = all(image.shape == images[0].shape for image in images)
        with self._runtime.autocast():
            inputs = self._trained.preprocess(torch.stack(images) if same else images, self._runtime.device)
            return self._network(inputs).float().cpu()


def _unit(features_ND: Tensor) -> np.ndarray:
    return nn.functional.normalize(features_ND.double()).float().numpy()


def _pixels_of(image: Picture, colour: Colour, where: str) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB."""
    if colour not in ("rgb", "bgr"):
        raise ConfigError(f"colour: expected 'rgb' or 'bgr', got {colour!r}")
    if isinstance(image, (str, Path)):
        return decode(image)
    if isinstance(image, Image.Image):
        try:
            return rgb_of(image)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        raise DataError(f"{where}: expected a path, a Pillow image or an array, got {type(image).__name__}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(f"{where}: expected an array (height, width, 3), got {array.shape}{_advice(array.shape)}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN fails both comparisons
            raise DataError(
                f"{where}: expected floats in [0, 1], got {low:g} to {high:g}; use uint8 for values of 0 to 255"
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise DataError(f"{where}: expected uint8, or floats in [0, 1], got {array.dtype}")
    return np.require(array[:, :, ::-1] if colour == "bgr" else array, requirements=["C", "W"])  # as torch needs it


def _advice(shape: Sequence[int]) -> str:
    if len(shape) == 3 and shape[0] == 3:
        return "; channels come last: image.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[2] == 4:
        return "; drop the fourth channel: image[:, :, :3]"
    if len(shape) == 2:
        return "; for a grey image use np.stack([image] * 3, axis=2)"
    return ""


def _crop(frame: np.ndarray, box: np.ndarray, number: int) -> np.ndarray:
    """The part of a frame inside a box, extended to whole pixels."""
    height, width = frame.shape[:2]
    if np.isfinite(box).all():
        left, top = (max(0, int(np.floor(edge))) for edge in box[:2])
        right, bottom = (min(most, int(np.ceil(edge))) for edge, most in zip(box[2:], (width, height), strict=True))
        if right > left and bottom > top:
            return np.ascontiguousarray(frame[top:bottom, left:right])
    raise DataError(
        f"detections: box {number}: expected left < right and top < bottom inside {width} x {height} pixels, got {box.tolist()}"
    )
