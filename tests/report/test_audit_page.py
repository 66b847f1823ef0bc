"""The page of an audit, its files, and what a person does with it in a real browser; the exported file is read by the real reader."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.datasets.corrections import apply_corrections, read_corrections
from reid.errors import DataError
from reid.findings import Exemplar, Finding
from reid.report.audit_page import COLUMNS, write_audit_page
from reid.tracklets import IdNames, Split

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BREAKS_OUT = "</script><script>window.pwned = 1</script>\"'><img src=x onerror='window.pwned = 1'>"


def split_of(count: int, length: int = 10, keys: list[str] | None = None) -> Split:
    """`count` tracklets of `length` frames, two of each person, three cameras."""
    start = np.arange(count) * length
    names = np.array([b"%06d.jpg" % frame for frame in range(count * length)])
    rows = np.arange(count)
    held = np.array(keys if keys else [f"t{row}" for row in rows])
    return Split(Path("/data"), names, start, start + length, rows // 2 + 1, rows % 3, held)


def colour(frame: int) -> tuple[int, int, int]:
    return 40 + frame * 37 % 180, 40 + frame * 91 % 180, 40 + frame * 53 % 180


def read(frame: int) -> np.ndarray:
    return np.full((256, 128, 3), colour(frame), np.uint8)


def findings_of(split: Split) -> list[Finding]:
    """One of each tracklet, in order: a wrong one, a switch, a merge, one that nothing is known of, and over again."""
    found = []
    for row in range(len(split)):
        kind = ("wrong", "switch", "merge", "")[row % 4]
        own, other = row + 1 - 2 * (row % 2), (row + 2) % len(split)
        found.append(
            Finding(
                row,
                1 - row / len(split),
                kind,
                int(split.pid[other]) if kind in ("wrong", "merge") else None,
                ((4, 6),) if kind == "switch" else (),
                {"margin": -0.5, "p": float("nan")},
                (Exemplar(own, 0.75),),
                (Exemplar(other, 0.5),),
            )
        )
    return found


def data_of(folder: Path) -> dict:
    (script,) = (folder / "data").glob("*.js")
    text = script.read_bytes().decode("ascii")
    assert "<" not in text
    text = text.removeprefix("window.AUDIT = JSON.parse('").removesuffix("');\n")
    data = json.loads(text.replace("\\'", "'").replace("\\\\", "\\"))
    fields = ("row", "suspicion", "kind", "suggested", "frames", "evidence", "shown", "own", "other")
    return data | {"findings": [dict(zip(fields, cells, strict=True)) for cells in data["findings"]]}


def test_every_thumbnail_lies_once_where_the_data_says(tmp_path: Path) -> None:
    split = split_of(60)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {})
    data = data_of(page.parent)
    frames: dict[int, int] = {}  # thumbnail -> frame
    for finding in data["findings"]:
        start = split.start[finding["row"]]
        shown = [(start + position, cell) for position, cell in finding["shown"]]
        shown += [(split.start[row] + 4, cell) for row, _, cell in (*finding["own"], *finding["other"])]
        for frame, cell in shown:
            assert frames.setdefault(cell, frame) == frame
    assert sorted(frames) == list(range(data["thumbnails"]))
    assert len(set(frames.values())) == len(frames)
    size = COLUMNS * data["rows"]
    sheets = [np.asarray(Image.open(file)) for file in sorted((page.parent / "data").glob("*.jpg"))]
    for cell, frame in frames.items():
        place, half = cell % size, np.array([data["height"], data["width"]]) // 2
        y, x = np.array([place // COLUMNS, place % COLUMNS]) * 2 * half + half
        assert np.abs(sheets[cell // size][y, x].astype(int) - colour(frame)).max() < 12
    switch = data["findings"][1]
    assert {3, 4, 6, 7} <= {position for position, _ in switch["shown"]}
    assert switch["evidence"] == [-0.5, None]


def test_an_image_that_cannot_be_read_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    split = split_of(4)

    def damaged(frame: int) -> np.ndarray:
        if frame == 0:
            raise DataError("000000.jpg: damaged")
        return read(frame)

    page = write_audit_page(tmp_path, split, findings_of(split), IdNames(), damaged, {})
    data = data_of(page.parent)
    assert data["unreadable"] == [data["findings"][0]["shown"][0][1]]


def test_the_same_findings_have_the_same_files_and_others_replace_them(tmp_path: Path) -> None:
    split = split_of(4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.jpg").write_text("mine")
    write_audit_page(tmp_path, split, findings_of(split), IdNames(), read, {"Run": "a"})
    first = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    write_audit_page(tmp_path, split, findings_of(split), IdNames(), read, {"Run": "b"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == first
    write_audit_page(tmp_path, split, findings_of(split)[1:], IdNames(), read, {})
    now = {path.name for path in (tmp_path / "data").iterdir()}
    assert len(now) == 3
    assert now & first.keys() == {"mine.jpg"}


def test_a_kill_leaves_the_page_before(tmp_path: Path) -> None:
    split = split_of(80)
    page = write_audit_page(tmp_path, split, findings_of(split), IdNames(), read, {})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def killed(frame: int) -> np.ndarray:
        if frame > 500:
            raise KeyboardInterrupt
        return read(frame)

    with pytest.raises(KeyboardInterrupt):
        write_audit_page(tmp_path, split, findings_of(split)[::-1][10:], IdNames(), lambda f: killed(800 - f), {})
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert page.exists()


@pytest.mark.parametrize(
    "rows, words", [([0, 0], "two findings for tracklet 0"), ([9], "finding for tracklet 9, expected 0 to 3")]
)
def test_findings_that_fit_no_split(tmp_path: Path, rows: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        write_audit_page(tmp_path / "a", split_of(4), [Finding(row, 0.5) for row in rows], IdNames(), read, {})
    assert not (tmp_path / "a").exists()


def test_the_header_says_what_it_is_told(tmp_path: Path) -> None:
    about = {
        "title": BREAKS_OUT,
        "Rate": 0.1234,
        "Interval": (0.1, 0.2),
        "Findings": {"wrong": 1200},
        "commands": ["robust-reid test a", ("robust-reid train x", "trains <anew>")],
    }
    page = write_audit_page(tmp_path, split_of(2), [], IdNames(), read, about).read_text()
    assert "<script>window.pwned" not in page
    for said in ("0.123", "0.1 to 0.2", "wrong 1,200", "<code>robust-reid test a</code>", "trains &lt;anew&gt;"):
        assert said in page


# ---- In the browser ----


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path: Path) -> Iterator:
    """Opens a page from the file system, in one browser profile; nothing may be said in the console, and nothing fetched from elsewhere."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    said, asked = [], []

    def open_page(page: Path):
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-ready]")
        return tab

    open_page.asked = asked
    open_page.context = context
    yield open_page
    assert said == []
    assert all(url.startswith(("file:///", "blob:")) for url in asked)
    context.close()


