"""Test: evaluate a run's checkpoint, or features made by any model, under evaluation protocols."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from reid import experiment
from reid.augment import Preprocess
from reid.commands.extract import features_of
from reid.commands.run_report import Tested, write_run_report
from reid.commands.training_log import without_test
from reid.config import Config
from reid.datasets import presence
from reid.datasets.damaged import DamagedImages, write_list
from reid.datasets.joining import SAME_RECORDING
from reid.errors import DataError, counted
from reid.evaluation.evaluate import analyse, evaluate, evaluate_all
from reid.experiment import LabelledData, OfRun, Source
from reid.export.deployed import Exported
from reid.features import EvalResult, FeatureSet, beside, save_results
from reid.gallery import store
from reid.models.color_histogram import ColorHistogram
from reid.models.embedding import Classifier, Embedding
from reid.protocol import EvalProtocol, get_protocols
from reid.report.tables import analysis_text, markdown_row, percent, protocols_table, results_table
from reid.rundir import RunDirectory
from reid.runtime import Runtime, share_buffers, start
from reid.tracklets import Benchmark, IdNames

logger = logging.getLogger(__name__)


def run(
    model: Source,
    overrides: Sequence[str],
    protocol: str | None = None,
    *,
    json_file: Path | None = None,
    markdown: bool = False,
    full: bool = False,
    after: str | None = None,
) -> None:
    """Tests a network and prints the results; a run directory is not changed.

    Args:
        model: where to load the network from.
        overrides: overrides of its config for this machine, such as data root, device and workers.
        protocol: as for `get_protocols`: a name, `all`, or a YAML file; by default that of the config.
        json_file: file to write the results to as well.
        markdown: also print rows of a Markdown table.
        full: also compute confidence intervals, camera pairs and verification, printed and in `json_file`.
        after: post-processing of the ranking, `rerank` or `expand`; None for none.
    """
    config = model.config(overrides)
    experiment.check(config)
    protocols = get_protocols(protocol or config.test.protocols, any_camera=config.test.any_camera)
    with start(config.machine.device, config.machine.dtype) as runtime:
        trained = model.load(config, runtime)
        benchmark = tested_benchmark(model, config)
        test, policy = benchmark.test, config.data.damaged
        presence.require_images(test, presence.missing(test), policy, "remove the tracklet from the dataset")
        tested = []
        for part in with_queries(benchmark):
            features = benchmark_features(config, trained.embedding, trained.preprocess, part, runtime)
            baselines = baseline_results(config, part, runtime, protocols[0])
            tested.append((features, baselines, part.names, part.name if benchmark.parts else None))
        if runtime.is_main:
            _show(tested, protocols, json_file=json_file, markdown=markdown, full=full, after=after)


def tested_benchmark(model: Source, config: Config) -> Benchmark:
    """Loads the dataset to test on.

    From a table that the run was trained on, recognised by its file name, the test persons in the run's split.csv are used. From another
    table all persons are used, unless it has a column split.

    Raises:
        DataError: the dataset is missing, or has no queries.
    """
    then = model.config()
    drawn = RunDirectory(model.path).drawn() if isinstance(model, OfRun) else None
    by_table = experiment.drawn_by_table(then, drawn or {})
    benchmark = experiment.load_benchmark(config, experiment.drawn_again(config, by_table))
    for note in benchmark.notes:
        logger.info("%s: %s", benchmark.name, note)
    if not len(benchmark.query):
        raise DataError(without_test(benchmark))
    trained = {person for parts in by_table.values() for person, part in parts.items() if part != "test"}
    for one, part in zip(config.data.sets.values(), benchmark.tested, strict=True):
        if one.path is not None and Path(one.path).name not in by_table:
            _warn_of_trained(part, trained)
    if isinstance(model, OfRun):
        _warn_of_same_recording(then, config)
    return benchmark


def with_queries(benchmark: Benchmark) -> list[Benchmark]:
    """Returns the datasets that have queries; warns of the others if there are several."""
    for part in benchmark.parts:
        if not len(part.query):
            logger.warning("%s", without_test(part))
    return [part for part in benchmark.tested if len(part.query)]


def _warn_of_trained(benchmark: Benchmark, trained: Collection[str]) -> None:
    """Warns if persons of a table that the run was not trained on have the names of training persons."""
    tested = {benchmark.names.pid.get(pid, str(pid)) for pid in benchmark.test.pid.tolist() if pid > 0}
    if shared := sorted(tested.intersection(trained)):
        logger.warning(
            "%s: %s the same id as persons that the run was trained on, such as %s: if they are the same persons, the "
            "results are too good; give the rows to test on the split test",
            benchmark.name,
            counted(len(shared), "person has", "persons have"),
            shared[0],
        )


def _warn_of_same_recording(then: Config, now: Config) -> None:
    trained, tested = ({one.name for one in config.data.sets.values()} for config in (then, now))
    for name, other in permutations(SAME_RECORDING):
        if name in tested and other in trained and other not in tested:  # otherwise the joined dataset warns
            logger.warning(
                "%s: the run was trained on %s, which is the same recording: results are better than on people the model has never seen",
                name,
                other,
            )


def run_on_features(
    source: Path,
    protocols: Sequence[EvalProtocol],
    *,
    gallery_file: Path | None = None,
    leave_one_out: bool = False,
    json_file: Path | None = None,
    markdown: bool = False,
    full: bool = False,
    after: str | None = None,
) -> None:
    """Evaluates a feature file or folder made by any model; loads no model. The other options are as in `run`.

    Args:
        source: the features; with `gallery_file`, those of the queries only.
        protocols: evaluation protocols.
        gallery_file: features of the gallery, if they are in a separate file.
        leave_one_out: use every row except junk as a query against all other rows.

    Raises:
        DataError: the features are missing or damaged, or have no queries.
    """
    names = IdNames()
    if gallery_file is not None:
        features = beside(*(FeatureSet.load(file, leave_one_out=True) for file in (source, gallery_file)))
    elif source.is_dir():
        gallery = store.open_gallery(source)
        features, names = gallery.features, gallery.names
        if leave_one_out:
            everyone = np.flatnonzero(features.pid >= 0)
            features = replace(features, query=everyone, gallery=np.arange(len(features.pid)))
    else:
        features = FeatureSet.load(source, leave_one_out=leave_one_out)
    if not len(features.query):
        raise DataError(
            f"{source}: no query rows, so there is nothing to evaluate; add `query` to the .npz file, use "
            "--leave-one-out, or extract a dataset with queries"
        )
    _warn_of_nobody(source, features, protocols[0])
    tested = [(features, (), names, None)]
    _show(tested, protocols, json_file=json_file, markdown=markdown, full=full, after=after)


def _warn_of_nobody(source: Path, features: FeatureSet, protocol: EvalProtocol) -> None:
    """Warns of queries with pid 0, which match all distractors, or pid -1, which match nothing, and of their effect on mAP."""
    nobody = features.pid[features.query] <= 0
    if not nobody.any():
        return
    which = ", ".join(f"{count} of pid {'0' if zero else '-1'}" for zero, count in _counts(features) if count)
    effect = ""
    if not nobody.all():
        plain = replace(features, query=features.query[~nobody])
        scores = (percent(evaluate(held, protocol).mAP) for held in (features, plain))
        effect = "; mAP {} with them, {} without ({})".format(*scores, protocol.name)
    logger.warning(
        "%s: queries of no known person: %s; all queries of pid 0 count as one person%s", source, which, effect
    )


def _counts(features: FeatureSet) -> list[tuple[bool, int]]:
    pid = features.pid[features.query]
    return [(True, int((pid == 0).sum())), (False, int((pid < 0).sum()))]


# Features, baselines, names of persons and cameras, and the name of the dataset if there are several.
_Tested = tuple[FeatureSet, Sequence[tuple[str, EvalResult]], IdNames, str | None]


def _show(
    tested: Sequence[_Tested],
    protocols: Sequence[EvalProtocol],
    *,
    json_file: Path | None,
    markdown: bool,
    full: bool,
    after: str | None,
) -> None:
    everything: list[EvalResult] = []
    analyses: list[dict[str, Any]] = []
    for features, baselines, names, dataset in tested:
        results = _evaluated(features, protocols, dataset, after=after)
        _print(results, baselines, markdown=markdown)
        everything += results
        for result, analysis in zip(results, analyse(features, results), strict=True) if full else ():
            print(f"\n{analysis_text(result, analysis, names.camid)}")
            analyses.append(analysis)
    if json_file is not None:
        save_results(json_file, everything, analyses if full else None)


def _evaluated(
    features: FeatureSet, protocols: Sequence[EvalProtocol], dataset: str | None, *, after: str | None = None
) -> list[EvalResult]:
    return [replace(result, dataset=dataset) for result in evaluate_all(features, protocols, after=after)]


def finish_run(
    directory: RunDirectory,
    config: Config,
    model: Classifier,
    preprocess: Preprocess,
    data: LabelledData,
    runtime: Runtime,
    damaged: DamagedImages,
) -> None:
    """Tests the model at the end of training, and writes features.npz, eval.json and report.html to the run directory.

    If there are no queries, eval.json is an empty list, and the report covers only the training.

    Args:
        directory: the run directory.
        config: config of the run.
        model: the trained network.
        preprocess: its preprocessing.
        data: the dataset with the labels used for training.
        runtime: of this process.
        damaged: damaged images left out by training; those of the test are added, and damaged.csv lists both.
    """
    share_buffers(model)
    model.eval()
    protocols = get_protocols(config.test.protocols, any_camera=config.test.any_camera)
    found: list[tuple[Benchmark, FeatureSet, list[tuple[str, EvalResult]]]] = []
    for part in with_queries(data.benchmark):
        features = benchmark_features(config, model.embedding, preprocess, part, runtime, damaged)
        if runtime.is_main:
            # Saved before evaluation, so that the result of the slow extraction is not lost.
            features.save(directory.features_on(part.name if data.benchmark.parts else None))
        found.append((part, features, baseline_results(config, part, runtime, protocols[0])))
    left_out = damaged.of_all_processes(runtime.device)
    if not runtime.is_main:
        return
    write_list(directory.damaged, left_out)
    if not found:
        print(without_test(data.benchmark))
    tested = []
    for part, features, baselines in found:
        dataset = part.name if data.benchmark.parts else None
        results = _evaluated(features, protocols, dataset)
        _print(results, baselines)
        tested.append(
            Tested(part, features, results, [(name, replace(one, dataset=dataset)) for name, one in baselines])
        )
    save_results(directory.results, [result for one in tested for result in one.results])
    write_run_report(directory, config, model, preprocess, data, tested, runtime)
    print(f"report: {directory.report}")


def benchmark_features(
    config: Config,
    model: Embedding | Exported | ColorHistogram,
    preprocess: Preprocess,
    benchmark: Benchmark,
    runtime: Runtime,
    damaged: DamagedImages | None = None,
    label: str = "embedding",
) -> FeatureSet:
    """Extracts the features of a dataset's test tracklets, with its query and gallery rows; `label` is the text of the progress bar."""
    rows = {"query": benchmark.query, "gallery": benchmark.gallery}
    return features_of(config, model, preprocess, benchmark.test, runtime, damaged=damaged, label=label, **rows)


