"""Time of training and extraction, compared with a plain loop: float32, contiguous memory, Pillow transforms in a DataLoader.

    python benchmarks/training.py [--model googlenet_bn] [--batch-size 32] [--json FILE]

Both train the same network from the same weights on the same batches of 128 x 256 JPEGs, rendered into a temporary folder, and embed the
same frames. They take turns, `--repeat` times, and medians are compared, because the machine may be shared. The plain training has its own
process, because ours changes how a process keeps memory. `data in place` is our step on one batch that is on the device already: the best
that the data path could reach. The floor is the network's arithmetic at the speed of this machine's matrix product, measured in the
same run.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from record import keep
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

import reid.models  # noqa: F401  registers the networks
from reid.augment import PLACES, Preprocess
from reid.commands.profile import product_rate
from reid.datasets.demo import write_demo
from reid.datasets.loader import load_batches
from reid.datasets.mars import load_mars
from reid.datasets.sampling import FrameSampler
from reid.engine.extract import extract
from reid.engine.optim import constant, sgd
from reid.engine.train import Job, TrainingSet, fit
from reid.export import deployed
from reid.export.deployed import Deployed, Exported
from reid.export.onnx_file import OnnxNetwork
from reid.losses import CCE
from reid.models.embedding import Classifier, Embedding
from reid.models.fused import fused
from reid.models.pooling import POOLINGS
from reid.runtime import Runtime, start
from reid.tracklets import Split

MEAN = STD = [0.5] * 3
PLAIN, OURS, IN_PLACE = "plain loop", "this project", "data in place"
ONNX = f"{OURS}, by ONNX Runtime"


def main() -> None:
    """Time the contenders in turns and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="googlenet_bn")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (the paper: 180)")
    parser.add_argument("--crop", type=int, default=224, help="side of the crop; frames are resized to 8/7 of it")
    parser.add_argument("--steps", type=int, default=4, help="training steps per repetition")
    parser.add_argument("--people", type=int, default=8, help="training persons, with 6 tracklets each")
    parser.add_argument(
        "--tracklets", type=int, default=16, help="tracklets to embed per repetition, with 4 to 10 frames each"
    )
    parser.add_argument("--repeat", type=int, default=5, help="repetitions")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes of each method")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", help="dtype of this project; the plain loop uses float32")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with start(flags.device, flags.dtype) as runtime, tempfile.TemporaryDirectory() as folder:
        report = measured(flags, runtime, Path(folder) / "demo")
    print(table("Training", report["training"], report["product_flops"]), end="\n\n")
    print(table("Extraction", report["extraction"], report["product_flops"]))
    keep(flags.json, report)


def write_frames(root: Path, people: int) -> Split:
    """Render people as JPEGs of 128 x 256."""
    write_demo(root, train_ids=people, test_ids=2, tracklets_per_id=6, distractors=0, junk=0, label_noise=0.0)
    split = load_mars(root, "demo").train
    for frame in split.frames():
        with Image.open(split.path(frame)) as image:
            image.resize((128, 256), Image.Resampling.BICUBIC).save(split.path(frame), quality=90)
    return split


def measured(flags: argparse.Namespace, runtime: Runtime, root: Path) -> dict:
    """Measure images per second of every contender, the differences between their results, and the floor."""
    split = write_frames(root, flags.people)
    found = extraction(flags, runtime, split.select(np.arange(flags.tracklets)))  # before training changes the process
    return {
        "device": str(runtime.device),
        "dtype": str(runtime.dtype),
        "product_flops": product_rate(runtime),
        "training": training(flags, runtime, make_job(flags, runtime, split), root),
        "extraction": found,
    }


def make_job(flags: argparse.Namespace, runtime: Runtime, split: Split) -> Job:
    """Set up our side of the training, with steps for all turns."""
    labels_T, pids = split.labels()
    label_F = torch.full((len(split.names),), -1)
    label_F[split.frames()] = torch.from_numpy(np.repeat(labels_T, split.lengths))
    torch.manual_seed(0)
    model = runtime.place(Classifier(Embedding(timm.create_model(flags.model, num_classes=0)), len(pids)))
    return Job(
        model=model,
        loss=CCE(),
        optimizer=sgd(model),
        schedule=constant(),
        data=TrainingSet(split, label_F, None, pids),
        sampler=FrameSampler(split, flags.batch_size, seed=0),
        preprocess=preprocess(flags),
        seed=0,
        iterations=(flags.repeat + 1) * (lead(flags) + flags.steps),
        batch_size=flags.batch_size,
        lr=0.01,
        workers=flags.workers,
        log_freq=lead(flags) + flags.steps,
        scaler=runtime.grad_scaler(),
    )


def lead(flags: argparse.Namespace) -> int:
    """Untimed steps at the start of a turn: their batches were decoded while the other contenders ran."""
    return 2 * flags.workers


def preprocess(flags: argparse.Namespace) -> Preprocess:
    side = flags.crop * 8 // 7
    return Preprocess([side, side], [flags.crop, flags.crop], MEAN, STD)


