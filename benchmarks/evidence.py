"""Cost of recording, during training, how well the network fits every label: the share of a training step, and bytes.

Compares CPU time of recording with that of the whole step, at the size of `configs/demo.yaml`, on images in memory, with the number of
frames, tracklets and persons of MARS.

    python benchmarks/evidence.py --json benchmarks/results/evidence.json
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import timm
import torch
from record import keep
from torch import nn

import reid.models  # noqa: F401  registers the networks
from reid.engine.evidence import Evidence, fit_of
from reid.losses import IMAE
from reid.models.embedding import Classifier, Embedding
from reid.tracklets import Split

MARS = {"frames": 509_914, "tracklets": 8_298, "persons": 625}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--size", type=int, nargs=2, default=[64, 32], metavar=("H", "W"))
    parser.add_argument("--repeat", type=int, default=15, help="repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    flags = parser.parse_args()
    torch.manual_seed(0)
    backbone = timm.create_model("googlenet_bn", pretrained=False, num_classes=0)
    model, loss = Classifier(Embedding(backbone, "bn"), MARS["persons"]), IMAE()
    optimizer = torch.optim.AdamW(model.parameters())
    evidence = Evidence(split_like_mars(), iterations=1000)
    images = torch.rand(flags.batch_size, 3, *flags.size)
    target, frames = (
        torch.randint(MARS["persons"], (flags.batch_size,)),
        torch.randint(MARS["frames"], (flags.batch_size,)),
    )
    of_step, of_evidence = [], []
    for turn in range(flags.repeat):
        began = time.process_time()
        logits = model(images)
        [gradient] = torch.autograd.grad(loss(logits, target).mean(), logits, retain_graph=True)
        optimizer.zero_grad()
        logits.backward(gradient)
        optimizer.step()
        between = time.process_time()
        evidence.add(turn, frames, *fit_of(logits, target), gradient.abs().sum(1))
        of_step.append(between - began)
        of_evidence.append(time.process_time() - between)
    step, taken = statistics.median(of_step[2:]), statistics.median(of_evidence[2:])
    size = sum(value.numel() * value.element_size() for value in evidence.state_dict().values())
    print(f"step {1000 * step:.1f} ms, evidence {1000 * taken:.2f} ms: {100 * taken / step:.2f} % of the step")
    print(
        f"MARS: {size / 2**20:.1f} MiB in memory and in each checkpoint; weights and AdamW {weights(model) / 2**20:.1f} MiB"
    )
    keep(flags.json, {"step_ms": 1000 * step, "evidence_ms": 1000 * taken, "share": taken / step, "bytes_mars": size})


def weights(model: nn.Module) -> int:
    return 3 * 4 * sum(parameter.numel() for parameter in model.parameters())


def split_like_mars() -> Split:
    stop = np.linspace(0, MARS["frames"], MARS["tracklets"] + 1).astype(int)
    names, pid = np.full(MARS["frames"], b"x"), np.arange(MARS["tracklets"]) % MARS["persons"]
    return Split(Path(), names, stop[:-1], stop[1:], pid, np.zeros_like(pid))


if __name__ == "__main__":
    main()
