"""Find the nearest tracklets of a gallery: to images, to folders of frames, or to tracklets of the gallery itself."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from reid import cli, times

EXAMPLES = """\
  robust-reid search galleries/mars 0002C1T0002 --top-k 20
  robust-reid search galleries/mars person.jpg tracklet_folder/ \\
      --html hits.html --json hits.json
  robust-reid search galleries/mars 0002C1T0002 --not-camera 1 \\
      --false-match-rate 0.001
  # in a vector database that robust-reid gallery push filled
  robust-reid search --gallery people.db#mars 0002C1T0002
  # what an index would gain and lose here
  robust-reid search galleries/mars --tune"""


def _ids(text: str) -> list[str]:
    return [one.strip() for one in text.split(",")]


def _time(text: str) -> float:
    try:
        seconds = times.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if math.isnan(seconds):  # of an empty text
        raise argparse.ArgumentTypeError(f"expected {times.EXPECTED}")
    return seconds


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid search`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "folder", type=cli.path_or_text, nargs="?", metavar="DIR", help="feature folder of robust-reid extract"
    )
    parser.add_argument(
        "queries", nargs="*", metavar="QUERY", help="key of the gallery, image (of a pack too), or folder of frames"
    )
    parser.add_argument(
        "--gallery", metavar="URI", help="search a database in DIR's place: FILE.db#NAME, http://HOST:19530#NAME"
    )
    which = parser.add_argument_group("which hits")
    which.add_argument("--top-k", type=int, default=10, metavar="K", help="hits per query (default: 10)")
    which.add_argument("--camera", type=_ids, metavar="ID[,ID…]", help="search these cameras only, by number or name")
    which.add_argument("--not-camera", type=_ids, metavar="ID[,ID…]", help="leave these cameras out")
    which.add_argument("--person", type=_ids, metavar="ID[,ID…]", help="search these persons only, by number or name")
    which.add_argument("--not-person", type=_ids, metavar="ID[,ID…]", help="leave these persons out")
    which.add_argument(
        "--after",
        type=_time,
        metavar="TIME",
        help="only tracklets that begin at 2026-05-04T17:30 (or seconds) or later",
    )
    which.add_argument("--before", type=_time, metavar="TIME", help="only tracklets that begin before TIME")
    least = which.add_mutually_exclusive_group()
    least.add_argument("--min-similarity", type=float, metavar="X", help="minimum similarity of hits, -1 to 1")
    least.add_argument("--false-match-rate", type=float, metavar="R", help="set that minimum from the gallery's labels")
    engine = parser.add_argument_group("how the search is done")
    engine.add_argument("--index", metavar="FACTORY", help="Flat: exactly; else build this faiss index for the search")
    engine.add_argument("--tune", action="store_true", help="measure recall and time of indexes on this gallery")
    embed = parser.add_argument_group("how queries are embedded")
    embed.add_argument("--run", type=Path, metavar="RUN", help="run that embeds queries (default: in gallery.json)")
    embed.add_argument(
        "--checkpoint", metavar="last|best|PATH", help="checkpoint of that run (default: in gallery.json)"
    )
    cli.add_weights_flags(embed)
    embed.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="also write the hits to this file")
    output.add_argument("--html", type=Path, metavar="FILE", help="write an HTML page of the hits with images")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    flags = arguments.parse_intermixed_args(argv)
    if flags.gallery is not None and flags.folder is not None:
        flags.folder, flags.queries = None, [flags.folder, *flags.queries]
    if flags.gallery is None and flags.folder is None:
        arguments.error("give a feature folder, or --gallery URI")
    if flags.tune and flags.gallery is not None:
        arguments.error("--tune tries indexes of a feature folder")
    if flags.tune == bool(flags.queries):
        arguments.error("give either queries or --tune")
    cli.check_weights_flags(arguments, flags)
    if flags.run is not None and flags.weights is not None:
        arguments.error("give either --run or --weights")
    cli.log_to_stderr()

    from reid.commands import search
    from reid.gallery import milvus

    if flags.gallery is None and milvus.is_address(flags.folder) and not Path(flags.folder).is_dir():
        arguments.error(f"a database is named by --gallery {milvus.address(flags.folder)}")
    place = Path(flags.folder) if flags.gallery is None else milvus.address(flags.gallery)
    if flags.tune:
        search.run_tune(Path(flags.folder), flags.top_k, flags.index)
    else:
        names = (field for field in search.Options.__dataclass_fields__)
        options = search.Options(**{name: getattr(flags, name) for name in names})
        search.run(place, flags.queries, options, json_file=flags.json, html_file=flags.html)
    return 0
