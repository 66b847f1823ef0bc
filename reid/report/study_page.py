"""The study's page: claims and verdicts, tables beside the paper's, the choice of T, figures. No external resources, no script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reid.report import study_plots
from reid.report.charts import Chart, draw, legend_keys
from reid.report.pages import render, write_page
from reid.report.study_claims import Claim, claims_by_form
from reid.report.study_records import Record
from reid.report.study_tables import Paper, Weighting, accuracy_table, choice_table, variance_table


def write_study_page(
    path: str | Path,
    title: str,
    facts: Mapping[str, str],
    records: Iterable[Record],
    paper: Paper,
    weights: Mapping[str, Sequence[Weighting]],
) -> None:
    """Write the page atomically.

    Args:
        path: of the HTML file.
        title: the page's heading.
        facts: such as command, environment, commit, dataset.
        records: of cells; their notes are shown.
        paper: as in `accuracy_table`.
        weights: {title of a chart: its losses as in `variance_table`}, such as the paper's Figures 1 and 5.

    Raises:
        DataError: the file cannot be written.
    """
    write_page(path, study_html(title, facts, records, paper, weights))


def study_html(
    title: str,
    facts: Mapping[str, str],
    records: Iterable[Record],
    paper: Paper,
    weights: Mapping[str, Sequence[Weighting]],
) -> str:
    """The page as HTML; arguments as in `write_study_page`."""
    records = list(records)
    judged = claims_by_form(records)
    distinct = {label: (label, w, theirs) for losses in weights.values() for label, w, theirs in losses}
    return render(
        "study.html",
        title=title,
        facts=facts,
        notes=list({str(record["note"]): None for record in records if record.get("note")}),
        verdicts=[_verdict(form, found) for form, found in judged.items()],
        claims=judged,
        accuracies=accuracy_table(records, paper) if records else None,
        choice=choice_table(records) if records else None,
        figures=[
            (heading, note, legend_keys(charts), [(chart.title, replace(draw(chart), legend=())) for chart in charts])
            for heading, note, charts in _figures(records)
            if charts
        ],
        weights=[(chart.title, draw(chart)) for chart in study_plots.weight_charts(weights)],
        variances=variance_table(list(distinct.values())),
    )


def _verdict(form: str, judged: Sequence[Claim]) -> str:
    count = Counter(claim.verdict for claim in judged)
    return (
        f"{form}: of {len(judged)} claims of the paper, {count['seen']} are seen in these networks, {count['not seen']} are not, and "
        f"{count['not tested']} could not be tested with them."
    )


def _figures(records: Sequence[Record]) -> Iterator[tuple[str, str, Sequence[Chart]]]:
    """Heading, note and charts of each of the paper's figures, and of the telemetry."""
    fitted, test, true = "training accuracy (%)", "test accuracy (%)", "accuracy on true labels (%)"
    corrupted = "Accuracy against the labels that the network is trained on."
    yield (
        "Fitting the corrupted training set (Figure 3)",
        corrupted,
        study_plots.loss_curves(records, "train_corrupted", fitted),
    )
    yield "Test accuracy (Figure 4)", "", study_plots.loss_curves(records, "test", test)
    yield "Test accuracy for different T (Figure 6)", "", study_plots.option_curves(records, "test", test)
    yield (
        "Fitting the training set for different T (Figure 7)",
        corrupted,
        study_plots.option_curves(records, "train_corrupted", fitted),
    )
    yield (
        "The true training labels as validation set (Figure 8)",
        "Accuracy on the training set against its true labels.",
        study_plots.option_curves(records, "train_intact", true, noisy_only=True),
    )
    yield (
        "What the logits do",
        "Largest |logit|; norm of the head's weights; share of training images with p < 0.0001; test accuracy with the batch's statistics "
        "less that with running ones, in points.",
        study_plots.telemetry(records),
    )