def baseline_results(
    config: Config, benchmark: Benchmark, runtime: Runtime, protocol: EvalProtocol
) -> list[tuple[str, EvalResult]]:
    """Evaluates the baselines: colour histograms of the whole crop and of its centre, where the person is, and random weights."""
    if not config.test.baselines:
        return []
    height, width = config.augment.resize
    whole, centre = (Preprocess([height, width], [height, w], [0.0] * 3, [1.0] * 3) for w in (width, width // 2))
    untrained, preprocess = experiment.build_embedding(config, initial_weights=False)
    models: dict[str, tuple[Embedding | ColorHistogram, Preprocess]] = {
        "colour histogram": (ColorHistogram(), whole),
        "colour histogram of the centre": (ColorHistogram(), centre),
        "random weights": (runtime.place(untrained), preprocess),
    }
    features = {
        name: benchmark_features(config, *model, benchmark, runtime, label=f"baseline: {name}")
        for name, model in models.items()
    }
    return [(name, evaluate(rows, protocol)) for name, rows in features.items()]


def _print(
    results: Sequence[EvalResult], baselines: Sequence[tuple[str, EvalResult]] = (), *, markdown: bool = False
) -> None:
    if results[0].dataset is not None:
        print(f"\n== {results[0].dataset} ==")
    if len(results) > 1:
        print(protocols_table(results), end="\n\n")
    for name, result in baselines:
        print(
            f"baseline {name}: {percent(result.mAP)} mAP, {percent(result.at_rank(1))} Rank-1 ({result.protocol.name})"
        )
    for result in results if markdown else ():
        print(markdown_row("this run" if result.dataset is None else f"this run, {result.dataset}", result))
    print(results_table(results[:1]))
