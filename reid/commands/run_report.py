"""The run's report: collect the content of the page from the run directory, the dataset and the features.

Shapes: N training tracklets sampled.
"""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from reid import experiment
from reid.augment import Preprocess
from reid.config import Component, Config
from reid.datasets.damaged import DamagedImages, read_list
from reid.datasets.decoding import decode
from reid.datasets.folders import detect_kind
from reid.datasets.loader import load_batches
from reid.engine.evidence import late_confidence
from reid.engine.objective import SumOfLosses
from reid.engine.train import TrainingSet
from reid.errors import DataError, counted
from reid.evaluation.ranking import rank
from reid.experiment import LabelledData
from reid.features import EvalResult, FeatureSet
from reid.losses import CCE, IMAE, MAE
from reid.models.embedding import Classifier
from reid.report.records import Kind, RankedList, ReportInput, Thumbnail
from reid.report.run_page import write_report
from reid.rundir import RunDirectory
from reid.runtime import Runtime, environment
from reid.tracklets import Benchmark, IdNames, Split

LISTS = 4  # best and worst queries shown
HITS = 8  # ranks shown per query
SUSPECTS = 10  # training tracklets shown, those with the lowest probability of their label
SAMPLED = 2000  # training tracklets in the histogram of probabilities


class Tested(NamedTuple):
    """Test results of one dataset; `results[0]` is the headline result, `baselines` are named results of untrained models."""

    benchmark: Benchmark
    features: FeatureSet
    results: Sequence[EvalResult]
    baselines: Sequence[tuple[str, EvalResult]]


def write_run_report(
    directory: RunDirectory,
    config: Config,
    model: Classifier,
    preprocess: Preprocess,
    data: LabelledData,
    tested: Sequence[Tested],
    runtime: Runtime,
) -> None:
    """Writes report.html to the run directory; the first dataset's headline result selects the queries shown."""
    best, worst = _best_and_worst(tested[0].features, tested[0].benchmark, tested[0].results[0]) if tested else ([], [])
    results = [result for one in tested for result in one.results]
    loss = " + ".join(_in_words(component) for component in config.losses)
    minutes = sum(row["seconds"] for row in directory.read_metrics()) / 60
    facts = {
        f"{name.capitalize()} set": ", ".join(map(counted, numbers, ("person", "tracklet", "frame", "camera")))
        for name, *numbers in data.benchmark.summary()
    }
    if not results:
        facts["Evaluated"] = "nothing: the dataset has no queries"
    if left_out := read_list(directory.damaged):
        facts["Images left out"] = f"{len(left_out)} unreadable ({directory.damaged.name})"
    if data.corrections:
        facts["Corrected labels"] = f"{data.corrected} ({', '.join(file.file.name for file in data.corrections)})"
    facts |= {"Weights of training tracklets": data.weights} if data.weights else {}
    facts |= {"Wrong training labels": data.noise, "Training time": f"{minutes:.1f} min on {runtime.device.type}"}
    write_report(
        directory.report,
        ReportInput(
            title=f"{config.name}: {config.model.name} on {data.benchmark.name}",
            subtitle=f"{loss}, {config.train.iterations} steps of {config.train.batch_size} images",
            facts=facts,
            results=results,
            baselines=[baseline for one in tested for baseline in one.baselines],
            metrics=directory.read_metrics(),
            weight_curves=_weight_curves(config),
            probability_histogram=_probabilities(model, preprocess, data.train, config, runtime),
            best=best,
            worst=worst,
            suspects=_suspects(directory, data),
            settings=config.dump(),
            environment=environment(),
            commands=_commands(directory, config, data.benchmark.test, [ranked.title for ranked in best]),
        ),
    )


def _in_words(loss: Component) -> str:
    return " ".join([loss.name.upper(), *(f"({key} = {value})" for key, value in loss.options.items())])


def _commands(directory: RunDirectory, config: Config, test: Split, queries: Sequence[str]) -> list[tuple[str, str]]:
    """Returns pairs (command, description) to try next: a full test, an audit, a gallery, a search in it."""
    run, gallery, dataset = str(directory.path), f"{directory.path}-gallery", test.root.parent
    source = config.data.path or (str(dataset) if detect_kind(dataset) == "mars" else None)
    commands = (
        (
            ["test", run, "--full"],
            "shows 95 % intervals, results by camera, and the similarity threshold for calling two tracklets the same person",
        ),
        (
            ["audit", run],
            "ranks the training tracklets by suspicion of a wrong label, and makes a page to correct labels",
        ),
        (
            ["extract", run, source or "MY_TRACKLETS", "--out", gallery],
            f"extracts features of {'its tracklets' if source else 'your own tracklets (one folder of images each)'}, as a gallery",
        ),
        (
            ["search", gallery, queries[0] if source and queries else "person.jpg", "--html", "hits.html"],
            "shows the nearest tracklets in that gallery, with images; the query can also be an image or a folder of frames",
        ),
    )
    return [(shlex.join(["robust-reid", *argv]), does) for argv, does in commands]


