"""When and why IMAE's logits diverge, and what prevents it: a small network on few images, so that it happens in minutes.

    python benchmarks/imae_runaway.py --data-root DIR [--group ends|guard] [--rate R] [--seed S] [--json FILE] [--figure FILE.png]

A perceptron with batch normalisation on 4x4-pooled CIFAR-10 images with symmetric noise, and the study's batches, steps and telemetry.
Eq. 22 gives every sample a weight of at least 1, whether fitted or hopeless, so no logit is ever large enough. In the group `ends`, the
weight vanishes where p -> 1 (fitted), where p -> 0 (hopeless, mostly wrong labels), or at both ends, which is `imae_guarded`; one variant
has a stronger weight decay instead. The group `guard` is the form released by IMAE's authors, with guards of different size at p -> 1, and
weights divided by their sum or their number, in float32 and float64: which of guard, normaliser and number format prevents divergence?
"""

import argparse
import functools
import itertools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from record import keep
from torch import Tensor, nn

from reid.cifar.cell import Cell, advance
from reid.cifar.config import StudyConfig, StudyData
from reid.cifar.folder import Files
from reid.cifar.labels import load_data
from reid.cifar.study import Trainer, evaluation_steps
from reid.config import Component
from reid.engine.optim import milestones, sgd
from reid.files import data_root
from reid.losses import CCE, GCE, IMAE, IMAEGuarded, IMAEReleased
from reid.report import charts, study_plots
from reid.report.tables import text_table
from reid.runtime import Runtime, seed_of

EPSILON = 2.5e-3  # of a one-sided guard: a quarter of 1e-2, as 4p(1 - p) is 4p or 4(1 - p) at the ends


class OneSided(IMAE):
    """IMAE whose weight vanishes at one end only."""

    def __init__(self, fitted: bool) -> None:
        super().__init__(8.0)
        self.fitted = fitted

    def weight(self, p: Tensor) -> Tensor:
        end = 1 - p if self.fitted else p
        return super().weight(p) * end / (end + EPSILON)


class Variant(NamedTuple):
    """One training setup."""

    loss: nn.Module
    decay: float = 1e-4
    dtype: torch.dtype = torch.float32


ENDS = {
    "CCE": Variant(CCE()),
    "IMAE, exact": Variant(IMAE(8.0)),
    "IMAE, exact, weight decay 1e-3": Variant(IMAE(8.0), 1e-3),
    "IMAE, dies at p → 1 only": Variant(OneSided(fitted=True)),
    "IMAE, dies at p → 0 only": Variant(OneSided(fitted=False)),
    "IMAE guarded (ε = 0.1)": Variant(IMAEGuarded(8.0, 1e-1)),
    "IMAE guarded (ε = 0.01)": Variant(IMAEGuarded(8.0, 1e-2)),
    "IMAE guarded (ε = 0.001)": Variant(IMAEGuarded(8.0, 1e-3)),
}
GUARD = {
    "CCE": Variant(CCE()),
    "GCE (q = 0.7)": Variant(GCE(0.7)),
    "IMAE, exact": Variant(IMAE(8.0)),
    **{
        f"IMAE released (ε = {epsilon:g}, ÷ {'Σw' if normalise == 'weights' else 'N'}), float{bits}": Variant(
            IMAEReleased(8.0, epsilon, normalise), dtype=torch.float64 if bits == 64 else torch.float32
        )
        for bits in (32, 64)
        for normalise in ("weights", "size")
        for epsilon in (0.0, 1e-12, 1e-6, 1e-3)
    },
}


