"""Compare two runs, or features of two models, on the same queries: is the difference significant?"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid compare runs/mars_imae runs/mars_cce
  robust-reid compare a.npz b.npz --protocol mars-official --json ab.json
  # data from a single camera
  robust-reid compare features_a features_b --any-camera"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid compare`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    for name in ("a", "b"):
        parser.add_argument(name, type=Path, metavar=name.upper(), help="run directory, .npz file or feature folder")
    parser.add_argument("--protocol", metavar="NAME|all|FILE.yaml", default="all", help="default: all")
    parser.add_argument("--any-camera", action="store_true", help="count matches from the query's own camera too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the comparisons to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    cli.log_to_stderr()

    from reid.commands import compare
    from reid.protocol import get_protocols

    protocols = get_protocols(flags.protocol, any_camera=flags.any_camera)
    compare.run(flags.a, flags.b, protocols, json_file=flags.json)
    return 0
