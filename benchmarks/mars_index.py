"""Time and memory of loading the full MARS index, compared with torchreid's (Linux).

    python benchmarks/mars_index.py --mars-info DIR [--peer-path DIR] [--repeat 5] [--json FILE]

DIR holds MARS' three tables; the name lists are rebuilt from them by the dataset's naming rule. Every load runs in a
fresh process; imports are not counted. Added memory is the peak resident size during the load minus the size before
it. torchreid leaves out the junk tracklets, so it has fewer frames.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType

PROJECT = Path(__file__).resolve().parents[1]
TABLES = ("tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")


def write_layout(tables: Path, folder: Path) -> None:
    """Copy the tables into a MARS layout and write the matching name lists."""
    from scipy.io import loadmat

    (folder / "info").mkdir(parents=True)
    for table in TABLES:
        shutil.copyfile(tables / table, folder / "info" / table)
    for part in ("train", "test"):
        (folder / f"bbox_{part}" / "0000").mkdir(parents=True)
        tracklets: Counter[int] = Counter()
        with open(folder / "info" / f"{part}_name.txt", "w") as stream:
            for start, end, pid, camera in loadmat(tables / f"tracks_{part}_info.mat")[f"track_{part}_info"].tolist():
                tracklets[pid] += 1
                head = f"{'00-1' if pid < 0 else f'{pid:04d}'}C{camera}T{tracklets[pid]:04d}"
                stream.writelines(f"{head}F{frame:03d}.jpg\n" for frame in range(1, end - start + 2))


def _memory(field: str) -> float:
    """Read a field of this process's status in MB: VmRSS is the resident size, VmHWM its peak."""
    # Not getrusage: its maximum survives exec, so a child would report its parent's.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def measure(loader: str, data_root: Path) -> dict[str, float]:
    """Load once in this process: seconds, added MB, and the frames that train and test hold."""
    import scipy.io  # noqa: F401  (imported by both, not counted)

    if loader == "ours":
        from reid.datasets.mars import load_mars

        load, frames = lambda: load_mars(data_root / "mars"), lambda b: b.train.num_frames + b.test.num_frames
    else:
        for unused in ("cv2", "gdown"):  # imported by torchreid's package, but not used by its MARS loader
            sys.modules.setdefault(unused, ModuleType(unused))
        from torchreid.data.datasets.video.mars import Mars

        load = lambda: Mars(root=str(data_root), verbose=False, transform=str)  # noqa: E731
        frames = lambda b: sum(len(item[0]) for item in b.train + b.query + b.gallery)  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, begin = _memory("VmRSS"), perf_counter()
    index = load()
    seconds, added = perf_counter() - begin, _memory("VmHWM") - before
    return {"seconds": seconds, "added_mb": added, "frames": frames(index)}


def _measure_apart(loader: str, data_root: Path, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", loader, str(data_root)]
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(results: dict[str, list[dict[str, float]]]) -> str:
    lines = ["| loader | n | seconds, median (range) | added MB, median | frames |", "|---|---|---|---|---|"]
    middle = {}
    for loader, runs in results.items():
        seconds, added = ([run[key] for run in runs] for key in ("seconds", "added_mb"))
        middle[loader] = median(seconds), median(added)
        span = f"{median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})"
        lines.append(f"| {loader} | {len(runs)} | {span} | {median(added):.0f} | {runs[0]['frames']:,.0f} |")
    if "torchreid" in middle:
        faster, smaller = (peer / ours for peer, ours in zip(middle["torchreid"], middle["ours"], strict=True))
        lines.append(f"| ratio | | {faster:.1f} | {smaller:.1f} | |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mars-info", type=Path, help="folder with MARS' three .mat tables")
    parser.add_argument("--peer-path", type=Path, help="a checkout of torchreid, to compare with")
    parser.add_argument("--repeat", type=int, default=5, help="fresh processes per loader")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--measure", nargs=2, metavar=("LOADER", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]))))
        return
    if options.mars_info is None:
        parser.error("--mars-info DIR is required")
    paths = {"ours": PROJECT} | ({"torchreid": options.peer_path.resolve()} if options.peer_path else {})
    results: dict[str, list[dict[str, float]]] = {loader: [] for loader in paths}
    with tempfile.TemporaryDirectory() as folder:
        write_layout(options.mars_info, Path(folder) / "mars")
        for loader in list(paths) * options.repeat:  # in turns, so that disturbances of the machine affect both
            results[loader].append(_measure_apart(loader, Path(folder), paths[loader]))
    print(_table(results))
    from record import keep  # not where memory is measured: it imports torch

    keep(options.json, {"runs": results}, argv)


if __name__ == "__main__":
    main()
