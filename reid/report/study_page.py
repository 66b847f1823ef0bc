"""The study's page: claims with their verdicts, tables beside the paper's, the choice of T, figures. Loads nothing, runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from reid.files import atomic
from reid.report import study_plots
from reid.report.charts import Chart, draw, legend_keys
from reid.report.html import document, facts_list, figure, legend, plain_table
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
    """Write the page; whoever reads ``path`` meanwhile sees the old page or the new one, never half of one.

    Args:
        path: of the HTML file.
        title: the page's heading.
        facts: such as command, environment, commit, dataset.
        records: of cells; notes in them are shown.
        paper: as in `accuracy_table`.
        weights: {title of a chart: its losses as in `variance_table`}, such as the paper's Figures 1 and 5.

    Raises:
        DataError: the file cannot be written.
    """
    page = study_html(title, facts, records, paper, weights).encode("utf-8", "replace")
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(page)


def study_html(
    title: str,
    facts: Mapping[str, str],
    records: Iterable[Record],
    paper: Paper,
    weights: Mapping[str, Sequence[Weighting]],
) -> str:
    """The whole page as text; arguments as in `write_study_page`."""
    records = list(records)
    notes = {str(record["note"]): None for record in records if record.get("note")}
    head = f"<header><h1>{escape(title)}</h1>{facts_list(facts)}{_paragraphs(notes)}</header>"
    judged = [_claims(form, found) for form, found in claims_by_form(records).items()]
    body = [*judged, _accuracies(records, paper), _choice(records), *_figures(records)]
    return document(title, [head, *(body if records else []), _weights(weights)])


def _claims(form: str, judged: Sequence[Claim]) -> str:
    rows = "\n".join(map(_claim, judged))
    note = (
        "A claim is seen where its rule holds under every setting that can test it. Rules compare means over seeds; "
        "they are no tests of significance, so each says by how many points it holds or fails."
    )
    return _section(f"The paper's claims: {form}", note, f'<ol class="card claims">\n{rows}\n</ol>')


def _claim(claim: Claim) -> str:
    numbers = "".join(
        f"<li>{'✓' if lead > 0 else '✗'} by {abs(lead):.1f}: {escape(text)}</li>" for lead, text in claim.evidence
    )
    held = f'<p class="muted">{claim.held}</p>' if claim.held else ""
    return (
        f'<li><div class="verdict {claim.verdict.replace(" ", "-")}">{claim.verdict}{held}</div>'
        f'<div>{escape(claim.text)}<p class="muted">Rule: {escape(claim.rule)}.</p><ul class="muted">{numbers}</ul></div></li>'
    )


def _accuracies(records: Sequence[Record], paper: Paper) -> str:
    note = (
        "Per cent; Δ is ours less the paper's, in points. Best: along training; final: at its end. Corrupted: against the labels the "
        "network was trained on; intact: against the true ones."
    )
    return _section("Accuracies", note, plain_table("Accuracies", *accuracy_table(records, paper)))


def _choice(records: Sequence[Record]) -> str:
    header, rows = choice_table(records)
    note = (
        "Each set of labels chooses the candidate with the highest final accuracy on it. The cost is the final test accuracy, in "
        "points, that the choice gives away against the candidate which the test set would choose: 0.0 where they agree."
    )
    return _section("Choosing T", note, plain_table("Choosing T", header, rows)) if rows else ""


def _figures(records: Sequence[Record]) -> list[str]:
    fitted, test, true = "training accuracy (%)", "test accuracy (%)", "accuracy on true labels (%)"
    return [
        _charts(
            "Fitting the corrupted training set (Figure 3)",
            "Accuracy against the labels that the network is trained on.",
            study_plots.loss_curves(records, "train_corrupted", fitted),
        ),
        _charts("Test accuracy (Figure 4)", "", study_plots.loss_curves(records, "test", test)),
        _charts("Test accuracy for different T (Figure 6)", "", study_plots.option_curves(records, "test", test)),
        _charts(
            "Fitting the training set for different T (Figure 7)",
            "Accuracy against the labels that the network is trained on.",
            study_plots.option_curves(records, "train_corrupted", fitted),
        ),
        _charts(
            "The true training labels as validation set (Figure 8)",
            "Accuracy on the training set against its true labels.",
            study_plots.option_curves(records, "train_intact", true, noisy_only=True),
        ),
        _charts(
            "What the logits do",
            "Largest |logit|; norm of the head's weights; share of training samples with p < 0.0001; test accuracy with the "
            "batch's statistics less that with running ones, in points.",
            study_plots.telemetry(records),
        ),
    ]


def _weights(weights: Mapping[str, Sequence[Weighting]]) -> str:
    distinct = {label: (label, w, theirs) for losses in weights.values() for label, w, theirs in losses}
    if not distinct:
        return ""
    figures = [figure(chart.title, draw(chart)) for chart in study_plots.weight_charts(weights)]
    table = plain_table("Weighting variance", *variance_table(list(distinct.values())))
    note = (
        "w(p) is the L1 norm of the loss's gradient: how hard a sample with probability p pulls. Its variance is taken over "
        "p uniform in [0, 1]."
    )
    return _section(
        "What the losses listen to (Figures 1 and 5, Table 4)", note, _grid([*figures, f"<div>{table}</div>"])
    )


def _charts(title: str, note: str, charts: Sequence[Chart]) -> str:
    """One legend for the section; the charts below it go without."""
    if not charts:
        return ""
    figures = [figure(chart.title, replace(draw(chart), legend=())) for chart in charts]
    return _section(title, note, legend(legend_keys(charts)) + _grid(figures))


def _grid(figures: Sequence[str]) -> str:
    return '<div class="grid panels">\n' + "\n".join(figures) + "\n</div>"


def _section(title: str, note: str, body: str) -> str:
    return (
        f'<section class="study">\n<h2>{escape(title)}</h2>\n{_paragraphs([note] if note else [])}\n{body}\n</section>'
    )


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f'<p class="muted">{escape(line)}</p>' for line in lines)