class Plain(Dataset):
    """A typical Dataset: one image at a time, through Pillow and transforms; also returns the frame index."""

    def __init__(self, flags: argparse.Namespace, split: Split, *, train: bool) -> None:
        self.split, side = split, flags.crop * 8 // 7
        random = [transforms.RandomCrop(flags.crop), transforms.RandomHorizontalFlip()]
        crop = random if train else [transforms.CenterCrop(flags.crop)]
        numbers = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose([transforms.Resize((side, side)), *crop, *numbers])

    def __len__(self) -> int:
        return len(self.split.names)

    def __getitem__(self, frame: int) -> tuple[Tensor, int]:
        with Image.open(self.split.path(frame)) as image:
            return self.transform(image.convert("RGB")), int(frame)


_PLAIN: list[Callable[[], tuple[float, list[float]]]] = []  # in the plain loop's process


def begin_plain(flags: argparse.Namespace, root: Path) -> None:
    """Set up the plain loop on our job's batches from its weights; `plain_turn` then runs a turn: its seconds and its losses."""
    with start(flags.device) as runtime:
        device = runtime.device
    job = make_job(flags, runtime, load_mars(root, "demo").train)
    order = [job.sampler(step) for step in range(job.iterations)]
    stream = iter(DataLoader(Plain(flags, job.data.split, train=True), batch_sampler=order, num_workers=flags.workers))
    model = job.model.to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=job.lr, momentum=0.9, weight_decay=5e-4)

    def step(images: Tensor, numbers: Tensor) -> float:
        loss = F.cross_entropy(model(images.to(device)), job.data.label_F[numbers].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # such loops log the loss

    def turn() -> tuple[float, list[float]]:
        losses = [step(*batch) for batch in itertools.islice(stream, lead(flags))]
        began = time.perf_counter()
        losses += [step(*batch) for batch in itertools.islice(stream, flags.steps)]
        return time.perf_counter() - began, losses

    _PLAIN.append(turn)


def plain_turn() -> tuple[float, list[float]]:
    return _PLAIN[0]()


def in_place(flags: argparse.Namespace, runtime: Runtime, job: Job) -> Callable[[], float]:
    """Return a function that times our step on a decoded batch on the device: a data path without cost."""
    [batch] = load_batches(job.data.split, [job.sampler(0)], workers=0)
    images, target = batch.images.to(runtime.device), job.data.label_F[batch.frames].to(runtime.device)
    draws = torch.rand(flags.batch_size, PLACES, device=runtime.device)
    model = copy.deepcopy(job.model).train()
    optimizer, scaler = sgd(model), runtime.grad_scaler() or torch.amp.GradScaler(enabled=False)

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(flags.steps):
            with runtime.autocast():
                logits = model(job.preprocess(images, runtime.device, draws))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(job.loss(logits, target).mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        return finished(runtime) - began

    return turn


def finished(runtime: Runtime) -> float:
    """Wait until the device has finished its work; returns the time."""
    runtime.wait()
    return time.perf_counter()


def training(flags: argparse.Namespace, runtime: Runtime, job: Job, root: Path) -> dict:
    """Measure images per second of the loops, turn by turn within one call of `fit`, and their losses."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, begin_plain, (flags, root)) as plain:
        seconds, losses = turns(flags, runtime, job, plain, in_place(flags, runtime, job))
    model, images = copy.deepcopy(job.model), torch.zeros(2, 3, flags.crop, flags.crop, device=runtime.device)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    rate = {name: turns[1:] for name, turns in seconds.items()}  # the first turn warms up
    report = rates(rate, flags.steps * flags.batch_size, counter.get_total_flops() / 2)
    return {**report, "loss_in_last_turn": losses}


def turns(
    flags: argparse.Namespace, runtime: Runtime, job: Job, plain: ProcessPoolExecutor, in_place: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Measure the seconds of each turn, and the mean losses of the last."""
    seconds: dict[str, list[float]] = {PLAIN: [], OURS: [], IN_PLACE: []}
    losses: dict[str, float] = {}
    began = time.perf_counter()

    def others_turn(done: int) -> None:
        nonlocal began
        place = done % (lead(flags) + flags.steps)
        if place == 0:
            seconds[OURS].append(finished(runtime) - began)
            of_plain, plain_losses = plain.submit(plain_turn).result()
            seconds[PLAIN].append(of_plain)
            losses[PLAIN] = statistics.mean(plain_losses)
            seconds[IN_PLACE].append(in_place())
        if place == lead(flags):
            began = finished(runtime)

    fit(job, runtime, after_step=others_turn, on_log=lambda row: losses.update({OURS: row["loss"]}))
    return seconds, losses


def extraction(flags: argparse.Namespace, runtime: Runtime, split: Split) -> dict:
    """Measure frames per second of whole extractions, and the differences between their features."""
    torch.manual_seed(0)
    model = settled(runtime.place(Embedding(timm.create_model(flags.model, num_classes=0))), flags, split, runtime)
    network = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    plain_rows = Plain(flags, split, train=False)
    types: dict[str, tuple[Embedding | Exported, torch.dtype]] = {OURS: (model, runtime.dtype)}
    if runtime.device.type == "cuda" or has_bf16():
        types[f"{OURS}, bfloat16"] = model, torch.bfloat16
    if runtime.device.type == "cpu":
        types[ONNX] = exported(model, flags), torch.float32
    found: dict[str, Tensor] = {}
    seconds: dict[str, list[float]] = {name: [] for name in (PLAIN, *types)}
    for _ in range(flags.repeat):
        began = time.perf_counter()
        loader = DataLoader(plain_rows, flags.batch_size, sampler=split.frames().tolist(), num_workers=flags.workers)
        found[PLAIN] = pooled(embedded(network, (images for images, _ in loader), runtime), split)
        seconds[PLAIN].append(time.perf_counter() - began)
        for name, (embeds, dtype) in types.items():
            began, here = time.perf_counter(), Runtime(runtime.device, dtype)
            options = {"dim": model.num_features, "pooling": POOLINGS["mean"], "workers": flags.workers}
            rows = extract(embeds, preprocess(flags), split, here, batch_size=flags.batch_size, **options)
            seconds[name].append(time.perf_counter() - began)
            found[name] = torch.from_numpy(rows)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, flags.crop, flags.crop, device=runtime.device))
    report = rates(seconds, split.num_frames, counter.get_total_flops())
    measured_bf16 = f"{OURS}, bfloat16" in types
    report["bfloat16"] = "measured" if measured_bf16 else "not measured here: no bf16 instructions"
    inputs = (preprocess(flags)(images, runtime.device) for images in decoded(split))
    same_pixels = pooled(embedded(network, inputs, runtime), split)
    report["largest_difference_on_same_pixels"] = {n: float((found[n] - same_pixels).abs().max()) for n in types}
    report["least_cosine_with_plain_loop"] = {n: float((found[n] * found[PLAIN]).sum(1).min()) for n in types}
    return report


