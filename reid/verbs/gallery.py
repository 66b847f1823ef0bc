"""Change a gallery without a model: remove tracklets, build an index, push to a database. (robust-reid extract --add adds tracklets.)"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid gallery remove galleries/mine monday_0017 monday_0018
  # robust-reid search galleries/mine --tune compares indexes
  robust-reid gallery index galleries/mine IVF1024,Flat:nprobe=16
  # a database in a folder (pip install 'robust-reid[milvus-lite]'), or a server
  robust-reid gallery push galleries/mine people.db#mine
  robust-reid gallery push galleries/mine http://milvus:19530#mine
  robust-reid gallery remove people.db#mine monday_0017"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid gallery`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="remove|index|push")
    remove = commands.add_parser("remove", help="remove tracklets")
    remove.add_argument(
        "folder", type=cli.path_or_text, metavar="DIR|URI", help="feature folder of robust-reid extract, or a database"
    )
    remove.add_argument("keys", nargs="+", metavar="KEY", help="keys of the tracklets, as in meta.csv")
    index = commands.add_parser("index", help="build a faiss index")
    index.add_argument("folder", type=Path, metavar="DIR", help="feature folder of robust-reid extract")
    index.add_argument("factory", metavar="FACTORY", help="faiss factory string; search parameters after a colon")
    push = commands.add_parser("push", help="copy a gallery into a Milvus database; an interrupted push is resumed")
    push.add_argument("folder", type=Path, metavar="DIR", help="feature folder of robust-reid extract")
    push.add_argument(
        "uri", type=cli.path_or_text, metavar="URI", help="FILE.db#COLLECTION or http://HOST:19530#COLLECTION"
    )
    push.add_argument("--overwrite", action="store_true", help="replace rows that have the same keys")
    push.add_argument(
        "--index", metavar="KIND", help="Milvus index of a new collection, e.g. HNSW:M=16 (default: FLAT, exact)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    cli.log_to_stderr()

    from reid.errors import counted
    from reid.gallery import change, milvus, store

    if flags.command == "push":
        _push(flags)
    elif flags.command == "remove":
        if milvus.is_address(flags.folder) and not store.exists(Path(flags.folder)):
            where = milvus.address(flags.folder)
            print(f"{where}: {counted(milvus.remove(where, flags.keys), 'tracklet')} left")
        else:
            print(f"{flags.folder}: {counted(change.remove(Path(flags.folder), flags.keys), 'tracklet')} left")
    else:
        from reid.commands.extract import log_recall

        log_recall(*change.reindex(flags.folder, flags.factory))
    return 0


def _push(flags: argparse.Namespace) -> None:
    from tqdm import tqdm

    from reid.gallery import milvus, store

    where = milvus.address(flags.uri)
    bar = partial(tqdm, desc="pushing", unit="request", disable=None)
    done = milvus.push(
        store.open_gallery(flags.folder), where, index=flags.index, overwrite=flags.overwrite, progress=bar
    )
    print(f"{where}: {done.written} tracklets written, {done.same} already there; {done.total} in total")
