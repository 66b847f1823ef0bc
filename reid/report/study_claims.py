"""The paper's claims about CCE, MAE and IMAE, each tested on the records by a rule, which is printed with its numbers.

A claim is seen if its rule holds under every setting that can test it, not seen if it fails under one or more, and not tested if no
setting can test it. Rules compare means over seeds and are not significance tests, so each one reports its lead: the smallest of the
differences that must be positive, that is, by how much the rule holds or fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from reid.report.study_records import FORMS, Cell, Record, Setting, by_setting, gather, in_form, paper_name, titles

Verdict = Literal["seen", "not seen", "not tested"]
Measure = Callable[[Cell], "float | None"]  # in per cent or points
Outcome = tuple[float, str]  # the rule's lead under one setting in points, positive where it holds, and its numbers

_HIGH = 0.35  # share of wrong labels that counts as many; the paper's 50 % and 80 % noise are 45 % and 72 % wrong
_AS_GOOD = 1.0  # points of accuracy by which IMAE may be below CCE and still count as equally good


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and its verdict on the records.

    Args:
        text: the claim, one sentence.
        rule: what must hold under every setting.
        verdict: ``seen``, ``not seen`` or ``not tested``.
        evidence: for each setting that can test the claim, the rule's lead there in points, and the numbers in per cent.
    """

    text: str
    rule: str
    verdict: Verdict
    evidence: tuple[Outcome, ...] = ()

    @property
    def held(self) -> str:
        """Number of settings under which the rule holds, such as ``6 of 7 settings``; empty if none can test the claim."""
        count = len(self.evidence)
        return f"{sum(lead > 0 for lead, _ in self.evidence)} of {count} setting{'s' * (count > 1)}" if count else ""


def claims(records: Iterable[Record], form: str = "imae") -> list[Claim]:
    """The claims of the paper's Sec. 5.1 and supplement Sec. 2-3 with their verdicts, in the paper's order.

    CCE, MAE and IMAE are compared as in the paper: IMAE with T = 8 on noisy labels and 0.5 on clean ones. Other values of T count only for
    the claims about T; other losses do not count.

    Args:
        records: of cells.
        form: which of `study_records.FORMS` represents the paper's IMAE.
    """
    cells = in_form(gather(records), form)
    return [_judge(text, rule, check(cells)) for text, rule, check in _CLAIMS]


def claims_by_form(records: Iterable[Record]) -> dict[str, list[Claim]]:
    """`claims` for each form of IMAE in the records, by the form's description; for that of Eq. 22 if the records have none."""
    records = list(records)
    found = {str(record["loss"]["name"]) for record in records}
    forms = [form for form in FORMS if form in found] or ["imae"]
    return {FORMS[form]: claims(records, form) for form in forms}


