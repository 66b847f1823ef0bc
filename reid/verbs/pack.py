"""Pack the small image files of a dataset in MARS layout into a few large files, which are read faster and can replace the folders."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  # writes data/mars/bbox_train.pack and bbox_test.pack, deletes nothing
  robust-reid pack data/mars
  # after an interruption, or after images have changed
  robust-reid pack data/mars --resume auto
  # check every byte of the packs
  robust-reid pack data/mars --verify
  # a complete copy of a dataset, info/ included
  robust-reid pack /mnt/share/mars --out /scratch/mars"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid pack`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="dataset in MARS layout; with --verify also a pack")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the packs (default: next to the image folders)"
    )
    parser.add_argument(
        "--shard-size",
        type=float,
        default=1000,
        metavar="MB",
        help="size of one file of images (default: 1000, at most 4000)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--verify", action="store_true", help="only check existing packs")
    mode.add_argument("--resume", choices=["auto"], help="keep finished and correct parts of existing packs")
    mode.add_argument("--overwrite", action="store_true", help="replace existing packs")
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
