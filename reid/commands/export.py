"""Export: write a trained network as one file for other runtimes, kept only if its outputs agree with PyTorch's.

Shapes: N images, H W pixels of a resized image, D feature dimensions.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid import config as configs
from reid import experiment
from reid.augment import Preprocess
from reid.commands.test import tested_benchmark
from reid.config import Config
from reid.datasets.decoding import decode
from reid.datasets.images import images_in
from reid.errors import ConfigError, DataError, ReidError
from reid.evaluation.evaluate import evaluate
from reid.experiment import OfExport, OfRun, Source, Trained, known_noise, trained_on
from reid.export import deployed
from reid.export.deployed import Deployed, Run
from reid.export.onnx_file import require_packages
from reid.features import FeatureSet
from reid.files import atomic
from reid.models.fused import fused
from reid.protocol import get_protocols
from reid.report.tables import percent
from reid.rundir import RunDirectory
from reid.runtime import environment, start
from reid.tracklets import Benchmark, Split

logger = logging.getLogger(__name__)

SCHEMA = 1
DTYPES = ("float32", "fp16", "int8")
GUARD = 10  # allowed difference in multiples of float32's measured error; other orders of summation stay well below
FEW, MANY, CALIBRATION, EXACT = (
    64,
    500,
    64,
    8,
)  # images: to compare in float32, to compare in fp16 and int8, to calibrate int8, to measure float32's error in float64
TIE = 2e-5  # similarities that differ by less have no reliable order in float32
ORDER, LOSS = 0.99, 0.005  # for fp16 and int8: least share of pairs in the same order, most mAP lost (fraction)


@dataclass(frozen=True)
class Options:
    """Options of an export.

    Args:
        out: the file to write.
        format: one of `deployed.FORMATS`.
        preprocessing: `inside`: the input is resized uint8 RGB images; `outside`: normalised float32 images.
        dtype: one of `DTYPES`.
        images: folder of images to compare on instead of the test set.
        overwrite: replace an existing file.
    """

    out: Path
    format: str = "onnx"
    preprocessing: str = "inside"
    dtype: str = "float32"
    images: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Agreement:
    """Agreement of the file's outputs with PyTorch's on N images.

    Args:
        images: description of the images: N and their source.
        difference: largest absolute difference of two components of unit features.
        allowed: limit for `difference`; infinite for fp16 and int8, where `order` and `mAP` decide.
        order: see `same_order`.
        mAP: fractions, of PyTorch's features and of the file's, with one frame per tracklet; None if not measured.
    """

    images: str
    difference: float
    allowed: float
    order: float
    mAP: tuple[float, float] | None = None

    def __str__(self) -> str:
        limit = "" if np.isinf(self.allowed) else f" (allowed: {self.allowed:.2g})"
        order = f"{100 * self.order:.4g} % of pairs in the same order"
        score = f", mAP by single frames {percent(self.mAP[0])} and {percent(self.mAP[1])}" if self.mAP else ""
        return f"against PyTorch on {self.images}: largest difference {self.difference:.2g}{limit}, {order}{score}"


def run(source: Source, overrides: Sequence[str], options: Options) -> None:
    """Writes the file, compares it with PyTorch, keeps it if they agree, and prints its metadata.

    Args:
        source: where to load the network from.
        overrides: overrides of its config, such as the data root.
        options: options of the export.

    Raises:
        ReidError: the network cannot be exported like this, or the outputs differ too much; no file is left then.
    """
    _require_sense(source, options)
    config = configs.changed(source.config(overrides), ["machine.device=cpu", "machine.dtype=float32"], "override")
    with start(config.machine.device, config.machine.dtype) as runtime:
        trained = source.load(config, runtime)
        benchmark = None if options.images is not None else tested_benchmark(source, config)
        pixels, rows = _images(options, benchmark, trained.preprocess)
        model = _deployable(trained, options)
        about = json.dumps(_about(source, trained, model, options))
        with atomic(options.out) as temporary:
            deployed.write(model, options.format, temporary, about)
            if options.dtype == "int8":
                deployed.quantise(temporary, _calibration(source, config, trained.preprocess, model))
                deployed.set_metadata(temporary, about)
            call, told = deployed.load(temporary, options.format)
            agreement = _compared(trained, model, pixels, _outputs(call, model, pixels), rows, benchmark, options.dtype)
            _require_agreement(agreement, options)
    for name, value in json.loads(told).items():
        print(f"{name}: {value if isinstance(value, str) else json.dumps(value)}")
    print(f"{options.out}: {agreement}")


def _require_sense(source: Source, options: Options) -> None:
    if isinstance(source, OfExport):
        raise ConfigError(
            f"--weights {source}: already exported; expected the run or weight file that it was made from"
        )
    if options.format == "onnx":
        require_packages("--format onnx", "onnx", "onnxscript", "onnxruntime")
    if options.out.exists() and not options.overwrite:
        raise ConfigError(
            f"{options.out}: this file already exists; choose another --out, or use --overwrite to replace it"
        )
    if options.out.is_dir():
        raise ConfigError(f"{options.out}: is a folder; expected a file to write, such as {options.out / 'model.onnx'}")
    if options.dtype == "int8" and options.format != "onnx":
        raise ConfigError(f"--dtype int8: ONNX files only, got --format {options.format}; use --format onnx, or fp16")
    if options.dtype != "float32" and options.images is not None:
        raise ConfigError(
            f"--dtype {options.dtype}: is checked on the test set, not on --images; remove one of the two"
        )


def _images(options: Options, benchmark: Benchmark | None, preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N, H, W, 3) uint8 resized images, and (N,) their rows in the test set or their numbers in the folder."""
    if benchmark is None:
        assert options.images is not None
        if not options.images.is_dir():
            raise DataError(f"{options.images}: no such folder; expected one of images to compare on")
        paths = [options.images / name for name in images_in(options.images)]
        if len(paths) < 3:
            raise DataError(f"{options.images}: expected at least 3 images to compare on, got {len(paths)}")
        rows = _spread(np.arange(len(paths)), FEW)
        return _resized([paths[row] for row in rows], preprocess), rows
    most = FEW if options.dtype == "float32" else MANY
    rows = _spread(np.unique(np.concatenate([benchmark.query, benchmark.gallery])), most)
    return _resized(_middle_frames(benchmark.test, rows), preprocess), rows


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` evenly spaced elements of the rows."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def _middle_frames(split: Split, rows: np.ndarray) -> list[Path]:
    return [split.path(int(split.start[row] + split.stop[row]) // 2) for row in rows]


def _resized(paths: Sequence[Path], preprocess: Preprocess) -> np.ndarray:
    """Resizes images to uint8, as users do before they pass them to the file."""
    whole = Preprocess(preprocess.resize, preprocess.resize, [0.0] * 3, [1 / 255] * 3)
    images = [torch.from_numpy(decode(path)) for path in paths]
    return whole(images, torch.device("cpu")).permute(0, 2, 3, 1).round().clamp(0, 255).byte().contiguous().numpy()


def _deployable(trained: Trained, options: Options) -> Deployed:
    preprocess = trained.preprocess
    network = fused(trained.embedding, torch.zeros(1, 3, *preprocess.crop)).to(memory_format=torch.contiguous_format)
    sizes = (preprocess.resize, preprocess.crop)
    inside, half = options.preprocessing == "inside", options.dtype == "fp16"
    return Deployed(network, preprocess.mean, preprocess.std, *sizes, inside=inside, half=half)


def _about(source: Source, trained: Trained, model: Deployed, options: Options) -> dict[str, Any]:
    """Returns the metadata stored in the file."""
    preprocess, inside = trained.preprocess, options.preprocessing == "inside"
    (height, width), (h, w) = preprocess.resize, preprocess.crop
    steps = f"resize to {height} x {width} (height x width), bilinear with antialiasing"
    middle = "" if (h, w) == (height, width) else f", take the {h} x {w} pixels in the middle"
    rest = ", divide by 255, subtract mean, divide by std, channels first"
    return {
        "schema": SCHEMA,
        "made_by": f"robust-reid {_version()}, torch {environment()['torch']}",
        **({"opset": deployed.OPSET} if options.format == "onnx" else {}),
        **_made_from(trained),
        "network": trained.config.model.name,
        "fingerprint": trained.fingerprint,
        "input": {
            "name": "images",
            "shape": ["batch", *model.input_shape],
            "type": "uint8, 0 to 255" if inside else "float32",
            "colour_order": "RGB",
        },
        "output": {
            "features": {"shape": ["batch", trained.embedding.num_features], "type": "float32, unit length"},
            "length": {"shape": ["batch"], "type": "float32, of each feature before it was scaled to unit length"},
        },
        "preprocessing": options.preprocessing,
        "before_the_file": steps + ("" if inside else middle + rest),
        "resize": preprocess.resize,
        "crop": preprocess.crop,
        "mean": [round(value / 255, 7) for value in preprocess.mean.tolist()],  # float32 has seven digits
        "std": [round(value / 255, 7) for value in preprocess.std.tolist()],
        "tracklet_pooling": trained.config.test.pooling,
        "pooling": f"of a tracklet: the {trained.config.test.pooling} of length * features over its frames, scaled to unit length",
        "dtype": options.dtype,
        "trained_on": trained_on(trained.config) if isinstance(source, OfRun) else "unknown",
        "wrong_labels": known_noise(source, trained.config),
    }


def _made_from(trained: Trained) -> dict[str, Any]:
    """Returns the names of run and checkpoint, or of the weight file, without their folders: the file is for other machines."""
    return {key: Path(trained.about[key]).name for key in ("run", "checkpoint", "weights") if key in trained.about}


def _version() -> str:
    try:
        return version("robust-reid")
    except PackageNotFoundError:
        return "(a checkout)"


def _calibration(source: Source, config: Config, preprocess: Preprocess, model: Deployed) -> list[np.ndarray]:
    """Returns batches of training images to calibrate int8 with; the comparison uses test images."""
    if isinstance(source, OfRun):
        data = experiment.data_as_trained(config, RunDirectory(source.path))
    else:
        data = experiment.load_data(config)
    split = data.train.split
    pixels = _resized(_middle_frames(split, _spread(np.arange(len(split)), CALIBRATION)), preprocess)
    return [model.prepared(torch.from_numpy(part)).numpy() for part in _batches(pixels)]


def _batches(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for i in range(0, len(pixels), 16):
        yield pixels[i : i + 16]


def _outputs(call: Run, model: Deployed, pixels: np.ndarray) -> np.ndarray:
    """Returns the file's (N, D) features, computed in batches; the last batch may be smaller than the others."""
    parts = [call(model.prepared(torch.from_numpy(part)).contiguous().numpy())[0] for part in _batches(pixels)]
    return np.concatenate(parts)


@torch.inference_mode()
def _reference(trained: Trained, pixels: np.ndarray) -> np.ndarray:
    """Returns (N, D) unit features of the original PyTorch network, with the preprocessing of extraction."""
    device = next(trained.embedding.parameters()).device
    parts = (trained.embedding(trained.preprocess(torch.from_numpy(part), device)) for part in _batches(pixels))
    return torch.cat([torch.nn.functional.normalize(part) for part in parts]).numpy()


@torch.inference_mode()
def _error(model: Deployed, reference: np.ndarray, pixels: np.ndarray) -> float:
    """Returns the largest difference of float32 from float64 features on some images: the rounding error of this network here."""
    exact, some = copy.deepcopy(model).double(), torch.from_numpy(pixels[:EXACT])
    return float(np.abs(exact(exact.prepared(some))[0].numpy() - reference[:EXACT]).max())


def _compared(
    trained: Trained,
    model: Deployed,
    pixels: np.ndarray,
    outputs: np.ndarray,
    rows: np.ndarray,
    benchmark: Benchmark | None,
    dtype: str,
) -> Agreement:
    reference = _reference(trained, pixels)
    where = f"{len(pixels)} images" + ("" if benchmark is None else f" of the test set of {benchmark.name}")
    if not np.isfinite(outputs).all():
        return Agreement(where, float("nan"), 0.0, 0.0)
    allowed = float("inf")
    if dtype == "float32":  # for fp16 and int8, order and mAP decide
        allowed = GUARD * max(_error(model, reference, pixels), float(np.finfo(np.float32).eps))
    difference = float(np.abs(outputs - reference).max())
    scores = None
    if dtype != "float32" and benchmark is not None:
        scores = _scores(reference, outputs, rows, benchmark, trained.config)
    return Agreement(where, difference, allowed, same_order(reference, outputs), scores)


def same_order(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns how well two feature sets agree on rankings.

    For each row, the pairs of other rows are ordered by their similarity to it. The result is the share of pairs in the same order in
    both sets; pairs whose similarities in the reference differ by at most `TIE` do not count.

    Args:
        reference: (N, D) unit rows.
        other: likewise.

    Returns:
        In [0, 1]; 1 if all pairs are ties.
    """
    before, after = (features.astype(np.float64) @ features.T.astype(np.float64) for features in (reference, other))
    same = pairs = 0
    for row in range(len(before)):
        ours, theirs = (np.delete(similarity[row], row) for similarity in (before, after))
        order = np.subtract.outer(ours, ours)
        above = order > TIE  # each pair once
        same += int((np.subtract.outer(theirs, theirs)[above] > 0).sum())
        pairs += int(above.sum())
    return same / pairs if pairs else 1.0


def _scores(
    reference: np.ndarray, outputs: np.ndarray, rows: np.ndarray, benchmark: Benchmark, config: Config
) -> tuple[float, float] | None:
    """Returns mAP by both feature sets on the compared images; None if no query has a match among them."""
    protocol = get_protocols(config.test.protocols, any_camera=config.test.any_camera)[0]
    split = benchmark.test.select(rows)
    query, gallery = (np.flatnonzero(np.isin(rows, named)) for named in (benchmark.query, benchmark.gallery))
    if not len(query) or not len(gallery):
        return None
    results = [
        evaluate(FeatureSet(features, split.pid, split.camid, query, gallery), protocol).mAP
        for features in (reference, outputs)
    ]
    return None if results[0] is None or results[1] is None else (results[0], results[1])


def _require_agreement(agreement: Agreement, options: Options) -> None:
    """Checks that the file's outputs agree with PyTorch's.

    Raises:
        ReidError: they differ too much; the message says by how much.
    """
    least, score = 1.0 if options.dtype == "float32" else ORDER, agreement.mAP
    lost = score is not None and score[0] - score[1] > LOSS
    if agreement.difference <= agreement.allowed and agreement.order >= least and not lost:
        return
    wanted = f"at least {100 * least:g} % of pairs in the same order and at most {100 * LOSS:g} points of mAP lost"
    advice = "use another --format" if options.dtype == "float32" else "use --dtype float32"
    raise ReidError(f"{options.out}: not written: {agreement}; expected {wanted}; {advice}")
