"""Cost of many small files, and the gain of packing: images per second read from a folder and from its pack, cold and warm.

    python benchmarks/pack.py --data-root DIR [--scratch DIR] [--json FILE]

The demo dataset's crops are rewritten at MARS' size, 128×256, into folders like those of MARS, and packed as tools/pack.py packs.
Both are then read by `reid.datasets.frames.read`, in turns, `--repeat` times, by fresh processes, and medians are compared, because the
machine may be shared. A turn reads random images of the whole set, or as many consecutive ones. Nothing is decoded. Cold: the page cache
is emptied before the turn, including inodes and names if this process may do so (root on Linux). Warm: the same images again immediately.
"Batches expected": every 64 images are prefetched before the first of them is read, as in the loader. The limit is the speed at which
one process reads the shards sequentially.
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from record import keep

from reid.datasets import frames, packing
from reid.datasets.mars import find_dataset, image_names
from reid.files import data_root

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
PER_PERSON, PER_TRACKLET = 480, 60
EXPECTED = 64


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder with demo/; default: REID_DATA, else ./data")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure (default: the temporary folder)")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--reads", type=int, default=3_000, help="images read per repetition")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.scratch) as scratch:
        report = measured(flags, Path(scratch))
    print(table(report))
    keep(flags.json, report)


def measured(flags: argparse.Namespace, scratch: Path) -> dict:
    """Measure all numbers of the report."""
    root, packed = scratch / "folder" / "bbox_train", scratch / "packed" / "bbox_train"
    write_images(find_dataset(data_root(flags.data_root), "demo"), root, flags.images)
    names = image_names(root)
    pack = packed.with_name("bbox_train.pack")
    began = time.perf_counter()
    packing.write(root, names, pack)
    packed_in = time.perf_counter() - began
    turns: dict[str, list[dict[str, float]]] = {}
    orders, places = ("random", "in a row"), {"folder": root, "pack": packed, "pack expected": packed}
    for turn in range(flags.repeat):
        for order, count, (place, folder) in itertools.product(orders, flags.processes, places.items()):
            paths = [
                os.path.join(folder, os.fsdecode(names[row])) for row in chosen(len(names), flags.reads, order, turn)
            ]
            how = empty_cache(scratch)
            for cache in ("cold", "warm"):  # the same images again immediately
                turns.setdefault(f"{place}, {order}, {count}, {cache}", []).append(
                    read_by(paths, count, EXPECTED if place == "pack expected" else 0)
                )
    return {
        "cold": how,
        "images": len(names),
        "reads": flags.reads,
        "bytes": {place: sizes(folder) for place, folder in (("folder", root), ("pack", pack))},
        "pack_seconds": packed_in,
        "sequential_bytes_per_second": [front_to_end(pack, scratch) for _ in range(flags.repeat)],
        "images_per_second": {name: statistics.median(turn["rate"] for turn in runs) for name, runs in turns.items()},
        "cpu_microseconds": {name: statistics.median(turn["cpu"] for turn in runs) for name, runs in turns.items()},
        "turns": turns,
    }


def write_images(demo: Path, root: Path, images: int) -> None:
    """Write JPEGs of MARS' size in folders like those of MARS, in the order of their names."""
    crops = []
    for file in sorted(demo.glob("bbox_*/*/*.jpg")):
        held = io.BytesIO()
        Image.open(file).resize((128, 256), Image.Resampling.BICUBIC).save(held, "JPEG", quality=75)
        crops.append(held.getvalue())
    for number in range(images):
        person, within = number // PER_PERSON + 1, number % PER_PERSON
        name = f"{person:04d}C1T{within // PER_TRACKLET + 1:04d}F{within % PER_TRACKLET + 1:03d}.jpg"
        (root / f"{person:04d}").mkdir(parents=True, exist_ok=True)
        (root / f"{person:04d}" / name).write_bytes(crops[number % len(crops)])


