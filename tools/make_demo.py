"""Make the demo dataset: rendered people in the MARS layout; says "reusing" where it is there already with the same settings."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from functools import partial
from pathlib import Path

from scipy.io import loadmat
from tqdm import tqdm

from reid import cli
from reid.datasets.demo import TRUTH_FILE, DemoSettings, load_truth, write_demo

EXAMPLES = """\
  python tools/make_demo.py --out data/demo
  python tools/make_demo.py --out data/demo-clean --label-noise 0
  python tools/make_demo.py --out data/load-test --train-ids 2000 --test-ids 1000 --distractors 5000"""


def main(argv: list[str] | None = None) -> int:
    """Write the dataset, or find it already there with the same settings; then print its size."""
    options = vars(_parser().parse_args(argv))
    root, workers = options.pop("out"), options.pop("workers")
    wanted = DemoSettings(**options)
    if (root / TRUTH_FILE).is_file() and load_truth(root).settings == wanted:
        print(f"reusing {root}")
    else:
        write_demo(root, workers=workers, progress=partial(tqdm, unit="tracklet", disable=None), **options)
        print(f"wrote {root}")
    _print_sizes(root)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("data/demo"), help="folder to make (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    for field in dataclasses.fields(DemoSettings):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        parser.add_argument(flag, type=kind, default=field.default, metavar="N", help="default: %(default)s")
    return parser


def _print_sizes(root: Path) -> None:
    train = loadmat(root / "info/tracks_train_info.mat")["track_train_info"]
    test = loadmat(root / "info/tracks_test_info.mat")["track_test_info"]
    query = test[loadmat(root / "info/query_IDX.mat")["query_IDX"].ravel() - 1]
    print("subset  | ids  | tracklets | frames  | cameras")
    for name, table in (("train", train), ("query", query), ("gallery", test)):
        ids, cameras, frames = len(set(table[:, 2])), len(set(table[:, 3])), (table[:, 1] - table[:, 0] + 1).sum()
        print(f"{name:7} | {ids:4d} | {len(table):9d} | {frames:7d} | {cameras:7d}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
