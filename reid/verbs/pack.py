"""Pack the small image files of a dataset in MARS layout into a few large ones, which are read faster and stand in for the folders."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  # writes data/mars/bbox_train.pack and bbox_test.pack, deletes nothing
  robust-reid pack data/mars
  # after a kill, or after images have changed
  robust-reid pack data/mars --resume auto
  # check every byte of the packs
  robust-reid pack data/mars --verify
  # a dataset by itself, info/ included
  robust-reid pack /mnt/share/mars --out /scratch/mars"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid pack`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="dataset in MARS layout; a pack too, with --verify")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the packs go (default: beside the image folders)"
    )
    parser.add_argument(
        "--shard-size", type=float, default=1000, metavar="MB", help="of images in one file (default: 1000, up to 4000)"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--verify", action="store_true", help="only check the packs that are there")
    mode.add_argument(
        "--resume", choices=["auto"], help="keep what is done and right of the packs that are there, if any"
    )
    mode.add_argument("--overwrite", action="store_true", help="replace the packs that are there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    cli.log_to_stderr()

    from reid.commands import pack

    if flags.verify:
        pack.verify(flags.folder)
    else:
        chosen: pack.Mode = "resume" if flags.resume else "overwrite" if flags.overwrite else "new"
        pack.run(flags.folder, flags.out, flags.shard_size * 1e6, chosen)
    return 0