def exported(model: Embedding, flags: argparse.Namespace) -> Exported:
    """The network as `robust-reid export --preprocessing outside` writes it, one thread per forward pass as in `robust-reid extract`."""
    made, size = preprocess(flags), [flags.crop, flags.crop]
    network = fused(model, torch.zeros(1, 3, *size)).to(memory_format=torch.contiguous_format)
    about = {"dtype": "float32", "preprocessing": "outside", "fingerprint": "", "tracklet_pooling": "mean"}
    about |= {"resize": made.resize, "crop": size, "mean": MEAN, "std": STD}
    about |= {"output": {"features": {"shape": ["batch", model.num_features]}}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        deployed.write(
            Deployed(network, made.mean, made.std, made.resize, size, inside=False), "onnx", file, json.dumps(about)
        )
        return Exported(OnnxNetwork(file, threads=1))


def settled(model: nn.Module, flags: argparse.Namespace, split: Split, runtime: Runtime) -> nn.Module:
    """Set the running statistics to those of the data, since the initial ones are the identity's; returns the network in eval mode."""
    with torch.no_grad():
        for images in itertools.islice(decoded(split), 10):
            model.train()(preprocess(flags)(images, runtime.device))
    return model.eval()


def decoded(split: Split) -> Iterator[Tensor]:
    """Decode the frames in order, about 8 at a time."""
    chunks = np.array_split(split.frames(), max(1, split.num_frames // 8))
    return (batch.images for batch in load_batches(split, chunks, workers=0))


def embedded(network: nn.Module, inputs: Iterator[Tensor], runtime: Runtime) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(images.to(runtime.device).contiguous()).cpu() for images in inputs])


def pooled(features: Tensor, split: Split) -> Tensor:
    """Average over each tracklet's frames, and normalise to unit length."""
    return F.normalize(torch.stack([part.mean(0) for part in features.split(split.lengths.tolist())]))


def has_bf16() -> bool:
    """Whether this CPU has bfloat16 matrix instructions."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.read_text().split())


def rates(seconds: dict[str, list[float]], images: int, flops: float) -> dict:
    rate = {name: images / statistics.median(turns) for name, turns in seconds.items()}
    return {"images_per_second": rate, "turns": seconds, "gflop_per_image": flops / 1e9}


def table(title: str, report: dict, product: float) -> str:
    """Format one row per contender; speed-ups are relative to the plain loop."""
    rate, limit = report["images_per_second"], product / report["gflop_per_image"] / 1e9
    rows = [f"| {n} | {r:.1f} | {r / rate[PLAIN]:.2f} | {100 * r / limit:.0f} % |" for n, r in rate.items()]
    head = [f"| {title} | images/s | times faster | of the matrix product's rate |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, f"| {report['gflop_per_image']:.2f} GFLOP per image | {limit:.1f} | | 100 % |"])


if __name__ == "__main__":
    main()