class Perceptron(nn.Module):
    """Images (B, 3, 32, 32) -> logits (B, K): three hidden layers of 256, each with batch normalisation."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = [3 * 8 * 8, 256, 256, 256]
        layers = [
            layer
            for inner, outer in itertools.pairwise(widths)
            for layer in (nn.Linear(inner, outer, bias=False), nn.BatchNorm1d(outer), nn.ReLU())
        ]
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), *layers)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images.to(self.fc.weight.dtype)))


def main() -> None:
    """Train every variant and print its final state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder with cifar-10-batches-py; default: REID_DATA, else ./data")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--group", choices=["ends", "guard"], default="ends")
    parser.add_argument("--rate", type=float, default=0.5, help="rate of symmetric noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="file for the plot of the telemetry")
    flags = parser.parse_args()
    noise = Component(name="symmetric", rate=flags.rate, seed=0)
    root = str(data_root(flags.data_root))
    settings = StudyConfig(data=StudyData(root=root, train_images=flags.images, test_images=2000), noise=[noise])
    trainer = Trainer(settings, load_data(settings), Files(Path()), Runtime(torch.device("cpu"), torch.float32))
    records = []
    for name, variant in (ENDS if flags.group == "ends" else GUARD).items():
        records.append(trained(trainer, name, variant, noise, flags))
        print(text_table(*table(records[-1:])).splitlines()[-1], flush=True)
    print(text_table(*table(records)))
    if flags.figure:
        draw(flags.figure, records)
    keep(flags.json, {"records": records})


def trained(trainer: Trainer, name: str, variant: Variant, noise: Component, flags: argparse.Namespace) -> dict:
    """Train one variant; returns a record in the study's format."""
    torch.manual_seed(seed_of(flags.seed, "init"))
    schedule = milestones([flags.iterations // 2, 3 * flags.iterations // 4], flags.iterations)
    optimizer, rate = functools.partial(sgd, weight_decay=variant.decay), lambda step: 0.1 * schedule(step)
    data = trainer.data_of(noise)
    model = Perceptron(10).to(variant.dtype)
    cell = Cell(model, variant.loss, optimizer, data, rate, 64, flags.seed, trainer.runtime)
    curve: dict[str, list] = {}
    began = time.perf_counter()
    for step in evaluation_steps(flags.iterations, 16):
        count = step - cell.steps
        advance([cell], count)
        figures = cell.evaluate()
        figures["loss"] /= count
        for key, value in {"step": step, **figures}.items():
            curve.setdefault(key, []).append(value if math.isfinite(value) else None)
    return {
        "cell": name,
        "dataset": "cifar10",
        "depth": 5,
        "loss": {"name": name},
        "loss_label": name,
        "noise": noise.model_dump(),
        "noise_label": f"{100 * flags.rate:g} % symmetric",
        "seed": flags.seed,
        "realised_rate": trainer.data.rate(noise),
        "iterations": flags.iterations,
        "num_train": flags.images,
        "num_test": trainer.data.num_test,
        "curve": curve,
        "best": {"test": max(curve["test"])},
        "final": {key: values[-1] for key, values in curve.items()},
        "seconds": time.perf_counter() - began,
    }


def draw(path: Path, records: list[dict]) -> None:
    """Draw the telemetry of every variant whose logits stayed finite."""
    finite = [record for record in records if record["final"]["max_logit"] is not None]
    (chart,) = study_plots.telemetry(finite)
    charts.save(path, [replace(chart, title=f"perceptron, {records[0]['noise_label']} noise")])


def table(records: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Tabulate the final state of each variant."""
    header = ["loss", "test best", "test final", "train as given", "largest logit", "ever", "head norm", "saturated"]

    def row(record: dict) -> list[str]:
        end = record["final"]
        shares = [record["best"]["test"], end["test"], end["train_corrupted"]]
        ever = max((value for value in record["curve"]["max_logit"] if value is not None), default=None)
        large = [
            "diverged" if value is None else f"{value:.0f}" for value in (end["max_logit"], ever, end["head_norm"])
        ]
        percent = [f"{100 * share:.1f}" for share in (*shares, end["saturated"])]
        return [record["loss_label"], *percent[:3], *large, percent[3]]

    return header, [row(record) for record in records]


if __name__ == "__main__":
    main()
