"""Make the demo dataset: rendered people in the MARS layout; prints "reusing" if it exists already with the same settings."""

from __future__ import annotations

import argparse
import dataclasses
import os
from functools import partial
from pathlib import Path

from reid import cli
from reid.datasets.demo_settings import DemoSettings

EXAMPLES = """\
  robust-reid render --out data/demo
  # then: robust-reid train demo --data-root clean
  robust-reid render --out clean/demo --label-noise 0
  robust-reid render --out load/demo --train-ids 2000 --test-ids 1000"""

MEANING = {
    "train_ids": "training identities, each seen by 2 to 6 cameras",
    "test_ids": "test identities",
    "tracklets_per_id": "tracklets per identity, on average",
    "min_frames": "frames of the shortest tracklet",
    "max_frames": "frames of the longest tracklet",
    "distractors": "distractors: test tracklets of no query person (pid 0)",
    "junk": "junk: test tracklets that are ignored (pid -1)",
    "intruders": "expected fraction of frames that show another person or background, 0 to 0.15",
    "label_noise": "fraction of training tracklets with another person's label",
    "noise_seed": "seed of the wrong labels only",
    "seed": "seed of everything else",
}


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid render`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to create (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    for field in dataclasses.fields(DemoSettings):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        text = f"{MEANING[field.name]} (default: %(default)s)"
        parser.add_argument(
            flag, type=kind, default=field.default, metavar="SHARE" if kind is float else "N", help=text
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the dataset, or reuse an existing one with the same settings; then print its size."""
    options = vars(parser().parse_args(argv))

    from tqdm import tqdm  # after parsing: importing numpy and the renderer takes a second

    from reid.datasets.demo import TRUTH_FILE, load_truth, write_demo
    from reid.datasets.mars import load_mars
    from reid.report.tables import text_table

    root, workers = options.pop("out"), options.pop("workers")
    wanted = DemoSettings(**options)
    if (root / TRUTH_FILE).is_file() and load_truth(root).settings == wanted:
        print(f"reusing {root}")
    else:
        write_demo(
            root, workers=workers, progress=partial(tqdm, desc="rendering", unit="tracklet", disable=None), **options
        )
        print(f"wrote {root}")
    summary = load_mars(root, name="demo").summary()
    print(text_table(["subset", "ids", "tracklets", "frames", "cameras"], summary))
    return 0
