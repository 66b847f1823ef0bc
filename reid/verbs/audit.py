"""Find wrong labels: rank training tracklets by how badly their label fits, and make a page to review them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid audit runs/mars_imae
  # 16 frames of each tracklet are enough to find wrong tracklets
  robust-reid audit runs/mars_imae --frames 16 machine.workers=4
  # for harder cases, networks that have not seen a label judge it too
  robust-reid audit runs/mars_imae --folds 3
  # any gallery with pids
  robust-reid audit galleries/mine --out review/

Open audit/index.html, review by keyboard, export corrections.csv; then
  robust-reid train CONFIG data.corrections=corrections.csv
or, without a review,
  robust-reid train CONFIG data.corrections=RUN/drop.csv"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid audit`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("source", type=Path, metavar="RUN|GALLERY", help="run directory, feature folder, or .npz file")
    cli.add_config_flags(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results (default: RUN, or GALLERY-audit)"
    )
    parser.add_argument(
        "--checkpoint", default="last", metavar="last|best|PATH", help="checkpoint of the run (default: last)"
    )
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="frames used per tracklet (default: all)")
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="N",
        help="train N more networks, each without one fold of the tracklets, which it then judges; resumed if killed",
    )
    parser.add_argument(
        "--folds-of",
        choices=["tracklets", "persons"],
        default="tracklets",
        help="what is held out together; persons finds two persons under one pid (default: tracklets)",
    )
    parser.add_argument("--no-page", dest="page", action="store_false", help="write only the tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_intermixed_args(argv)
    cli.log_to_stderr()

    from reid.commands import audit

    options = audit.Options(flags.out, flags.checkpoint, flags.frames, flags.page, flags.folds, flags.folds_of)
    audit.run(flags.source, cli.overrides_of(flags), options)
    return 0
