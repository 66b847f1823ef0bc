"""Check a dataset or table before training: counts, images, duplicates, contradicting labels, leaks."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid doctor people.csv
  robust-reid doctor Market-1501-v15.09.15/ --json market.json
  # tables and names only; opens no image
  robust-reid doctor data/mars --quick
  # writes people.fixed.csv without the rows that are certainly wrong
  robust-reid doctor people.csv --fix

exit codes: 0 clean (notes are no findings), 3 findings, 2 unusable"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid doctor`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("data", type=Path, metavar="DATA", help="dataset folder, or table (.csv, .parquet)")
    parser.add_argument(
        "--as",
        dest="kind",
        default="auto",
        metavar="KIND",
        help="kind of source, as in robust-reid import (default: detected)",
    )
    parser.add_argument("--pattern", help="pattern of file names, as in robust-reid import --as flat")
    parser.add_argument("--layout", metavar="LEVELS", help="layout of folders, as in robust-reid import --as folders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings to this file")
    parser.add_argument("--quick", action="store_true", help="do not open images")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="make safe corrections: move system files to DATA.removed/, or copy the table without faulty rows; deletes nothing",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    cli.log_to_stderr()

    from reid.commands import doctor
    from reid.datasets.sources.base import Options

    options = Options(pattern=flags.pattern, layout=flags.layout)
    return doctor.run(flags.data, flags.kind, options, quick=flags.quick, json_file=flags.json, fix=flags.fix)