def press(tab, *keys: str) -> None:
    for key in keys:
        tab.keyboard.press(key)


def current(tab) -> str:
    return tab.locator("[aria-current] h3").get_attribute("title")


def export(tab, folder: Path) -> Path:
    with tab.expect_download() as download:
        press(tab, "e")
    download.value.save_as(folder / "corrections.csv")
    return folder / "corrections.csv"


def test_a_pass_by_keyboard_is_what_training_reads(opened, tmp_path: Path) -> None:
    split = split_of(12)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {})
    tab = opened(page)
    assert current(tab) == "t0"
    press(tab, "r")  # t0: the better person, 2
    assert current(tab) == "t1"
    press(tab, "s", "Enter", "Backspace", "9", "Enter")  # split where the finding says; who is it? 9, new
    press(tab, "f", "Enter")  # the frames that the finding points at
    assert current(tab) == "t1"
    press(tab, "j", "m", "Enter")  # t2 of person 2: all of that person are 3
    press(tab, "d")  # t3
    press(tab, "a", " ")  # t4 kept, t5 skipped
    press(tab, "o", "4", "2", "Enter")  # t6: 42
    press(tab, "n")
    tab.keyboard.type('=1+1, "quoted"')
    press(tab, "Enter", "ArrowRight", "Shift+ArrowRight", "f", "Enter")  # t7: two thumbnails
    assert tab.locator("#progress-text").inner_text() == "7 of 12 decided"
    file = export(tab, tmp_path)
    assert file.read_text().splitlines() == [
        "action,key,pid,frames,note",
        "relabel,t0,2,,",
        "drop_frames,t1,,4-6,",
        "split,t1,9,4,",
        "drop,t3,,,",
        "keep,t4,,,",
        "relabel,t6,42,,",
        '''drop_frames,t7,,2-4,"'=1+1, ""quoted"""''',
        "merge,2,3,,",
    ]
    result = apply_corrections(read_corrections(file), split, IdNames())
    assert str(result.counts) == (
        "2 relabelled, 1 dropped, 6 frames of 2 dropped, 1 split, 1 person merged into another, 1 kept; 2 persons new"
    )


