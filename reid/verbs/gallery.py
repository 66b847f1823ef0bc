"""Change a gallery without a model: take tracklets out, or build its index. (robust-reid extract --add puts tracklets in.)"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid gallery remove galleries/mine monday_0017 monday_0018
  # robust-reid search galleries/mine --tune shows which index is worth it
  robust-reid gallery index galleries/mine IVF1024,Flat:nprobe=16"""


def parser() -> argparse.ArgumentParser:
    """The flags of `robust-reid gallery`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="remove|index")
    remove = commands.add_parser("remove", help="take tracklets out")
    remove.add_argument("folder", type=Path, metavar="DIR", help="feature folder of robust-reid extract")
    remove.add_argument("keys", nargs="+", metavar="KEY", help="tracklets, as meta.csv names them")
    index = commands.add_parser("index", help="build a faiss index")
    index.add_argument("folder", type=Path, metavar="DIR", help="feature folder of robust-reid extract")
    index.add_argument("factory", metavar="FACTORY", help="faiss factory string; search parameters after a colon")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    cli.log_to_stderr()

    from reid.errors import counted
    from reid.gallery import change

    if flags.command == "remove":
        print(f"{flags.folder}: {counted(change.remove(flags.folder, flags.keys), 'tracklet')} left")
    else:
        from reid.commands.extract import log_recall

        log_recall(*change.reindex(flags.folder, flags.factory))
    return 0
