"""The page: well-formed, self-contained, escaped, the same bytes for the same input."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from reid.errors import DataError
from reid.features import EvalResult
from reid.protocol import MARS_HIT_AP, MARS_OFFICIAL
from reid.report.pages import render
from reid.report.records import RankedList, ReportInput, Thumbnail
from reid.report.run_page import report_html, verdict, write_report
from reid.report.style import CSS

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "</style><script>alert(1)</script>\"'&$x_1$ <b> 漢 \udce9"


class Walk(HTMLParser):
    """Every element as (tag, attributes, ancestors' classes); fails on a tag that is not closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> says an attribute twice"
        self.elements.append((tag, dict(attrs), [a.get("class") for _, a in self.open]))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), [a.get("class") for _, a in self.open]))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1][0] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs, _ in self.elements if name == tag]


def picture(colour, kind="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 16), colour).save(buffer, kind)
    return buffer.getvalue()


def result(protocol=MARS_OFFICIAL, ap=(0.5, 1.0)):
    mAP = float(np.mean(ap)) if len(ap) else None
    cmc = np.array([0.8125, 0.9] if len(ap) else [])
    return EvalResult(protocol, mAP, cmc, np.array(ap, float), np.arange(len(ap)), 3, 1234)


HITS = [
    Thumbnail(picture("red"), "pid 1\ncam 2", "match"),
    Thumbnail(picture("blue", "PNG"), "pid 2\ncam 3", "wrong"),
    Thumbnail(picture("green"), "pid 0\ncam 4", "distractor"),
]
RANKED = RankedList("query one", 0.25, Thumbnail(picture("white"), "pid 1", "query"), HITS)
P_P = np.linspace(0, 1, 11)
REPORT = ReportInput(
    title="a run",
    subtitle="what it is",
    facts={"device": "cpu", "command": "python tools/train.py " + "x" * 60},
    results=[result(), result(MARS_HIT_AP)],
    baselines=[("colour histogram", result(ap=(0.125, 0.125)))],
    metrics=[{"step": i, "loss": 1 / i, "lr": 0.1, "accuracy": 0.5} for i in range(1, 9)],
    weight_curves=[("CCE", P_P, 2 * (1 - P_P))],
    probability_histogram=[("right", np.array([0.9, 0.8])), ("wrong", np.array([0.1]))],
    best=[RANKED],
    worst=[RANKED, RANKED],
    settings="loss:\n  name: cce\n",
    environment={"torch": "2"},
    commands=[("robust-reid test 'runs/my run' --full", "how sure the figures are")],
)


@pytest.fixture(scope="module")
def page():
    return report_html(REPORT)


@pytest.fixture(scope="module")
def walk(page):
    return Walk(page)


def test_nothing_is_fetched_or_run(page, walk):
    assert not re.search(r"https?:|//[a-z]", page)
    assert not re.search(r"url\((?!#)|@import|http", CSS)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _, _ in walk.elements}
    sources = [value for _, attrs, _ in walk.elements for name, value in attrs.items() if name in ("src", "href")]
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    (policy,) = [meta["content"] for meta in walk.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")


def test_every_number_stands_beside_its_protocol(walk):
    text = " ".join(" ".join(walk.text).split())
    assert "mAP mars-official 75.0% colour histogram 12.5%" in text
    assert "Rank-1 mars-official 81.2%" in text
    assert "this run mars-official 75.0% 81.2% 90.0% 90.0% 90.0% 2 3 1,234" in text
    assert "this run mars-hit-ap 75.0%" in text
    assert "colour histogram mars-official 12.5%" in text


def test_every_part_is_there(walk):
    titles = ["Training", "Training accuracy", "CMC", "Average precision", "Weight curve"]
    assert [title for title in titles if title in walk.text] == titles
    drawings = [svg for svg in walk.all("svg") if svg.get("role") == "img"]
    assert len(drawings) == len(titles)
    assert all(len(svg["aria-label"]) > 20 for svg in drawings)
    assert len(walk.all("details")) == 2
    assert "loss:\n  name: cce\n" in walk.text


def test_images_are_embedded_unchanged_and_described(walk):
    images = walk.all("img")
    assert len(images) == 3 * 4
    for image, thumbnail in zip(images, [RANKED.query, *HITS] * 3, strict=True):
        head, data = image["src"].split(",")
        assert head == f"data:image/{'png' if thumbnail.kind == 'wrong' else 'jpeg'};base64"
        assert base64.b64decode(data) == thumbnail.image
    assert [image["alt"] for image in images[:4]] == [
        "query, pid 1",
        "rank 1, match, pid 1, cam 2",
        "rank 2, wrong, pid 2, cam 3",
        "rank 3, distractor, pid 0, cam 4",
    ]


@pytest.mark.parametrize(("kind", "sign"), [("query", None), ("match", "✓"), ("wrong", "✗"), ("distractor", "○")])
def test_a_frame_speaks_by_colour_and_by_sign(page, kind, sign):
    figures = re.findall(rf'<figure class="thumb {kind}">.*?</figure>', page, re.DOTALL)
    assert len(figures) == 3
    for figure in figures:
        assert re.findall(r'<span class="sign"[^>]*>(.)</span>', figure) == ([sign] if sign else [])
    assert kind == "query" or f".thumb.{kind} {{ --frame: var(" in CSS


def test_whatever_comes_from_data_is_escaped(tmp_path):
    hostile = Thumbnail(picture("red"), HOSTILE, "match")
    report = ReportInput(
        title=HOSTILE,
        subtitle=HOSTILE,
        facts={HOSTILE: HOSTILE},
        results=[result(replace(MARS_OFFICIAL, name=HOSTILE))],
        baselines=[(HOSTILE, result(replace(MARS_OFFICIAL, name=HOSTILE)))],
        weight_curves=[(HOSTILE, P_P, P_P)],
        probability_histogram=[(HOSTILE, P_P), (HOSTILE, P_P)],
        best=[RankedList(HOSTILE, None, replace(hostile, kind="query"), [hostile])],
        settings=HOSTILE,
        environment={HOSTILE: HOSTILE},
        commands=[(HOSTILE, HOSTILE)],
    )
    page = report_html(report)
    assert "<script" not in page and "<b>" not in page
    walk = Walk(page)
    assert {"script", "b"} & {tag for tag, _, _ in walk.elements} == set()
    assert walk.text.count(HOSTILE) >= 12
    assert "AP n/a" in walk.text
    write_report(tmp_path / "report.html", report)  # a file name's undecodable byte does not stop it
    assert (tmp_path / "report.html").read_text("utf-8").count("漢") == page.count("漢")


def test_no_valid_query_reads_na():
    walk = Walk(report_html(ReportInput("empty", results=[result(ap=())])))
    text = " ".join(" ".join(walk.text).split())
    assert "mAP mars-official n/a" in text
    assert "this run mars-official n/a n/a n/a n/a n/a 0 3 1,234" in text
    assert "nan" not in text and "None" not in text


def test_a_report_of_nothing_is_a_title():
    walk = Walk(report_html(ReportInput("only a title")))
    assert not {"section", "figure", "table"} & {tag for tag, _, _ in walk.elements}
    assert walk.text.count("only a title") == 2


def test_same_input_same_bytes(tmp_path, page):
    assert report_html(REPORT) == page
    target = tmp_path / "report.html"
    target.write_text("the old page")
    write_report(target, REPORT)
    assert target.read_bytes() == page.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("the old page")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reid.files.os.replace", full)
    with pytest.raises(DataError, match=r"report\.html: cannot write this file: No space left on device"):
        write_report(target, REPORT)
    assert target.read_text() == "the old page"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_no_folder_to_write_to_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write this file") as error:
        write_report(tmp_path / "file" / "report.html", ReportInput("x"))
    assert len(error.value.problems) == 1


def test_bytes_that_are_no_picture_are_refused():
    with pytest.raises(DataError, match="thumbnail 'pid 7': expected the bytes of a JPEG or PNG, got b'GIF89a'"):
        Thumbnail(b"GIF89a", "pid 7", "match")


def test_the_parser_would_notice_a_tag_left_open():
    with pytest.raises(AssertionError):
        Walk("<div><p></div>")
    with pytest.raises(AssertionError):
        Walk("<div>")


def words(walk):
    return " ".join(" ".join(walk.text).split())


def test_the_verdict_says_how_far_above_what_by_which_rules_and_what_wrong_labels_did():
    last = {"step": 9, "accuracy_intact": 0.875, "accuracy_corrupted": 0.125}
    other = ("random weights", result(ap=(0.75, 0.875)))
    elsewhere = ("other rules", result(MARS_HIT_AP, ap=(0.5,)))
    report = replace(REPORT, baselines=[*REPORT.baselines, other, elsewhere], metrics=[{"step": 1}, last])
    assert verdict(report) == (
        "75.0% mAP over 2 queries under the protocol mars-official: 6.2 points below random weights (81.2%), 62.5 points above colour "
        "histogram (12.5%). At the end of training the network predicted the label as given for 12.5% of the images whose label is wrong "
        "(it has memorised those) and for 87.5% of those whose label is right."
    )
    assert verdict(report) in words(Walk(report_html(report)))


def test_the_verdict_claims_nothing_that_is_not_known():
    assert verdict(ReportInput("x")) == ""
    assert verdict(replace(REPORT, results=[result(ap=())])) == (
        "No query has a match under the protocol mars-official, so there is no mAP."
    )
    alone = ReportInput("x", results=[result(ap=(1.0,))])
    unknown = "It is not known which labels are wrong, so their effect cannot be measured."
    assert verdict(alone) == f"100.0% mAP over 1 query under the protocol mars-official. {unknown}"
    clean = replace(alone, metrics=[{"step": 1, "accuracy_intact": 1.0}])
    assert verdict(clean).endswith("No training label is known to be wrong.")


def test_each_term_is_explained_once_and_the_next_commands_stand_there(walk):
    terms = re.findall(r"<dt>(.*?)</dt> <dd>", report_html(REPORT))
    assert len(terms) == len(set(terms))
    assert {"protocol", "match", "junk", "distractor", "AP", "Rank-k", "no match", "baseline"} == set(terms)
    text = words(walk)
    for meaning in (
        "Mean average precision:",
        "Cumulative match characteristic:",
        "Gradient L1 norm:",
        "w(p), the weight of an image with that p:",
    ):
        assert text.count(meaning) == 1
    assert "robust-reid test 'runs/my run' --full how sure" in text.replace("  ", " ")


def test_on_a_phone_every_figure_says_its_column(walk):
    cells = walk.all("td")
    assert len(cells) == 3 * 8 + 2 * 5
    assert all(cell["data-title"] for cell in cells)
    assert [cell["data-title"] for cell in cells[:8]] == [
        *("mAP", "Rank-1", "Rank-5", "Rank-10", "Rank-20"),
        *("queries", "no match", "gallery"),
    ]
    (narrow,) = re.findall(r"@media \(max-width: 620px\) \{(.*?)\n\}", CSS, re.DOTALL)
    assert "td::before { content: attr(data-title)" in narrow


def test_a_template_that_names_what_it_does_not_get_is_an_error():
    with pytest.raises(UndefinedError):
        render("hits.html", title="x")
