"""Frames per second and core that the decoding workers deliver, and the memory of the index shared by the workers (Linux).

    python benchmarks/data.py --data-root DIR [--mars-info DIR] [--json FILE]

The frames are crops of the demo dataset of `make data`, enlarged to 128 x 256 and written as JPEGs; they are in the page cache. The
usual recipe reads one with Pillow, applies torchvision's transforms and collates in a torch DataLoader. Without workers, CPU
time is counted; with workers, CPU time of all processes and wall time, their start included. The contenders take turns.

With `--mars-info` (MARS' three tables; the name lists are rebuilt from them), 8 workers read from an index of all 1,191,003 frames: ours,
and a list of (path, pid, camid) tuples. Every process counts its proportional share of each page (PSS). The same is measured with an
index of a few frames, and the difference is the size of the index. One small image is read for every name.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from mars_index import write_layout
from PIL import Image
from record import keep
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

from reid.augment import Preprocess
from reid.datasets import frames
from reid.datasets.loader import load_batches
from reid.datasets.mars import load_mars
from reid.files import data_root
from reid.tracklets import Split

PROJECT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = {"256 x 256, crop 224 x 224": ((256, 256), (224, 224)), "256 x 128": ((256, 128), (256, 128))}
USUAL, OURS, WHOLE = "usual recipe", "ours: uint8 frames", "ours: resized, cropped, flipped, normalised"


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder with demo/; default: REID_DATA, else ./data")
    parser.add_argument("--frames", type=int, default=2000, help="JPEGs to write")
    parser.add_argument("--turn", type=int, default=1440, help="frames that each method reads per repetition")
    parser.add_argument("--batch-size", type=int, default=180)
    parser.add_argument("--repeat", type=int, default=5, help="repetitions")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mars-info", type=Path, help="folder with MARS' three .mat tables")
    parser.add_argument(
        "--share", type=float, default=0.2, help="fraction of an epoch after which memory is measured again"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hold", nargs=3, metavar=("KIND", "SHARE", "TABLES"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    if flags.hold:
        print(json.dumps(held(flags.hold[0], float(flags.hold[1]), flags.hold[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        report = speeds(flags, written(data_root(flags.data_root) / "demo", Path(folder), flags.frames))
    if flags.mars_info:
        report["memory"] = memory(flags)
    print(tables(report))
    keep(flags.json, report)


def written(demo: Path, folder: Path, number: int) -> Split:
    """Write JPEGs of 128 x 256 from the demo's crops."""
    crops = sorted(demo.rglob("*.jpg"))
    for i in range(number):
        with Image.open(crops[i * len(crops) // number]) as crop:
            crop.resize((128, 256), Image.Resampling.BICUBIC).save(folder / f"{i:06}.jpg", quality=90)
    names = np.array([f"{i:06}.jpg".encode() for i in range(number)])
    return Split(folder, names, np.array([0]), np.array([number]), np.array([1]), np.array([1]))


class Usual(Dataset):
    """A typical Dataset: a list of tuples, one image at a time, through Pillow and transforms."""

    def __init__(self, split: Split, resize: tuple[int, int], crop: tuple[int, int]) -> None:
        self.items = [(str(path), 0, 0) for path in split[0].paths]
        places = [v2.RandomCrop(crop)] if crop != resize else []
        end = [v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self.transform = v2.Compose([v2.Resize(resize), *places, *end])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int]:
        path, pid, camid = self.items[i]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), pid, camid


def speeds(flags: argparse.Namespace, split: Split) -> dict[str, object]:
    """Measure seconds per frame of every contender and turn."""
    chosen = contenders(flags, split)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for turn, (name, work) in product(range(flags.repeat + 1), chosen.items()):
        first = turn * flags.turn
        numbers = np.arange(first, first + flags.turn) % len(split.names)
        cpu, wall = cpu_seconds(), time.perf_counter()
        work(numbers)
        if turn:  # the first one warms up
            seconds[name].append(((cpu_seconds() - cpu) / flags.turn, (time.perf_counter() - wall) / flags.turn))
    size = statistics.mean(path.stat().st_size for path in split[0].paths)
    medians = {
        name: [statistics.median(column) for column in zip(*turns, strict=True)] for name, turns in seconds.items()
    }
    return {"bytes_per_frame": size, "cpu_and_wall_seconds_per_frame": medians, "turns": seconds}


def contenders(flags: argparse.Namespace, split: Split) -> dict[str, Callable[[np.ndarray], None]]:
    """Functions that each read the frames of given indices."""
    rng = torch.Generator().manual_seed(0)

    def usual(setting: str, workers: int) -> Callable[[np.ndarray], None]:
        dataset = Usual(split, *SETTINGS[setting])

        def work(numbers: np.ndarray) -> None:
            for _ in DataLoader(Subset(dataset, numbers.tolist()), flags.batch_size, num_workers=workers):
                pass

        return work

    def ours(setting: str | None, workers: int) -> Callable[[np.ndarray], None]:
        preprocess = Preprocess(*SETTINGS[setting], MEAN, STD) if setting else None

        def work(numbers: np.ndarray) -> None:
            batches = [numbers[i : i + flags.batch_size] for i in range(0, len(numbers), flags.batch_size)]
            for batch in load_batches(split, batches, workers=workers):
                if preprocess:
                    preprocess(batch.images, torch.device("cpu"), torch.rand(len(batch.frames), 3, generator=rng))

        return work

    files = [path.read_bytes() for path in split[0].paths]
    some = f"{flags.workers} workers"
    return {
        **{f"{USUAL}, {setting}": usual(setting, 0) for setting in SETTINGS},
        OURS: ours(None, 0),
        **{f"{WHOLE}, {setting}": ours(setting, 0) for setting in SETTINGS},
        **{f"{USUAL}, {setting}, {some}": usual(setting, flags.workers) for setting in SETTINGS},
        f"{OURS}, {some}": ours(None, flags.workers),
        "limit: simplejpeg, bytes in memory": lambda numbers: (
            [simplejpeg.decode_jpeg(files[i]) for i in numbers] and None
        ),
        "limit: reading the bytes": lambda numbers: [frames.read(split.path(i)) for i in numbers] and None,
    }


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class Listed(Dataset):
    """An index that is a list of tuples."""

    def __init__(self, split: Split, image: bytes) -> None:
        self.items = [(str(path), 0, 0) for path in map(split.path, range(len(split.names)))]
        self.image = image

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int, int]:
        _path, pid, camid = self.items[i]
        with Image.open(io.BytesIO(self.image)) as image:
            return torch.from_numpy(np.array(image)), pid, camid