@torch.inference_mode()
def _probabilities(
    model: Classifier, preprocess: Preprocess, data: TrainingSet, config: Config, runtime: Runtime
) -> list[tuple[str, np.ndarray]]:
    """Returns the probability p of the training label on the middle frames of up to `SAMPLED` training tracklets, (N,) in all.

    If the true labels are known, correct and wrong labels are separate entries.
    """
    rows = np.linspace(0, len(data.split) - 1, min(SAMPLED, len(data.split))).astype(int)
    frames = (data.split.start[rows] + data.split.stop[rows]) // 2
    chunks = np.array_split(frames, -(-len(frames) // config.test.batch_size))
    damaged = DamagedImages(config.data.damaged)
    p, seen = [], []
    for batch in load_batches(data.split, chunks, workers=config.machine.workers, damaged=damaged):
        logits = model(preprocess(batch.images, runtime.device)).cpu()
        p.append(logits.softmax(1).gather(1, data.label_F[batch.frames][:, None])[:, 0])
        seen.append(batch.frames)
    p_N = torch.cat(p).numpy()
    if data.intact_F is None:
        return [("training labels", p_N)]
    intact_N = data.intact_F[torch.cat(seen)].numpy()
    return [("right labels", p_N[intact_N]), ("wrong labels", p_N[~intact_N])]


def _weight_curves(config: Config) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Returns the weight curve w(p) of the run's loss, if it has one, then those of CCE, MAE and IMAE if they differ from the first."""
    p = torch.linspace(0, 1, 201)
    own, name = experiment.build_loss(config), " + ".join(_in_words(loss) for loss in config.losses)
    if isinstance(own, SumOfLosses) and own.weighing:  # for a sum, the loss that has a w(p)
        name = next(_in_words(loss) for loss in config.losses if loss.name == own.weighing)
        own = own.losses[own.weighing]
    losses = {
        f"this run: {name}": own,
        "CCE": CCE(),
        "MAE": MAE(),
        "IMAE, T = 8": IMAE(),
    }
    weights = {name: loss.weight for name, loss in losses.items() if hasattr(loss, "weight")}
    first, *others = [(name, p.numpy(), weight(p).numpy()) for name, weight in weights.items()]  # type: ignore[operator]
    return [first, *(curve for curve in others if not np.array_equal(curve[2], first[2]))]


def _best_and_worst(
    features: FeatureSet, benchmark: Benchmark, headline: EvalResult
) -> tuple[list[RankedList], list[RankedList]]:
    order = np.argsort(-headline.ap, kind="stable")
    chosen = (order[:LISTS], order[LISTS:][::-1][:LISTS])
    best, worst = (_ranked_lists(features, benchmark, headline, which) for which in chosen)
    return best, worst


def _ranked_lists(features: FeatureSet, data: Benchmark, result: EvalResult, which: np.ndarray) -> list[RankedList]:
    """Returns the hits of some of the evaluated queries, given by their positions `which` in `result.query`."""
    found = rank(features, top_k=HITS, protocol=result.protocol, queries=result.query[which])
    lists = []
    for query, ap, *ranked in zip(
        found.query, result.ap[which], found.rows, found.similarity, found.match, strict=True
    ):
        hits = []
        for row, similarity, match in zip(*ranked, strict=True):
            if row >= 0:
                kind: Kind = "match" if match else "distractor" if features.pid[row] == 0 else "wrong"
                hits.append(_thumbnail(data.test, data.names, row, kind, f"{similarity:.2f}"))
        lists.append(
            RankedList(data.test.key(query), float(ap), _thumbnail(data.test, data.names, query, "query"), hits)
        )
    return lists


def _suspects(directory: RunDirectory, data: LabelledData) -> list[Thumbnail]:
    """Returns the training tracklets with the lowest p late in training; none if training recorded no evidence for them."""
    if not directory.evidence.is_file():
        return []
    split = data.train.split
    if (p := late_confidence(directory.evidence, split)) is None:
        return []
    lowest = [row for row in np.argsort(p, kind="stable")[:SUSPECTS].tolist() if np.isfinite(p[row])]
    return [
        _thumbnail(split, data.benchmark.names, row, "suspect", f"p {p[row]:.1g}\n{split.key(row)}") for row in lowest
    ]


def _thumbnail(split: Split, names: IdNames, row: int, kind: Kind, more: str = "") -> Thumbnail:
    """Makes a thumbnail of the tracklet's middle frame, or of the nearest readable frame, at the size shown on the page."""
    caption = "\n".join(filter(None, [names.person(split.pid[row]), names.camera(split.camid[row]), more]))
    image, file = Image.fromarray(_middle_frame(split, row)), io.BytesIO()
    image.thumbnail((128, 256))
    image.save(file, "JPEG", quality=85)
    return Thumbnail(file.getvalue(), caption, kind)


def _middle_frame(test: Split, row: int) -> np.ndarray:
    frames, middle = range(test.start[row], test.stop[row]), (test.start[row] + test.stop[row]) // 2
    *others, last = sorted(frames, key=lambda frame: abs(frame - middle))
    for frame in others:
        with contextlib.suppress(DataError):  # already reported by the extraction
            return decode(test.path(frame))
    return decode(test.path(last))
