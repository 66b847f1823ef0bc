"""A tiny training job: three people told apart by their colour, a network of two layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reid.augment import Preprocess
from reid.datasets.sampling import FrameSampler
from reid.engine.optim import sgd, step_decay
from reid.engine.train import Job, TrainingSet
from reid.losses import LOSSES
from reid.models.embedding import Classifier, Embedding
from reid.runtime import Runtime
from reid.tracklets import Split

CPU = Runtime(torch.device("cpu"), torch.float32)
FRAMES, TRACKLETS = 4, 6  # of each tracklet; two tracklets a person


_N = TRACKLETS * FRAMES
REMEMBERS = {
    "gce_truncated": {"num_samples": _N, "iterations": 12},
    "elr": {"num_samples": _N, "num_classes": 3, "top": 2},
}


class Tiny(nn.Module):
    """(B, 3, h, w) -> (B, 8); as a rule without a normalisation layer, so that shares of a batch may be computed apart."""

    num_features = 8

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(images)).relu().mean((2, 3)))


def make_split(folder: Path) -> Split:
    rng = np.random.default_rng(0)
    names = []
    for i in range(TRACKLETS * FRAMES):
        colour = np.zeros(3)
        colour[i // FRAMES // 2] = 180
        pixels = (colour + rng.integers(0, 60, (16, 8, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        names.append(f"{i:02d}.png".encode())
    start = np.arange(TRACKLETS) * FRAMES
    return Split(folder, np.array(names), start, start + FRAMES, np.array([3, 3, 1, 1, 7, 7]), np.arange(TRACKLETS))


def make_job(
    split: Split,
    *,
    loss: str = "cce",
    dropout: bool = True,
    norm: bool = False,
    freeze_norm: bool = False,
    **settings: object,
) -> Job:
    torch.manual_seed(0)
    model = Classifier(Embedding(Tiny(norm), freeze_norm=freeze_norm), 3)
    model.embedding.backbone.drop.p = 0.1 if dropout else 0.0
    labels, pids = split.labels()
    given = {
        "iterations": 12, "batch_size": 5, "lr": 0.5, "log_freq": 4, "seed": 1, "workers": 0, "clip_grad": None, **settings
    }  # fmt: skip
    return Job(
        model=model,
        loss=LOSSES[loss](**REMEMBERS.get(loss, {})),
        optimizer=sgd(model, momentum=0.9, weight_decay=1e-3),
        schedule=step_decay(every=5, factor=0.5),
        data=TrainingSet(split, torch.from_numpy(np.repeat(labels, FRAMES)), None, pids),
        sampler=FrameSampler(split, given["batch_size"], seed=2),  # type: ignore[arg-type]
        preprocess=Preprocess([16, 8], [14, 7], [0.5] * 3, [0.5] * 3),
        **given,  # type: ignore[arg-type]
    )


def weights(job: Job) -> torch.Tensor:
    return nn.utils.parameters_to_vector(job.model.parameters()).detach().clone()


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return make_split(tmp_path)