def held(kind: str, share: float, tables: str, workers: int = 8, batch: int = 100) -> dict[str, float]:
    """Measure MB of this process and its workers at the first batch, and after a share of an epoch; to be called in a fresh process."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    out = io.BytesIO()
    Image.new("RGB", (8, 16)).save(out, "JPEG")
    image, split = out.getvalue(), whole_mars(Path(tables) if tables else None)
    order = np.random.default_rng(0).permutation(len(split.names))[: max(int(share * len(split.names)), 10_000)]
    order = np.resize(order, max(len(order), 4 * workers * batch))
    stream: object
    if kind == "list":
        listed = Listed(split, image)
        del split
        stream = DataLoader(listed, batch, sampler=order.tolist(), num_workers=workers)
    else:
        frames.read = lambda path: image
        stream = load_batches(split, np.split(order, range(batch, len(order), batch)), workers=workers)
    sizes = []
    last = -(-len(order) // batch) - 1
    for i, _ in enumerate(stream):
        if i in (0, last):
            children = [child.pid for child in multiprocessing.active_children()]
            assert len(children) == workers
            sizes.append([proportional_mb(pid) for pid in (os.getpid(), *children)])
    return {"begin": sum(sizes[0]), "end": sum(sizes[1]), "frames_read": len(order)}


def whole_mars(tables: Path | None) -> Split:
    """Build one split of all frame names of MARS, or of a few names."""
    if tables is None:
        names = np.array([b"bbox_train/0001/0001C1T0001F%03d.jpg" % i for i in range(100)])
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_layout(tables, Path(folder))
            mars = load_mars(Path(folder))
        names = np.concatenate([mars.train.names, mars.test.names])
    return Split(Path("/data/mars"), names, np.array([0]), np.array([len(names)]), np.array([1]), np.array([1]))


def proportional_mb(pid: int) -> float:
    """A process's proportional set size in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def memory(flags: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure MB of the main process and 8 workers for each kind of index, with all frames and with a few."""
    sizes = {}
    for kind, tables in product(("ours", "list"), (str(flags.mars_info), "")):
        command = [sys.executable, __file__, "--hold", kind, str(flags.share), tables]
        environment_ = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment_, check=True, capture_output=True, text=True)
        sizes[f"{kind}, {'all frames' if tables else 'a few frames'}"] = json.loads(done.stdout.splitlines()[-1])
    return sizes


def tables(report: dict) -> str:
    """Format one row per contender; speed-ups are relative to the usual recipe of the same setting, or to each if there are two."""
    medians = report["cpu_and_wall_seconds_per_frame"]
    lines = [
        "| | CPU µs per frame | frames/s per core | frames/s by the clock | CPU: times the usual |",
        "|---|---|---|---|---|",
    ]
    for name, (cpu, wall) in medians.items():
        ratios = [medians[usual][0] / cpu for usual in peers(name, medians)]
        shown = " / ".join(f"{ratio:.1f}" for ratio in ratios)
        lines.append(f"| {name} | {1e6 * cpu:.0f} | {1 / cpu:,.0f} | {1 / wall:,.0f} | {shown} |")
    if "memory" in report:
        sizes = report["memory"]
        lines += ["", "| index | at the first batch, MB | after a share of an epoch, MB |", "|---|---|---|"]
        lines += [f"| {name} | {size['begin']:.0f} | {size['end']:.0f} |" for name, size in sizes.items()]
        for kind in ("ours", "list"):
            full, few = sizes[f"{kind}, all frames"], sizes[f"{kind}, a few frames"]
            begin, end = (full[key] - few[key] for key in ("begin", "end"))
            lines.append(f"| {kind}: the index alone | {begin:.0f} | {end:.0f} |")
    return "\n".join(lines)


def peers(name: str, names: dict) -> list[str]:
    """The usual recipes to compare a contender with: of its setting, or of all settings, with the same use of workers."""
    if name.startswith("limit"):
        return []
    workers = name.endswith("workers")
    usual = [other for other in names if other.startswith(USUAL) and other.endswith("workers") == workers]
    of_setting = [other for other in usual if any(s in other and s in name for s in (f", {s}" for s in SETTINGS))]
    return of_setting or usual


if __name__ == "__main__":
    main()
