"""``report.html``: a single file that shows a run. No external resources, no script; the same input gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reid.features import EvalResult
from reid.report import plots
from reid.report.drawing import Plot
from reid.report.pages import render, write_page
from reid.report.records import ReportInput
from reid.report.tables import percent, weight_table


def write_report(path: str | Path, report: ReportInput) -> None:
    """Write the page atomically.

    Raises:
        DataError: the file cannot be written.
    """
    write_page(path, report_html(report))


def report_html(report: ReportInput) -> str:
    """The page as HTML."""
    return render(
        "run.html",
        report=report,
        title=report.title,
        verdict=verdict(report),
        entries=[*(("this run", result) for result in report.results), *report.baselines],
        others=list(_other_datasets(report)),
        peers=list(_peers(report)),
        curves=[one for one in _curves(report) if one[1] is not None],
        weights=plots.weight_curves(report.weight_curves, report.probability_histogram),
        weight_table=weight_table(report.weight_curves, report.probability_histogram),
    )


def verdict(report: ReportInput) -> str:
    """Summary in words: mAP, protocol, difference to the baselines, and how far wrong labels were memorised; empty without a result."""
    if not report.results:
        return ""
    run = report.results[0]
    if run.mAP is None:
        return f"No query has a match under the protocol {run.protocol.name}, so there is no mAP."
    queries = f"{run.num_queries:,} {'query' if run.num_queries == 1 else 'queries'}"
    queries += "" if run.dataset is None else f" of {run.dataset}"
    others = "".join(f" On {other.dataset}: {percent(other.mAP)} mAP." for other in _other_datasets(report))
    leads = [
        f"{100 * abs(run.mAP - other.mAP):.1f} points {'above' if run.mAP >= other.mAP else 'below'} {name} ({percent(other.mAP)})"
        for name, other in sorted(_peers(report), key=lambda peer: -(peer[1].mAP or 0))
        if other.mAP is not None
    ]
    lead = f": {', '.join(leads)}" if leads else ""
    return f"{percent(run.mAP)} mAP over {queries} under the protocol {run.protocol.name}{lead}.{others} {_memorised(report)}"


def _memorised(report: ReportInput) -> str:
    """A sentence on how far wrong labels were memorised, from the last row of the metrics."""
    last = report.metrics[-1] if report.metrics else {}
    right, wrong = last.get("accuracy_intact"), last.get("accuracy_corrupted")
    if right is None:
        return "It is not known which labels are wrong, so their effect cannot be measured."
    if wrong is None:
        return "No training label is known to be wrong."
    return (
        f"At the end of training the network predicted the label as given for {percent(wrong)} of the images whose label is wrong (it has "
        f"memorised those) and for {percent(right)} of those whose label is right."
    )


def _peers(report: ReportInput) -> Iterator[tuple[str, EvalResult]]:
    """The baselines that are comparable with the headline: those under its protocol, on its dataset."""
    return (peer for peer in report.baselines if report.results and _alike(peer[1], report.results[0]))


def _alike(one: EvalResult, other: EvalResult) -> bool:
    return one.protocol == other.protocol and one.dataset == other.dataset


def _other_datasets(report: ReportInput) -> Iterator[EvalResult]:
    """The run's further results under the headline's protocol: those on other datasets."""
    return (one for one in report.results[1:] if one.protocol == report.results[0].protocol)


def _curves(report: ReportInput) -> Iterator[tuple[str, Plot | None, str]]:
    """Title, drawing and note of each chart."""
    yield (
        "Training",
        plots.training_curves(report.metrics),
        "Loss: mean over images. Gradient L1 norm: weight w of an image in the training step, mean over images. Effective share: "
        "fraction of images that would have the same effect with equal weights, (sum w)² / (n sum w²). Step: one batch of images. "
        "Thin: as logged; thick: running mean.",
    )
    yield (
        "Training accuracy",
        plots.accuracy_curves(report.metrics),
        "Share of the training images for which the network predicts the label as given. For wrong labels, a rising "
        "curve means memorisation. Against the truth: the network predicts the true person, whatever the label says.",
    )
    entries = [(f"this run, {r.protocol.name}", r) for r in report.results[:1]]
    entries += [(f"{name}, {r.protocol.name}", r) for name, r in report.baselines]
    yield (
        "CMC",
        plots.cmc_curve(entries),
        "Cumulative match characteristic: Rank-k for every k, the share of the queries with a match among their k nearest.",
    )
    for result in report.results[:1]:
        yield (
            "Average precision",
            plots.ap_histogram(result),
            f"AP of every query under {result.protocol.name}; mAP is their mean.",
        )