def claims_table(judged: Sequence[Claim]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the claim, its verdict, the number of settings under which the rule held, the rule, the numbers."""
    header = ["claim of the paper", "verdict", "held under", "rule", "numbers (%)"]
    return header, [[c.text, c.verdict, c.held, c.rule, _numbers(c.evidence)] for c in judged]


def _numbers(evidence: Sequence[Outcome]) -> str:
    return "; ".join(f"{'yes' if lead > 0 else 'no'}, by {abs(lead):.1f}: {numbers}" for lead, numbers in evidence)


def _judge(text: str, rule: str, outcomes: Sequence[Outcome]) -> Claim:
    if not outcomes:
        return Claim(text, rule, "not tested")
    return Claim(text, rule, "seen" if all(lead > 0 for lead, _ in outcomes) else "not seen", tuple(outcomes))


def _percent(*path: str) -> Measure:
    def measure(cell: Cell) -> float | None:
        mean = cell.mean(*path)
        return None if mean is None else 100 * mean

    return measure


def _gap(cell: Cell) -> float | None:
    best, final = _BEST(cell), _FINAL(cell)
    return None if best is None or final is None else best - final


_BEST, _FINAL = _percent("best", "test"), _percent("final", "test")
_FITTED = _percent("final", "train_corrupted")
_WRONG = _percent("realised_rate")


def _noisy(cell: Cell) -> bool:
    return bool(cell.setting.noise)


def _very_noisy(cell: Cell) -> bool:
    wrong = _WRONG(cell)
    return _noisy(cell) and wrong is not None and wrong >= 100 * _HIGH


def _three_losses(
    where: Callable[[Cell], bool],
    measures: Mapping[str, Measure],
    lead: Callable[[float, float, float], float],
) -> Callable[[Sequence[Cell]], list[Outcome]]:
    """A check of CCE, MAE and IMAE, in that order, under each setting that has all three; its lead is the smallest over the measures."""

    def check(cells: Sequence[Cell]) -> list[Outcome]:
        named = titles(cell.setting for cell in cells)
        groups = by_setting(cell for cell in cells if paper_name(cell) and where(cell))
        return [
            outcome
            for setting, three in groups.items()
            if len(three) == 3 and (outcome := _compare(named[setting], three, measures, lead))
        ]

    return check


def _compare(
    title: str, three: Sequence[Cell], measures: Mapping[str, Measure], lead: Callable[[float, float, float], float]
) -> Outcome | None:
    leads, texts = [], []
    for what, measure in measures.items():
        cce, mae, imae = (measure(cell) for cell in three)
        if cce is None or mae is None or imae is None:
            return None
        leads.append(lead(cce, mae, imae))
        texts.append(f"{what} CCE {cce:.1f}, MAE {mae:.1f}, IMAE {imae:.1f}")
    return min(leads), f"{title}: {'; '.join(texts)}"


def _grows_with_noise(
    names: Sequence[str], measure: Callable[[Sequence[Cell]], float | None]
) -> Callable[[Sequence[Cell]], list[Outcome]]:
    """A check that a measure of these losses' cells grows from each rate of a noise rule to the next."""

    def check(cells: Sequence[Cell]) -> list[Outcome]:
        series: dict[Setting, list[tuple[float, float]]] = {}
        wanted = [cell for cell in cells if _noisy(cell) and paper_name(cell) in names]
        for s, group in by_setting(wanted).items():
            value = measure(group) if len(group) == len(names) else None
            if value is not None and s.rate:
                series.setdefault(replace(s, rate=0, noise_label=f"{s.noise} noise"), []).append((s.rate, value))
        named = titles(series)
        return [
            (min(b - a for (_, a), (_, b) in pairwise(points)), f"{named[line]}: {_points(points)}")
            for line, points in series.items()
            if len(points) > 1
        ]

    return check


def _points(points: Sequence[tuple[float, float]]) -> str:
    return ", ".join(f"{value:.1f} at {100 * rate:g} %" for rate, value in points)


def _advantage(group: Sequence[Cell]) -> float | None:
    cce, imae = (_FINAL(cell) for cell in group)
    return None if cce is None or imae is None else imae - cce


def _over_T(cells: Sequence[Cell], noisy: bool) -> list[tuple[str, list[tuple[float, Cell]]]]:
    """(setting's title, [(T, IMAE's cell)] by ascending T) of each noisy, or each clean, setting with two or more values of T."""
    named = titles(cell.setting for cell in cells)
    groups = by_setting(c for c in cells if c.name == "imae" and c.options.keys() == {"T"} and _noisy(c) == noisy)
    return [
        (named[setting], [(float(cell.options["T"]), cell) for cell in group])
        for setting, group in groups.items()
        if len(group) > 1
    ]


def _larger_T_resists(cells: Sequence[Cell]) -> list[Outcome]:
    outcomes = []
    for title, group in _over_T(cells, noisy=True):
        seen = [(T, _gap(cell), _FINAL(cell)) for T, cell in group]
        points = [(T, gap, final) for T, gap, final in seen if gap is not None and final is not None]
        if len(points) > 1:
            (_, gap, final), (_, last_gap, last_final) = points[0], points[-1]
            text = "; ".join(f"T = {T:g}: best − final {g:.1f}, final {f:.1f}" for T, g, f in points)
            outcomes.append((min(gap - last_gap, last_final - final), f"{title}: {text}"))
    return outcomes


def _too_large_T_underfits(cells: Sequence[Cell]) -> list[Outcome]:
    outcomes = []
    for title, group in _over_T(cells, noisy=False):
        seen = [(T, _FITTED(cell), _FINAL(cell)) for T, cell in group]
        points = [(T, fitted, final) for T, fitted, final in seen if fitted is not None and final is not None]
        small = [(fitted, final) for T, fitted, final in points if T <= 8]
        if small and points[-1][0] >= 16:
            _, last_fitted, last_final = points[-1]
            lead = min(min(fitted - last_fitted, final - last_final) for fitted, final in small)
            text = "; ".join(f"T = {T:g}: train {fitted:.1f}, test {final:.1f}" for T, fitted, final in points)
            outcomes.append((lead, f"{title}: {text}"))
    return outcomes


_CLAIMS: tuple[tuple[str, str, Callable[[Sequence[Cell]], list[Outcome]]], ...] = (
    (
        "On clean labels IMAE (T = 0.5) is as good as CCE, and MAE is worse than both.",
        f"final test accuracy: IMAE above CCE's less {_AS_GOOD:g} point, MAE below both",
        _three_losses(
            lambda cell: not _noisy(cell),
            {"final test": _FINAL},
            lambda cce, mae, imae: min(imae - cce + _AS_GOOD, min(cce, imae) - mae),
        ),
    ),
    (
        "CCE over-fits wrong labels: it loses more of its best test accuracy by the end than MAE and IMAE.",
        "best less final test accuracy: CCE above MAE and IMAE",
        _three_losses(_noisy, {"best − final": _gap}, lambda cce, mae, imae: cce - max(mae, imae)),
    ),
    (
        "That loss of CCE grows with the noise rate.",
        "best less final test accuracy of CCE: higher at each next rate of the same noise rule",
        _grows_with_noise(["cce"], lambda group: _gap(group[0])),
    ),
    (
        "CCE fits the corrupted training set best.",
        "final accuracy on the training set with its wrong labels: CCE above MAE and IMAE",
        _three_losses(_noisy, {"train corrupted": _FITTED}, lambda cce, mae, imae: cce - max(mae, imae)),
    ),
    (
        "MAE under-fits when many labels are wrong.",
        f"at {100 * _HIGH:g} % wrong labels or more, final accuracy on the corrupted training set and best test accuracy: "
        "MAE below CCE and IMAE",
        _three_losses(
            _very_noisy,
            {"train corrupted": _FITTED, "best test": _BEST},
            lambda cce, mae, imae: min(cce, imae) - mae,
        ),
    ),
    (
        "Under noise IMAE reaches the best test accuracy of the three.",
        "best test accuracy: IMAE above CCE and MAE",
        _three_losses(_noisy, {"best test": _BEST}, lambda cce, mae, imae: imae - max(cce, mae)),
    ),
    (
        "Under noise IMAE also ends with the best test accuracy of the three (the paper's ResNet20 at 20 % does not).",
        "final test accuracy: IMAE above CCE and MAE",
        _three_losses(_noisy, {"final test": _FINAL}, lambda cce, mae, imae: imae - max(cce, mae)),
    ),
    (
        "IMAE's advantage over CCE grows with the noise rate.",
        "IMAE's final test accuracy less CCE's: higher at each next rate of the same noise rule",
        _grows_with_noise(["cce", "imae"], _advantage),
    ),
    (
        "On noisy labels a larger T resists over-fitting better.",
        "the largest T against the smallest: best less final test accuracy is smaller and final test accuracy higher",
        _larger_T_resists,
    ),
    (
        "On clean labels too large a T under-fits.",
        "the largest T, 16 or more, against every T up to 8: final accuracy on the training set and on the test set are lower",
        _too_large_T_underfits,
    ),
)