def write(file: Path, rows: str) -> Path:
    file.write_text("action,key,pid,frames,note\n" + rows)
    return file


def test_choices_outlive_the_tab_and_can_be_undone(opened, tmp_path: Path) -> None:
    split = split_of(8)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {})
    tab = opened(page)
    press(tab, "r", "d", "a")
    tab.close()
    tab = opened(page)
    assert tab.locator("#progress-text").inner_text() == "3 of 8 decided"
    assert current(tab) == "t3"
    press(tab, "u")
    assert tab.locator("#told").inner_text() == "Nothing to undo."
    press(tab, "d", "d", "u")
    assert current(tab) == "t4"
    press(tab, "Control+z")
    assert tab.locator("#progress-text").inner_text() == "3 of 8 decided"
    assert export(tab, tmp_path).read_text().splitlines()[1:] == ["relabel,t0,2,,", "drop,t1,,,", "keep,t2,,,"]
    press(tab, "Home", "c")
    assert tab.locator("#progress-text").inner_text() == "2 of 8 decided"
    # Another audit has choices of its own.
    other = write_audit_page(tmp_path / "other", split, findings_of(split)[::-1], IdNames(), read, {})
    assert opened(other).locator("#progress-text").inner_text() == "0 of 8 decided"


def test_an_exported_file_comes_back(opened, tmp_path: Path) -> None:
    split = split_of(8)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {})
    file = write(
        tmp_path / "in.csv",
        'relabel,t0,3,,"two\nlines, ""quoted"""\nsplit,t1,,5,\ndrop_frames,t1,,"0,7-9",\nkeep,t2,,,\nmerge,3,4,,\nkeep,nobody,,,\n',
    )
    tab = opened(page)
    tab.set_input_files("#file", file)
    tab.wait_for_selector("#told.bad")
    assert tab.locator("#told").inner_text() == "5 rows read; 1 do not match this audit, such as nobody."
    rows = export(tab, tmp_path).read_text().splitlines()
    assert rows[1:] == [
        'relabel,t0,3,,"two lines, ""quoted"""',
        'drop_frames,t1,,"0,7-9",',
        "split,t1,,5,",
        "keep,t2,,,",
        "merge,3,4,,",
    ]
    press(tab, "u")
    assert tab.locator("#progress-text").inner_text() == "0 of 8 decided"


def test_nothing_from_data_becomes_markup_and_every_key_comes_back(opened, tmp_path: Path) -> None:
    keys = [BREAKS_OUT, "=cmd|' /C calc'!A0", "'=twice", 'a,"b";c', "line\u2028end", "漢\ttab", "-3+4", "@x"]
    split = split_of(len(keys), keys=keys)
    names = IdNames({1: BREAKS_OUT, 2: "=HYPERLINK(1)", 3: "+x", 4: "’ö"}, {0: BREAKS_OUT, 1: "<b>gate</b>"})
    found = [Finding(row, 0.5, "wrong", int(split.pid[(row + 2) % 8]), evidence={BREAKS_OUT: 1.0}) for row in range(8)]
    tab = opened(write_audit_page(tmp_path / "audit", split, found, names, read, {BREAKS_OUT: BREAKS_OUT}))
    press(tab, *"rrrrrrrr", "n")
    tab.keyboard.type(BREAKS_OUT)
    press(tab, "Enter", "o")
    tab.keyboard.type("<img src=x onerror=alert(1)>")
    tab.wait_for_selector("#ask-options span")
    press(tab, "Escape")
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("main img, main script:not(body script)").count() == 0
    assert tab.evaluate("document.querySelectorAll('script').length") == 2
    result = apply_corrections(read_corrections(export(tab, tmp_path)), split, names)
    assert result.counts.relabelled == 8
    assert result.counts.new_persons == 0
    assert result.split.pid.tolist() == [2, 2, 3, 3, 4, 4, 1, 1]


