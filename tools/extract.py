"""Embed tracklets with a trained model and write a feature folder: features.npy, meta.csv, gallery.json."""

import sys
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  python tools/extract.py runs/mars_imae /data/mars --out galleries/mars
  python tools/extract.py runs/mars_imae my_tracklets/ --out galleries/mine     # one folder of images per tracklet
  python tools/extract.py runs/mars_imae frames.csv --kind manifest --out galleries/mine"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("run", type=Path, help="run directory of tools/train.py")
    parser.add_argument(
        "input", type=Path, help="dataset in MARS layout, folder of tracklet folders, or manifest (CSV)"
    )
    cli.add_config_flags(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="feature folder to write")
    parser.add_argument("--kind", choices=["auto", "mars", "folders", "manifest"], default="auto", help="what INPUT is")
    parser.add_argument("--checkpoint", default="last", metavar="last|best|PATH", help="which weights (default: last)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing feature folder")
    flags = parser.parse_intermixed_args(argv)
    cli.log_to_stderr()

    from reid.commands import extract

    extract.run(
        flags.run,
        flags.checkpoint,
        cli.overrides_of(flags),
        flags.input,
        flags.kind,
        flags.out,
        overwrite=flags.overwrite,
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
