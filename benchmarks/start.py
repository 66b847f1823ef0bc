"""What a command takes before it does anything: help of every verb, a search by key, a search by picture, beside importing torch alone.

    python benchmarks/start.py [--repeat 3] [--json FILE]

Seconds of the processor and of the clock, the least of all repeats, each command a process of its own; the first call, which writes
bytecode and fills the page cache, does not count. The gallery is small and the network's weights are random: neither matters here.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from record import keep

from reid.__main__ import VERBS

ROOT = Path(__file__).parents[1]
WORLD = """
import sys
from pathlib import Path
import torch
from reid import config, experiment
from reid.datasets.demo import write_demo
from reid.engine import checkpoint
from reid.models.embedding import Classifier
write_demo(Path("demo"), train_ids=4, test_ids=4, tracklets_per_id=3, min_frames=2, max_frames=3)
Path("run").mkdir()
Path("run/config.yaml").write_text("{name: random, data: {name: demo}, model: {name: osnet_x1_0, pretrained: false}, "
                                   "augment: {resize: [256, 128], crop: [256, 128]}, machine: {device: cpu, workers: 0}}")
embedding, _ = experiment.build_embedding(config.load(Path("run/config.yaml")), initial_weights=False)
for module in embedding.modules():
    module.momentum = None  # of a normalisation: the mean of the batches
embedding.train()(torch.randn(8, 3, 256, 128))  # statistics as after a training, else rounding errors grow from layer to layer
checkpoint.save(Path("run/checkpoints/last.pt"), model=Classifier(embedding, 2).state_dict(), pids=[1, 2])
"""


def main(argv: list[str] | None = None) -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    reid = [sys.executable, "-m", "reid"]
    with tempfile.TemporaryDirectory() as folder:
        export = [
            "export",
            "run",
            "--format",
            "onnx",
            "--preprocessing",
            "outside",
            "--out",
            "model.onnx",
            "--data-root",
            ".",
        ]
        extract = ["extract", "run", "demo", "--out", "gallery"]
        for command in ([sys.executable, "-c", WORLD], [*reid, *extract], [*reid, *export]):
            seconds(command, Path(folder))
        key = (Path(folder) / "gallery/meta.csv").read_text().splitlines()[1].split(",")[1]
        picture = str(next((Path(folder) / "demo").rglob("*.jpg")))
        commands = {
            "help, the slowest verb": [[*reid, verb, "--help"] for verb in VERBS],
            "search by key": [[*reid, "search", "gallery", key]],
            "search by picture": [[*reid, "search", "gallery", picture]],
            "search by picture, exported network": [[*reid, "search", "gallery", picture, "--weights", "model.onnx"]],
            "importing torch": [[sys.executable, "-c", "import torch"]],
            "importing torch and timm": [[sys.executable, "-c", "import torch, timm"]],
        }
        lines = []
        for name, several in commands.items():
            slowest = max(least(command, Path(folder), arguments.repeat) for command in several)
            lines.append({"what": name, "processor_s": slowest[0], "clock_s": slowest[1]})
            print(lines[-1], file=sys.stderr, flush=True)
    print("| | processor, s | clock, s |\n|---|---|---|")
    print("\n".join(f"| {one['what']} | {one['processor_s']:.2f} | {one['clock_s']:.2f} |" for one in lines))
    keep(arguments.json, {"repeat": arguments.repeat, "starts": lines}, argv)


def least(command: Sequence[str], folder: Path, repeat: int) -> tuple[float, float]:
    """Of all repeats but one more."""
    took = [seconds(command, folder) for _ in range(repeat + 1)][1:]
    return min(processor for processor, _ in took), min(clock for _, clock in took)


def seconds(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Of the processor and of the clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


if __name__ == "__main__":
    main()
