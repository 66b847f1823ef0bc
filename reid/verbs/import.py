"""Make one table of tracklets from folders, tracker or annotation files, or public datasets; cut out crops if there are boxes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid import people/ --out people.csv      # detects the kind
  robust-reid import people/ --as folders --layout person/tracklet \\
      --out people.csv
  robust-reid import crops/ --as flat --out crops.csv \\
      --pattern '{pid}_c{camid}_{tracklet}_{frame}.jpg'
  robust-reid import MOT17/train --as mot --crops crops/ --out mot17.parquet
  robust-reid import north/ south/ --as mot --tracks tracker_output/ \\
      --crops crops/ --out tracks.csv
  robust-reid import annotations.json --as coco --images images/ \\
      --crops crops/ --out tracks.csv
  robust-reid import gate3.mp4 --as video --tracks gate3.csv \\
      --crops crops/ --out people.csv
  robust-reid import Market-1501-v15.09.15/ MSMT17_V1/ --out both.parquet

Then check it and train on it:
  robust-reid doctor people.csv
  robust-reid train own_tracklets data.path=people.csv"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid import`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="folder or file; several are joined into one table"
    )
    parser.add_argument(
        "--as",
        dest="kind",
        default="auto",
        metavar="KIND",
        help="folders, flat, mot, coco, video, jsonl, market1501, msmt17, cuhk03, ilids-vid, prid2011, ls-vid, veri776, "
        "mars; auto detects it (default)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE", help="table to write, .csv or .parquet")
    parser.add_argument("--crops", type=Path, metavar="DIR", help="cut the boxes out as image files into this folder")
    parser.add_argument("--png", action="store_true", help="write crops as lossless PNG (default: JPEG)")
    parser.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="quality of JPEG crops, 1 to 100 (default: 95)"
    )
    parser.add_argument(
        "--pattern", help="flat: pattern of the file names, such as '{pid}_c{camid}_{tracklet}_{frame}.jpg'"
    )
    parser.add_argument(
        "--layout", metavar="LEVELS", help="folders: person/tracklet, person or tracklet (default: detected)"
    )
    parser.add_argument(
        "--tracks", type=Path, metavar="FILE|DIR", help="mot: a tracker's output; video: the table of boxes"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="coco, jsonl: folder that image paths are relative to"
    )
    parser.add_argument(
        "--ids",
        choices=["shared", "separate"],
        help="whether the same id in several sources (mot, coco: sequences) means the same person",
    )
    parser.add_argument(
        "--camera-per-source", action="store_true", help="each source is one camera, named after its folder or file"
    )
    parser.add_argument(
        "--split",
        type=int,
        default=0,
        metavar="N",
        help="ilids-vid, prid2011: number of the split, 0 to 9 (default: 0)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing table and existing crops")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    cli.log_to_stderr()

    from reid.commands import importing
    from reid.datasets.sources.base import Options

    options = Options(flags.pattern, flags.layout, flags.tracks, flags.images, flags.ids, flags.split, unpack=True)
    crops = None if flags.crops is None else importing.Crops(flags.crops, "png" if flags.png else "jpg", flags.quality)
    importing.run(
        flags.sources,
        flags.kind,
        options,
        flags.out,
        crops,
        camera_per_source=flags.camera_per_source,
        overwrite=flags.overwrite,
    )
    return 0
