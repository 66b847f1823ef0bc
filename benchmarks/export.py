"""ONNX files compared with PyTorch: difference of features, order of similarities, time per image on one core.

    python benchmarks/export.py --keep benchmarks/results/export.json

Networks have random weights, and batch statistics of the images, which are rendered people. Both are timed in turns in one process; on a
busy machine only their ratio is meaningful.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from record import keep

import reid.models  # noqa: F401  registers the backbones with timm
from reid.augment import Preprocess
from reid.commands.export import same_order
from reid.datasets.decoding import decode
from reid.datasets.demo import write_demo
from reid.export import deployed
from reid.export.deployed import Deployed, Run
from reid.models.backbone import create_backbone
from reid.models.fused import fused

NETWORKS = {
    "googlenet_bn": (256, 128),
    "bn_inception": (256, 128),
    "resnet50": (256, 128),
    "osnet_x1_0": (256, 128),
    "vit_tiny_patch16_224": (224, 224),
}


def images(number: int) -> list[torch.Tensor]:
    """Read the first frame of each of `number` rendered tracklets."""
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder), train_ids=2, test_ids=number // 4 + 1, tracklets_per_id=4, min_frames=2, max_frames=2)
        files = sorted((Path(folder) / "bbox_test").rglob("*F001.jpg"))
        return [torch.from_numpy(decode(file)) for file in files[:: max(1, len(files) // number)][:number]]


@torch.inference_mode()
def measure(
    name: str, size: tuple[int, int], frames: list[torch.Tensor], dtypes: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Measure one network; one row per number format."""
    torch.manual_seed(0)
    network = create_backbone(name, pretrained=False)
    cfg: Any = network.pretrained_cfg
    preprocess = Preprocess(size, size, cfg["mean"], cfg["std"])
    inputs = preprocess(frames, torch.device("cpu"))
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            module.momentum = None  # cumulative mean of the batch statistics
    network.train()(inputs[:16])
    network.eval()
    plain = fused(network, inputs[:1])
    whole = Preprocess(size, size, [0.0] * 3, [1 / 255] * 3)(frames, torch.device("cpu"))
    pixels = whole.permute(0, 2, 3, 1).round().clamp(0, 255).byte().contiguous()
    reference = torch.nn.functional.normalize(network(preprocess(pixels, torch.device("cpu")))).numpy()
    rows = []
    for dtype in dtypes:
        model = Deployed(
            plain.to(memory_format=torch.contiguous_format),
            preprocess.mean,
            preprocess.std,
            size,
            size,
            inside=True,
            half=dtype == "fp16",
        )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            deployed.write(model, "onnx", file, "{}")
            if dtype == "int8":
                deployed.quantise(file, [part.numpy() for part in pixels[::2].split(8)])
                deployed.set_metadata(file, "{}")
            run, _ = deployed.load(file, "onnx", threads=1)
            megabytes = file.stat().st_size / 1e6
            outputs = np.concatenate([run(part.numpy())[0] for part in pixels.split(8)])
            exact = copy.deepcopy(model).double() if dtype == "float32" else None
            error = None if exact is None else float(np.abs(exact(pixels[:2])[0].numpy() - reference[:2]).max())
            ours, theirs = timed(run, torch_call(plain, preprocess), pixels[:8], rounds)
        row = {
            "network": name,
            "input": list(size),
            "dtype": dtype,
            "megabytes": round(megabytes, 1),
            "largest_difference": float(np.abs(outputs - reference).max()),
            "float32_against_float64": error,
            "order": same_order(reference, outputs),
            "onnxruntime_ms": round(1000 * statistics.median(ours), 2),
            "pytorch_ms": round(1000 * statistics.median(theirs), 2),
            "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def torch_call(network: torch.nn.Module, preprocess: Preprocess) -> Any:
    """Return the network as extraction runs it, preprocessing included."""
    prepared = copy.deepcopy(network).to(memory_format=torch.channels_last)
    return lambda batch: prepared(preprocess(batch, torch.device("cpu")))


def timed(run: Run, network: Any, batch: torch.Tensor, rounds: int) -> tuple[list[float], list[float]]:
    """Time both in turns, in seconds per image."""
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        run(batch.numpy())
        between = time.perf_counter()
        network(batch)
        ours.append((between - start) / len(batch))
        theirs.append((time.perf_counter() - between) / len(batch))
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"], choices=["float32", "fp16", "int8"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", type=Path, metavar="FILE")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    frames = images(flags.images)
    rows = []
    for name in flags.networks:
        if timm.is_model(name):
            rows += measure(name, NETWORKS[name], frames, flags.dtypes, flags.rounds)
        else:
            print(f"{name}: not a network of this version")
    versions = {
        name: str(module.__version__)
        for name, module in {"onnxruntime": onnxruntime, "torch": torch, "timm": timm}.items()
    }
    keep(
        flags.keep,
        {"images": len(frames), "threads": 1, "batch": 8, "rounds": flags.rounds, "versions": versions, "rows": rows},
    )


if __name__ == "__main__":
    main()
