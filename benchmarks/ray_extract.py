"""Cost of Ray in an extraction: at startup, per shard, in images per second, and after an actor is killed.

    OMP_NUM_THREADS=2 python benchmarks/ray_extract.py [--frames 256] [--json FILE]

Rendered people at 256 x 128, shards of 32 frames, a network of random weights (`resnet18`); the cost of one more shard is measured with
a colour histogram, which takes almost no time. Seconds are wall time, and processor time of this process and all its children; each ratio
is of one run. Every extraction's features must be bitwise equal to those of one process, or the benchmark stops.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
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

SHARD = 32  # frames


def main(argv: list[str] | None = None) -> None:
    """Print a Markdown table."""
    arguments = parse(argv)
    PROCESSOR.start()
    with tempfile.TemporaryDirectory() as scratch:
        split = people(Path(scratch), arguments.frames)
        network, preprocess = build_embedding(
            Config(model={"name": "resnet18", "pretrained": False}, augment={"resize": [256, 128], "crop": [256, 128]}),
            initial_weights=False,
        )
        heavy = work(network.eval(), preprocess, split, network.num_features, Path(scratch))
        histogram = ColorHistogram()
        light = work(histogram, preprocess, split, histogram.num_features, Path(scratch))
        clock = Clock()
        import ray
        import ray.data

        lines = [line("importing ray", clock)]
        clock, cores = Clock(), os.cpu_count() or 1
        with extract_on_ray.team("cpu", "float32", 1) as each:
            lines.append(line("starting a cluster on this machine", clock))
            one, features = here(light)
            lines.append(line(f"{len(light.shards)} shards of a histogram, one process", one, split.num_frames))
            done = on_ray(each, light, features)
            lines.append(line(f"the same, Ray, {cores} actors of 1 core", done, split.num_frames))
            one, features = here(heavy)
            lines.append(line("resnet18, one process", one, split.num_frames))
            whole = Team(1, cores, 0, torch.float32, each.address)
            for name, team in ((f"1 actor of {cores} cores", whole), (f"{cores} actors of 1 core", each)):
                lines.append(line(f"resnet18, Ray, {name}", on_ray(team, heavy, features), split.num_frames))
            done = on_ray(each, heavy, features, kill_after=len(heavy.shards) // 3)
            lines.append(line("the same, one actor killed", done, split.num_frames))
    print(table(lines))
    report = {"ray": ray.__version__, "frames": split.num_frames, "shard_frames": SHARD, "cores": cores}
    keep(arguments.json, {**report, "trials": lines}, argv)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def people(scratch: Path, frames: int) -> Split:
    """Render people, in tracklets of 16 frames."""
    write_demo(scratch / "demo", train_ids=2, test_ids=4, tracklets_per_id=4, min_frames=16, max_frames=16)
    test = DATASETS["demo"](scratch / "demo").test
    for number in range(frames // 16):
        folder = scratch / "people" / f"{number:06}"
        folder.mkdir(parents=True)
        for path in test[number % len(test)].paths:
            os.link(path, folder / path.name)
    return load_folders(scratch / "people")


def work(model: torch.nn.Module, preprocess: Preprocess, split: Split, dim: int, scratch: Path) -> Work:
    """Split the extraction of all tracklets into shards."""
    options = {"dim": dim, "pooling": POOLINGS["mean"], "batch_size": 64, "workers": 0}
    return Work(model, preprocess, split, dict(enumerate(Shards(scratch, split, SHARD, dim, {}).rows)), options)


class Clock:
    """Seconds since it was made: of the clock, of the processors, and of the clock until the first shard and from there on."""

    def __init__(self) -> None:
        self.began, self.before = time.perf_counter(), PROCESSOR.look()
        self.first: float | None = None
        self.seconds = self.processor = 0.0

    def shard(self) -> None:
        """Notes that one is done."""
        self.first = self.first or time.perf_counter() - self.began

    def stop(self) -> "Clock":
        """Reads it."""
        self.seconds, self.processor = time.perf_counter() - self.began, PROCESSOR.look() - self.before
        return self


def below() -> list[int]:
    """This process and all that it started."""
    pids = [os.getpid()]
    for pid in pids:  # grows as children are found
        with contextlib.suppress(OSError):  # it has just ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


class Processor(threading.Thread):
    """Looks each second what all of them have used: what has ended since tells it no more."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.used: dict[int, int] = {}

    def run(self) -> None:
        while True:
            self.look()
            time.sleep(1)

    def look(self) -> float:
        """Seconds until now."""
        for pid in below():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self.used[pid] = sum(map(int, fields[11:13]))
        return sum(list(self.used.values())) / os.sysconf("SC_CLK_TCK")


PROCESSOR = Processor()


def here(work: Work) -> tuple[Clock, dict[int, np.ndarray]]:
    """Seconds of one process, and the features of each shard."""
    clock, features = Clock(), {}
    shards = list(work.shards.values())
    done = extract_shards(work.model, work.preprocess, work.split, alone("cpu"), shards, **work.options)
    for number, one in zip(work.shards, done, strict=True):
        features[number] = one
        clock.shard()
    return clock.stop(), features


def on_ray(team: Team, work: Work, expected: dict[int, np.ndarray], kill_after: int = 0) -> Clock:
    """Seconds of a team."""
    clock, shards = Clock(), 0
    for number, features, _ in extract_on(team, work):
        clock.shard()
        shards += 1
        if not np.array_equal(features, expected[number]):
            sys.exit(f"shard {number}: other features than those of one process")
        if shards == kill_after:
            os.kill(actors()[0], signal.SIGKILL)
    if shards != len(work.shards):
        sys.exit(f"{shards} of {len(work.shards)} shards")
    return clock.stop()


def actors() -> list[int]:
    """Processes that embed."""
    return [pid for pid in below() if b"ray::MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def line(name: str, clock: Clock, frames: int = 0) -> dict[str, Any]:
    """One figure, and images per second where it embeds."""
    clock = clock if clock.seconds else clock.stop()
    one = {"what": name, "s": clock.seconds, "processor_s": clock.processor}
    if clock.first is not None:
        one |= {"first_s": clock.first, "rest_s": clock.seconds - clock.first, "images_per_s": frames / clock.seconds}
    print(one, file=sys.stderr, flush=True)
    return one


def table(lines: list[dict[str, Any]]) -> str:
    """Format as Markdown."""
    rows = []
    for one in lines:
        first, rest = (f"{one[key]:.1f}" if key in one else "" for key in ("first_s", "rest_s"))
        rows.append(f"| {one['what']} | {one['processor_s']:.1f} | {one['s']:.1f} | {first} | {rest} |")
    head = ["| | processor, s | clock, s | to the first shard | from there on |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