def chosen(images: int, reads: int, order: str, turn: int) -> np.ndarray:
    """Choose the indices of a turn's images."""
    generator = np.random.default_rng(turn)
    if order == "random":
        return generator.choice(images, reads, replace=False)
    first = int(generator.integers(0, images - reads + 1))
    return np.arange(first, first + reads)


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder."""
    return (file for file in folder.rglob("*") if file.is_file())


def empty_cache(folder: Path) -> str:
    """Empty the page cache of the machine, or at least of these files; returns which."""
    os.sync()
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text("3")
        return "all caches of the machine dropped"
    for file in files_below(folder):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return "the files' pages dropped; names and inodes stay cached"


def read_by(paths: list[str], count: int, ahead: int) -> dict[str, float]:
    """Read images in fresh processes, each every count-th: images per second, and CPU microseconds per image."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    readers = [context.Process(target=_read, args=(paths[part::count], ahead, results)) for part in range(count)]
    for reader in readers:
        reader.start()
    told = [results.get() for _ in readers]
    for reader in readers:
        reader.join()
    begin, end, cpu = zip(*told, strict=True)
    return {"rate": len(paths) / (max(end) - min(begin)), "cpu": 1e6 * sum(cpu) / len(paths)}


def _read(paths: list[str], ahead: int, results: multiprocessing.SimpleQueue) -> None:
    frames.read(paths[0])  # opens the pack, as the main process does for its workers
    frames.expect(paths[:1])
    begin, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(paths), ahead or len(paths)):
        batch = paths[first : first + (ahead or len(paths))]
        if ahead:
            frames.expect(batch)
        for path in batch:
            frames.read(path)
    results.put((begin, time.perf_counter(), time.process_time() - cpu))


def front_to_end(pack: Path, scratch: Path) -> float:
    """Measure the bytes per second of one process that reads the shards in large pieces, cold."""
    empty_cache(scratch)
    began, read = time.perf_counter(), 0
    for shard in sorted(pack.glob("*.zip")):
        with open(shard, "rb", buffering=0) as file:
            while piece := file.read(2**20):
                read += len(piece)
    return read / (time.perf_counter() - began)


def sizes(folder: Path) -> dict[str, int]:
    """Sum the bytes of the files, and the space on disk (folders included)."""
    held = [entry.stat() for entry in (folder, *folder.rglob("*"))]
    apparent = sum(file.stat().st_size for file in files_below(folder))
    return {"apparent": apparent, "on_disk": sum(512 * each.st_blocks for each in held)}


def table(report: dict) -> str:
    """Format the measurements as Markdown."""
    rates, cpu = report["images_per_second"], report["cpu_microseconds"]
    lines = [
        "| order | processes | cache | folder, images/s | pack | pack, batches expected | gain | CPU µs per image |",
        "|" + "---|" * 8,
    ]
    for name in rates:
        place, _, turn = name.partition(", ")
        if place == "folder":
            three = [f"{place}, {turn}" for place in ("folder", "pack", "pack expected")]
            speeds = " | ".join(f"{rates[each]:,.0f}" for each in three)
            times = " → ".join(f"{cpu[each]:.0f}" for each in three)
            gain = rates[three[2]] / rates[three[0]]
            lines.append(f"| {turn.replace(', ', ' | ')} | {speeds} | {gain:.1f} | {times} |")
    mean = report["bytes"]["folder"]["apparent"] / report["images"]
    speed = statistics.median(report["sequential_bytes_per_second"])
    disk = ", ".join(
        f"{place} {held['on_disk'] / 1e6:.0f} MB on disk ({held['apparent'] / 1e6:.0f} MB of content)"
        for place, held in report["bytes"].items()
    )
    return "\n".join(
        [
            f"{report['images']:,} JPEGs of {mean:,.0f} bytes; {report['reads']:,} read in a turn; cold: {report['cold']}",
            "",
            *lines,
            "",
            f"Bytes: {disk}. Packed and compared in {report['pack_seconds']:.0f} s.",
            f"The limit, shards read from front to end, cold: {speed / 1e6:,.0f} MB/s, {speed / mean:,.0f} images/s.",
        ]
    )


if __name__ == "__main__":
    main()
