"""Test a run's checkpoint, or features made by any model, and print mAP and CMC with the protocol's name beside them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  python tools/test.py runs/demo
  python tools/test.py runs/mars_imae --protocol mars-official --data-root /data
  python tools/test.py runs/mars_imae --checkpoint best --json best.json
  python tools/test.py --features features.npz --protocol all"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("run", type=Path, nargs="?", help="run directory of tools/train.py")
    cli.add_config_flags(parser)
    parser.add_argument(
        "--features", type=Path, metavar="FILE|DIR", help="evaluate these; an .npz file or a folder of tools/extract.py"
    )
    parser.add_argument("--checkpoint", default="last", metavar="last|best|PATH", help="which weights (default: last)")
    parser.add_argument("--protocol", metavar="NAME|all", help="default: the run's, or all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    flags = parser.parse_intermixed_args(argv)
    if (flags.run is None) == (flags.features is None):
        parser.error("give either a run directory or --features")
    cli.log_to_stderr()

    from reid.commands import test

    if flags.features is not None:
        test.run_on_features(flags.features, flags.protocol or "all", flags.json)
    else:
        test.run(flags.run, flags.checkpoint, cli.overrides_of(flags), flags.protocol, flags.json)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
