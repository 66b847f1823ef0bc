"""What Ray costs an extraction: at its start, per shard, in images per second, and where an actor is killed.

    OMP_NUM_THREADS=2 python benchmarks/ray_extract.py [--frames 1024] [--json FILE]

Rendered people at 256 x 128, shards of 64 frames, a network of random weights (`resnet18`); features by a histogram of colours, which is
nearly no work, for what one more shard costs. Seconds are of the clock, since Ray works in other processes; each ratio is of one run.
Every extraction's features must equal those of one process to the last bit, or this stops.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import keep

from reid.augment import Preprocess
from reid.config import Config
from reid.datasets.demo import write_demo
from reid.datasets.folders import load_folders
from reid.engine import extract_on_ray
from reid.engine.extract import extract_shards
from reid.engine.extract_on_ray import Team, Work, extract_on
from reid.experiment import DATASETS, build_embedding
from reid.gallery.shards import Shards
from reid.models.color_histogram import ColorHistogram
from reid.models.pooling import POOLINGS
from reid.runtime import alone
from reid.tracklets import Split

SHARD = 64  # frames


def main(argv: list[str] | None = None) -> None:
    """Prints a Markdown table."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory() as scratch:
        split = people(Path(scratch), arguments.frames)
        network, preprocess = build_embedding(
            Config(model={"name": "resnet18", "pretrained": False}, augment={"resize": [256, 128], "crop": [256, 128]}),
            initial_weights=False,
        )
        heavy = work(network.eval(), preprocess, split, network.num_features, Path(scratch))
        histogram = ColorHistogram()
        light = work(histogram, preprocess, split, histogram.num_features, Path(scratch))
        start = time.perf_counter()
        import ray
        import ray.data

        lines = [line("importing ray", time.perf_counter() - start)]
        start = time.perf_counter()
        cores = os.cpu_count() or 1
        with extract_on_ray.team("cpu", "float32", 1) as each:
            lines.append(line("starting a cluster on this machine", time.perf_counter() - start))
            one_light, features = here(light)
            first, rest = on_ray(each, light, features)
            lines.append(line("from the question to the first shard of the first actors", first))
            shards = len(light.shards)
            lines.append(line(f"one more shard of {SHARD} frames, one process", one_light / shards))
            lines.append(line("one more shard, Ray", rest / (shards - 1)))
            one, features = here(heavy)
            lines.append(line("resnet18, one process", one, split.num_frames))
            whole = Team(1, cores, 0, torch.float32, each.address)
            for name, team in ((f"1 actor of {cores} cores", whole), (f"{cores} actors of 1 core", each)):
                first, rest = on_ray(team, heavy, features)
                lines.append(line(f"resnet18, Ray, {name}", first + rest, split.num_frames, first=first))
            first, rest = on_ray(each, heavy, features, kill_after=len(heavy.shards) // 3)
            lines.append(line("the same, one actor killed", first + rest, split.num_frames, first=first))
    print(table(lines))
    report = {"ray": ray.__version__, "frames": split.num_frames, "shard_frames": SHARD, "cores": cores}
    keep(arguments.json, {**report, "trials": lines}, argv)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def people(scratch: Path, frames: int) -> Split:
    """Rendered people, in tracklets of 16 frames."""
    write_demo(scratch / "demo", train_ids=2, test_ids=4, tracklets_per_id=4, min_frames=16, max_frames=16)
    test = DATASETS["demo"](scratch / "demo").test
    for number in range(frames // 16):
        folder = scratch / "people" / f"{number:06}"
        folder.mkdir(parents=True)
        for path in test[number % len(test)].paths:
            os.link(path, folder / path.name)
    return load_folders(scratch / "people")


def work(model: torch.nn.Module, preprocess: Preprocess, split: Split, dim: int, scratch: Path) -> Work:
    """All of a split, in shards."""
    options = {"dim": dim, "pooling": POOLINGS["mean"], "batch_size": 64, "workers": 0}
    return Work(model, preprocess, split, dict(enumerate(Shards(scratch, split, SHARD, dim, {}).rows)), options)


def here(work: Work) -> tuple[float, dict[int, np.ndarray]]:
    """Seconds of one process, and the features of each shard."""
    start = time.perf_counter()
    shards = list(work.shards.values())
    done = extract_shards(work.model, work.preprocess, work.split, alone("cpu"), shards, **work.options)
    features = dict(zip(work.shards, done, strict=True))
    return time.perf_counter() - start, features


def on_ray(team: Team, work: Work, expected: dict[int, np.ndarray], kill_after: int = 0) -> tuple[float, float]:
    """Seconds to the first shard, and from there to the last."""
    start, seconds = time.perf_counter(), []
    for number, features, _ in extract_on(team, work):
        seconds.append(time.perf_counter() - start)
        if not np.array_equal(features, expected[number]):
            sys.exit(f"shard {number}: other features than those of one process")
        if len(seconds) == kill_after:
            os.kill(actors()[0], signal.SIGKILL)
    if len(seconds) != len(work.shards):
        sys.exit(f"{len(seconds)} of {len(work.shards)} shards")
    return seconds[0], seconds[-1] - seconds[0]


def actors() -> list[int]:
    """Processes that embed."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it has just ended
    return sorted(found)


def line(name: str, seconds: float, frames: int = 0, **more: float) -> dict[str, Any]:
    """One figure, and images per second where it embeds."""
    one = {"what": name, "s": seconds, **({"images_per_s": frames / seconds} if frames else {}), **more}
    print(one, file=sys.stderr, flush=True)
    return one


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    rows = []
    for one in lines:
        first, rate = (f"{one[key]:.1f}" if key in one else "" for key in ("first", "images_per_s"))
        rows.append(f"| {one['what']} | {one['s']:.3f} | {first} | {rate} |")
    return "\n".join(["| | s | of these to the first shard | images/s |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    main()
