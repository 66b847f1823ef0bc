"""Extract: features of a dataset, a folder of tracklet folders, or a manifest, by the model of a run.

Shapes: T tracklets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reid import experiment
from reid.augment import Preprocess
from reid.config import Config
from reid.datasets.folders import detect_kind, load_folders, load_manifest
from reid.datasets.mars import load_mars
from reid.engine import checkpoint
from reid.engine.extract import extract, fingerprint
from reid.features import FeatureSet
from reid.gallery import store
from reid.models.color_histogram import ColorHistogram
from reid.models.embedding import Classifier, Embedding
from reid.models.pooling import POOLINGS
from reid.rundir import RunDirectory
from reid.runtime import Runtime, start
from reid.tracklets import Split

logger = logging.getLogger(__name__)


def run(
    run_path: Path, choice: str, overrides: Sequence[str], source: Path, kind: str, out: Path, *, overwrite: bool
) -> None:
    """Writes a feature folder.

    Args:
        run_path: directory of the trained run.
        choice: `last`, `best`, or a checkpoint's path.
        overrides: of the run's config, for this machine: the device, workers.
        source: what to embed.
        kind: `mars`, `folders`, `manifest`, or `auto` to find out.
        out: the folder to write.
        overwrite: replace a feature folder that is there.
    """
    directory = RunDirectory(run_path)
    config = directory.config(overrides)
    kind = detect_kind(source) if kind == "auto" else kind
    split, query, gallery = _tracklets(source, kind)
    store.require_free(out, overwrite=overwrite)
    logger.info("%s: %s with %d tracklets, %d frames", source, kind, len(split), split.num_frames)
    with start(config.machine.device, config.machine.dtype) as runtime:
        model, preprocess = load_model(config, directory.checkpoint(choice), runtime)
        features = features_of(config, model.embedding, preprocess, split, runtime, query=query, gallery=gallery)
        if runtime.is_main:
            steps = {"resize": preprocess.resize, "crop": preprocess.crop, "pooling": config.test.pooling}
            about = {
                "run": str(directory.path.absolute()),
                "checkpoint": choice,
                "preprocessing": steps,
                "source": str(source.absolute()),
            }
            store.write(out, features, split, about, overwrite=overwrite)


def _tracklets(source: Path, kind: str) -> tuple[Split, np.ndarray, np.ndarray]:
    """What to embed, and its query and gallery rows; only a dataset with a test protocol has queries."""
    if kind == "mars":
        benchmark = load_mars(source)
        return benchmark.test, benchmark.query, benchmark.gallery
    split = (load_folders if kind == "folders" else load_manifest)(source)
    return split, np.arange(0), np.arange(len(split))


def load_model(config: Config, file: Path, runtime: Runtime) -> tuple[Classifier, Preprocess]:
    """The trained network of a checkpoint, and the preprocessing that belongs to it."""
    state = checkpoint.load(file)
    embedding, preprocess = experiment.build_embedding(config, initial_weights=False)
    model = Classifier(embedding, len(state["pids"]))
    checkpoint.load_weights(model, state["model"], file)
    return runtime.place(model).eval(), preprocess


def features_of(
    config: Config,
    model: Embedding | ColorHistogram,
    preprocess: Preprocess,
    split: Split,
    runtime: Runtime,
    *,
    query: Sequence[int] | np.ndarray | None = None,
    gallery: Sequence[int] | np.ndarray | None = None,
) -> FeatureSet:
    """Features of all tracklets of a split; `query` and `gallery` are row numbers, all rows by default."""
    rows = np.arange(len(split))
    features = extract(
        model,
        preprocess,
        split,
        runtime,
        dim=model.num_features,
        pooling=POOLINGS[config.test.pooling],
        batch_size=config.test.batch_size,
        workers=config.machine.workers,
        progress=runtime.is_main,
    )
    return FeatureSet(
        features,
        split.pid,
        split.camid,
        query=rows if query is None else np.asarray(query),
        gallery=rows if gallery is None else np.asarray(gallery),
        key=np.array([split.key(i) for i in range(len(split))]),
        fingerprint=fingerprint(model, preprocess, config.test.pooling),
    )