def test_names_become_new_persons_and_numbers_below_one_do_not(opened, tmp_path: Path) -> None:
    split = split_of(4)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {})
    tab = opened(page)
    press(tab, "o")
    for text, problem in (("0", "0 and negative numbers mean no person"), ("eve", "Expected a whole number")):
        tab.locator("#ask-text").fill(text)
        press(tab, "Enter")
        assert problem in tab.locator("#ask-problem").inner_text()
    tab.locator("#ask-text").fill("2")
    press(tab, "Enter")
    press(tab, "f")
    for text, problem in (("4-12", "positions from 0 to 9"), ("0-9", "No frame would be left"), ("x", "such as 3,7-9")):
        tab.locator("#ask-text").fill(text)
        press(tab, "Enter")
        assert problem in tab.locator("#ask-problem").inner_text()
    press(tab, "Escape", "m")
    tab.locator("#ask-text").fill("77")
    press(tab, "Enter")
    assert "A merge needs an existing person" in tab.locator("#told").inner_text()
    press(tab, "m")
    tab.locator("#ask-text").fill("1")
    press(tab, "Enter")
    assert "merged into itself" in tab.locator("#told").inner_text()


def test_filters_order_and_search(opened, tmp_path: Path) -> None:
    split = split_of(24)
    tab = opened(write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {}))
    shown = lambda: tab.locator(".item").first.get_attribute("aria-setsize")  # noqa: E731
    tab.select_option("#kind", "switch")
    assert shown() == "6"
    assert current(tab) == "t1"
    tab.select_option("#camera", "1")
    assert shown() == "2"
    tab.select_option("#kind", "all")
    tab.select_option("#camera", "all")
    press(tab, "Escape", "a", "a")
    tab.select_option("#state", "decided")
    assert shown() == "2"
    tab.select_option("#state", "all")
    press(tab, "Escape", "/")
    tab.keyboard.type("t23")
    tab.wait_for_selector(".item[aria-setsize='1']")
    press(tab, "Escape")
    assert current(tab) == "t23"
    tab.locator("#find").fill("no such")
    tab.wait_for_selector("#none:not([hidden])")
    tab.locator("#find").fill("")
    tab.wait_for_selector(".item[aria-setsize='24']")
    tab.select_option("#sort", "camera")
    press(tab, "Escape", "Home")
    assert [current(tab), press(tab, "j"), current(tab)] == ["t0", None, "t3"]


def test_of_a_long_list_only_what_is_near_is_there(opened, tmp_path: Path) -> None:
    split = split_of(500, length=3)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {})
    tab = opened(page)
    tab.wait_for_load_state("networkidle")
    sheets = {url for url in opened.asked if url.endswith(".jpg")}
    assert 1 <= len(sheets) <= 2 < len(list((tmp_path / "audit/data").glob("*.jpg")))
    assert tab.locator(".item").count() < 12
    press(tab, "End")
    assert current(tab) == "t499"
    assert tab.locator(".item").count() < 12
    assert tab.locator("[aria-current]").get_attribute("aria-posinset") == "500"
    tab.wait_for_load_state("networkidle")
    assert {url for url in opened.asked if url.endswith(".jpg")} > sheets


def test_a_browser_that_keeps_nothing_says_so(opened, tmp_path: Path) -> None:
    split = split_of(4)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames(), read, {})
    opened.context.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); }")
    tab = opened(page)
    press(tab, "a")
    assert "export corrections.csv before you close the page" in tab.locator("#told").inner_text()
    assert export(tab, tmp_path).read_text().splitlines()[1:] == ["keep,t0,,,"]


def test_by_touch_on_a_phone(opened, tmp_path: Path) -> None:
    split = split_of(6)
    page = write_audit_page(tmp_path / "audit", split, findings_of(split), IdNames({1: "x" * 80}), read, {})
    tab = opened(page)
    tab.set_viewport_size({"width": 360, "height": 740})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    first = tab.locator(".item").first
    outer = first.bounding_box()
    for button in first.locator("button").all():
        box = button.bounding_box()
        assert box["height"] >= 40
        assert box["y"] + box["height"] <= outer["y"] + outer["height"]
    first.locator("[data-do=relabel]").click()
    assert tab.locator("#progress-text").inner_text() == "1 of 6 decided"


def test_without_its_data_the_page_says_what_is_missing(opened, tmp_path: Path) -> None:
    page = write_audit_page(tmp_path / "audit", split_of(2), [], IdNames(), read, {})
    (script,) = (tmp_path / "audit/data").glob("*.js")
    text = page.read_text()
    assert re.search(rf"script src=\"data/{script.name}\"", text)
    script.write_text("")
    tab = opened.context.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("#missing").is_visible()
