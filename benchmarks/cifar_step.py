"""Time of a training step of the label-noise study, compared with a plain loop: eager float32, DataLoader, per-image transforms.

    python benchmarks/cifar_step.py --data-root DIR [--json FILE]

Both train ResNet20 on CIFAR-10 with the same batch size, learning rate and augmentation. They take turns, `--repeat` times, and medians
are compared, because the machine may be shared. The plain loop has its own process, because the study changes the memory allocator.
The study is timed as one cell on all cores, and as it runs on a CPU: one process per core, a cell each. The floor is the arithmetic of
the step's convolutions at the speed of this machine's matrix product, measured in the same run.
"""

import argparse
import functools
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import timm
import torch
from record import keep
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from reid.cifar.cell import advance
from reid.cifar.config import CellSpec, StudyConfig, StudyData, StudyMachine, StudyTrain
from reid.cifar.folder import Files
from reid.cifar.labels import load_data
from reid.cifar.study import Trainer
from reid.commands.profile import product_rate
from reid.config import Component, parse
from reid.files import data_root
from reid.runtime import Runtime, start

CELL = CellSpec(20, Component(name="cce"), Component(name="clean"), 0)
CONV_FLOPS = 2 * (
    432 * 1024 + 6 * 2304 * 1024 + 4608 * 256 + 5 * 9216 * 256 + 18432 * 64 + 5 * 36864 * 64
)  # per image, forward


def main() -> None:
    """Time the contenders in turns and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder with cifar-10-batches-py; default: REID_DATA, else ./data")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps per repetition")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions")
    parser.add_argument("--workers", type=int, default=2, help="processes of the plain loop's DataLoader")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with start(flags.device, flags.dtype) as runtime:
        report = measured(flags, runtime)
    print(table(report))
    keep(flags.json, report)


def measured(flags: argparse.Namespace, runtime: Runtime) -> dict:
    """Measure seconds per step of every contender, and the floor."""
    settings = StudyConfig(
        data=StudyData(root=str(data_root(flags.data_root))), train=StudyTrain(batch_size=flags.batch_size)
    )
    compiled = settings.model_copy(update={"machine": StudyMachine(compile=True)})
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, begin_plain, (settings.dump(), runtime, flags.workers)) as plain:
        contenders = {
            "plain loop": lambda steps: plain.submit(turn_here, steps).result(),
            "one cell": one_cell(settings, runtime),
            "one cell, compiled": one_cell(compiled, runtime),
        }
        for turn in contenders.values():
            turn(2)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _, (name, turn) in itertools.product(range(flags.repeat), contenders.items()):
            seconds[name].append(turn(flags.steps))
    if runtime.device.type == "cpu":
        seconds["cells side by side, per step"] = side_by_side(flags, settings)
        seconds["cells side by side, compiled"] = side_by_side(flags, compiled)
    flops = 3 * CONV_FLOPS * flags.batch_size  # backward: weight and input gradients
    return {
        "device": str(runtime.device),
        "dtype": str(runtime.dtype),
        "seconds_per_step": {name: statistics.median(values) for name, values in seconds.items()},
        "turns": seconds,
        "gflop_per_step": flops / 1e9,
        "floor_seconds": flops / product_rate(runtime),
    }


class Plain(Dataset):
    """A typical Dataset: one image at a time, through transforms."""

    def __init__(self, images_NCHW: torch.Tensor, labels_N: torch.Tensor) -> None:
        self.images, self.labels = images_NCHW, labels_N
        self.transform = v2.Compose(
            [
                v2.ToPILImage(),
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.262)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[row]), int(self.labels[row])


def plain(settings: StudyConfig, runtime: Runtime, workers: int) -> Callable[[int], float]:
    """Return a function that times steps of the plain loop, continuing through its DataLoader."""
    train = load_data(settings).cifar.train
    loader = DataLoader(
        Plain(torch.from_numpy(train.images_NCHW), torch.from_numpy(train.labels_N)),
        settings.train.batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    model = timm.create_model("resnet20_cifar").to(runtime.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def batches() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    stream = batches()

    def turn(steps: int) -> float:
        began = time.perf_counter()
        for images, labels in itertools.islice(stream, steps):
            loss = F.cross_entropy(model(images.to(runtime.device)), labels.to(runtime.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # such loops log the loss
        return (time.perf_counter() - began) / steps

    return turn


def one_cell(settings: StudyConfig, runtime: Runtime) -> Callable[[int], float]:
    """Return a function that times steps of the study's own loop."""
    cell = Trainer(settings, load_data(settings), Files(Path()), runtime).build(CELL)
    if runtime.device.type == "cuda":
        cell.capture()

    def turn(steps: int) -> float:
        began = time.perf_counter()
        advance([cell], steps)
        runtime.wait()
        return (time.perf_counter() - began) / steps

    return turn


def side_by_side(flags: argparse.Namespace, settings: StudyConfig) -> list[float]:
    """Time one process per core: wall seconds divided by the total steps of all processes."""
    cores = torch.get_num_threads()
    work = functools.partial(_alone, settings.dump(), flags.steps)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(functools.partial(_alone, settings.dump(), 2), range(cores), chunksize=1)
        return [max(pool.map(work, range(cores), chunksize=1)) / cores for _ in range(flags.repeat)]


_TURN: list[Callable[[int], float]] = []  # in a subprocess: its contender


def begin_plain(settings: str, runtime: Runtime, workers: int) -> None:
    _TURN.append(plain(parse(settings, "benchmark", StudyConfig), runtime, workers))


def turn_here(steps: int) -> float:
    return _TURN[0](steps)


def _alone(settings: str, steps: int, _number: int) -> float:
    torch.set_num_threads(1)
    if not _TURN:
        _TURN.append(one_cell(parse(settings, "benchmark", StudyConfig), Runtime(torch.device("cpu"), torch.float32)))
    return turn_here(steps)


def table(report: dict) -> str:
    """Format one row per contender; speed-ups are relative to the plain loop."""
    seconds, floor = report["seconds_per_step"], report["floor_seconds"]
    rows = [
        f"| {name} | {1e3 * value:.4g} | {seconds['plain loop'] / value:.2f} | {value / floor:.2f} |"
        for name, value in seconds.items()
    ]
    head = ["| | ms per step | times faster | times the floor |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, f"| convolutions at the matrix product's rate | {1e3 * floor:.4g} | | 1.00 |"])


if __name__ == "__main__":
    main()
