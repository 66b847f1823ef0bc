"""Size and speed of the audit page in a headless Chromium: opening, scrolling, deciding.

    python benchmarks/audit_page.py [--tracklets 20000] [--frames 40] [--repeat 5] [--json FILE]

Images are smooth noise, whose JPEG size is about that of crops. Each opening has a new browser profile. Opening: from navigation to the
first cards; their images follow some time later. A decision: from the key to the next card. Scrolling: 240 frames of 600 pixels each;
without delays, a screen shows one every 16.7 ms. Files come from the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from record import keep

from reid.findings import Exemplar, Finding
from reid.report.audit_page import write_audit_page
from reid.tracklets import IdNames, Split

SCROLL = """async () => {
  const times = [];
  let last = performance.now();
  for (let i = 0; i < 240; i++) {
    scrollBy(0, 600);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}"""
DECIDE = """() => {
  const times = [];
  for (let i = 0; i < 100; i++) {
    const begin = performance.now();
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: i % 2 ? "a" : "r", bubbles: true}));
    document.body.offsetHeight;
    times.push(performance.now() - begin);
  }
  return times;
}"""


def write(folder: Path, tracklets: int, frames: int) -> float:
    """Write a page with one finding per tracklet, ten per person; returns the seconds taken."""
    rng, rows = np.random.default_rng(0), np.arange(tracklets)
    coarse = rng.integers(0, 255, (64, 16, 8, 3), np.uint8)
    pictures = [np.asarray(Image.fromarray(one).resize((128, 256), Image.Resampling.BICUBIC)) for one in coarse]
    names = np.char.add(np.arange(tracklets * frames).astype(bytes), b".jpg")
    keys = np.array([f"{row // 10:04}C{row % 6}T{row:05}" for row in rows])
    split = Split(Path("/"), names, rows * frames, (rows + 1) * frames, rows // 10 + 1, rows % 6, keys)
    others = rng.integers(0, tracklets, (tracklets, 4))
    found = [
        Finding(
            row,
            1 - row / tracklets,
            ("wrong", "switch", "merge", "")[row % 4],
            int(split.pid[others[row, 0]]),
            ((10, 14),) if row % 4 == 1 else (),
            {"features": 0.1, "dynamics": -0.2, "neighbours": 0.3},
            tuple(
                Exemplar(row // 10 * 10 + k, 0.8) for k in range(10) if row // 10 * 10 + k < tracklets and k != row % 10
            )[:4],
            tuple(Exemplar(int(other), 0.7) for other in others[row]),
        )
        for row in rng.permutation(tracklets).tolist()
    ]
    begin = perf_counter()
    write_audit_page(folder, split, found, IdNames(), lambda frame: pictures[frame % len(pictures)], {})
    return perf_counter() - begin


def measure(browser: Browser, page: Path) -> dict[str, float]:
    """Measure one opening, a scroll and a hundred decisions, in milliseconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    tab = context.new_page()
    begin = perf_counter()
    tab.goto(page.as_uri(), wait_until="commit")
    tab.wait_for_selector("body[data-ready]")
    opened = 1000 * (perf_counter() - begin)
    scrolled, decided = np.array(tab.evaluate(SCROLL)), np.array(tab.evaluate(DECIDE))
    context.close()
    return {
        "opened": opened,
        "frame_median": float(np.median(scrolled)),
        "frame_p95": float(np.quantile(scrolled, 0.95)),
        "frame_longest": float(scrolled.max()),
        "decision_median": float(np.median(decided)),
        "decision_longest": float(decided.max()),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tracklets", type=int, default=20000)
    arguments.add_argument("--frames", type=int, default=40)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--json", type=Path)
    flags = arguments.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as play:
        seconds = write(Path(place), flags.tracklets, flags.frames)
        sheets = list((Path(place) / "data").glob("*.jpg"))
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        turns = [measure(browser, Path(place) / "index.html") for _ in range(flags.repeat)]
        report: dict[str, Any] = {
            "browser": f"Chromium {browser.version}, headless",
            "tracklets": flags.tracklets,
            "write_seconds": seconds,
            "findings_mb": sum(file.stat().st_size for file in (Path(place) / "data").glob("*.js")) / 1e6,
            "sheets": len(sheets),
            "sheets_mb": sum(file.stat().st_size for file in sheets) / 1e6,
            "milliseconds": {name: float(np.median([turn[name] for turn in turns])) for name in turns[0]},
            "turns": turns,
        }
        browser.close()
    for name, value in report.items():
        if name != "turns":
            print(f"{name}: {value}")
    keep(flags.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
