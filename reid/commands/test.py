"""Test: a run's checkpoint, or features made by any model, under the protocols.

Shapes: N tracklets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reid import experiment
from reid.augment import Preprocess
from reid.commands.extract import features_of, load_model
from reid.commands.run_report import write_run_report
from reid.config import Config
from reid.engine.extract import fingerprint
from reid.errors import DataError
from reid.evaluation.evaluate import evaluate, evaluate_all
from reid.features import EvalResult, FeatureSet, save_results
from reid.gallery import store
from reid.models.color_histogram import ColorHistogram
from reid.models.embedding import Embedding
from reid.protocol import EvalProtocol, get_protocols
from reid.report.tables import percent, protocols_table, results_table
from reid.rundir import RunDirectory
from reid.runtime import Runtime, start
from reid.tracklets import Benchmark

logger = logging.getLogger(__name__)


def run(
    run_path: Path, choice: str, overrides: Sequence[str], protocol: str | None = None, json_file: Path | None = None
) -> None:
    """Tests one checkpoint of a run.

    Args:
        run_path: the run directory.
        choice: `last`, `best`, or a checkpoint's path.
        overrides: of the run's config, for this machine: where the data is, the device, workers.
        protocol: a protocol's name, or `all`; the run's own by default.
        json_file: gets the results too.
    """
    directory = RunDirectory(run_path)
    config = directory.config(overrides)
    experiment.check(config)
    protocols = get_protocols(protocol or config.test.protocols)
    with start(config.machine.device, config.machine.dtype) as runtime:
        results = test_checkpoint(directory, directory.checkpoint(choice), config, runtime, protocols)
        if json_file is not None and runtime.is_main:
            save_results(json_file, results)


def run_on_features(source: Path, protocol: str, json_file: Path | None = None) -> None:
    """Evaluates a feature file or folder, made by any model; none is loaded."""
    protocols = get_protocols(protocol)
    features = store.read(source) if source.is_dir() else FeatureSet.load(source)
    if not len(features.query):
        raise DataError(
            f"{source}: no query rows, so nothing to evaluate; give `query` in an .npz file, or extract a dataset with queries"
        )
    results = evaluate_all(features, protocols)
    _print(results)
    if json_file is not None:
        save_results(json_file, results)


def test_checkpoint(
    directory: RunDirectory, file: Path, config: Config, runtime: Runtime, protocols: Sequence[EvalProtocol]
) -> list[EvalResult]:
    """Extracts the test tracklets and evaluates them; testing `last` also writes eval.json and report.html.

    Args:
        directory: of the run; features are kept there, and used again while model and preprocessing are the same.
        file: the checkpoint.
        config: the run's, with this machine's settings.
        runtime: this process.
        protocols: at least one; the first is the report's headline.
    """
    benchmark = experiment.load_benchmark(config)
    model, preprocess = load_model(config, file, runtime)
    is_last = file == directory.last
    features = _features(
        directory.features if is_last else None, model.embedding, preprocess, benchmark, config, runtime
    )
    baselines = {}
    if config.test.baselines:
        baselines = {
            name: _features(directory.baseline(name), model, steps, benchmark, config, runtime)
            for name, (model, steps) in _baseline_models(config, runtime).items()
        }
    if not runtime.is_main:
        return []
    results = evaluate_all(features, protocols)
    beside = [(name, evaluate(baseline, protocols[0])) for name, baseline in baselines.items()]
    if is_last:
        save_results(directory.results, results)
        write_run_report(directory, config, model, preprocess, features, results, beside, runtime)
    _print(results, beside)
    if is_last:
        print(f"report: {directory.report}")
    return results


def _baseline_models(config: Config, runtime: Runtime) -> dict[str, tuple[Embedding | ColorHistogram, Preprocess]]:
    """What a trained network must beat: colours of the whole crop, colours where the person is, and itself before training."""
    height, width = config.augment.resize
    whole, centre = (Preprocess([height, width], [height, w], [0.0] * 3, [1.0] * 3) for w in (width, width // 2))
    untrained, preprocess = experiment.build_embedding(config, initial_weights=False)
    return {
        "colour histogram": (ColorHistogram(), whole),
        "colour histogram of the centre": (ColorHistogram(), centre),
        "untrained": (runtime.place(untrained), preprocess),
    }


def _features(
    file: Path | None,
    model: Embedding | ColorHistogram,
    preprocess: Preprocess,
    benchmark: Benchmark,
    config: Config,
    runtime: Runtime,
) -> FeatureSet:
    """Features of the test tracklets, from `file` when it holds the same ones already."""
    if file is not None and file.exists():
        stored = FeatureSet.load(file)
        keys = np.array([benchmark.test.key(i) for i in range(len(benchmark.test))])
        same_model = stored.fingerprint == fingerprint(model, preprocess, config.test.pooling)
        if (
            same_model
            and stored.key is not None
            and np.array_equal(stored.key, keys)
            and np.array_equal(stored.query, benchmark.query)
        ):
            logger.info("using %s: same model, preprocessing and tracklets", file)
            return stored
    features = features_of(
        config, model, preprocess, benchmark.test, runtime, query=benchmark.query, gallery=benchmark.gallery
    )
    if file is not None and runtime.is_main:
        features.save(file)
    return features


def _print(results: Sequence[EvalResult], baselines: Sequence[tuple[str, EvalResult]] = ()) -> None:
    if len(results) > 1:
        print(protocols_table(results), end="\n\n")
    for name, result in baselines:
        print(
            f"baseline {name}: {percent(result.mAP)} mAP, {percent(result.at_rank(1))} Rank-1 ({result.protocol.name})"
        )
    print(results_table(results[:1]))
