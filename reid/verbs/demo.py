"""Make the demo dataset of rendered people, train with IMAE on its 30 % wrong labels, test, and write the report."""

from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid demo                                     # data/demo and runs/demo, in the folder you are in
  robust-reid demo /tmp/try                            # /tmp/try/data/demo and /tmp/try/runs/demo
  robust-reid demo /tmp/quick train.iterations=50      # any setting of the config may follow
What is there already is used again; a training that was stopped goes on."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="DIR", help="where to work")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a setting of the config")
    flags = parser.parse_intermixed_args(argv)
    if "=" in str(flags.folder):  # no folder was given
        flags.folder, flags.overrides = Path(), [str(flags.folder), *flags.overrides]

    from reid.verbs import render, train

    render.main(["--out", str(flags.folder / "data/demo")])
    places = ["--data-root", str(flags.folder / "data"), "--output-dir", str(flags.folder / "runs/demo")]
    return train.main(["demo", *flags.overrides, *places, "--resume", "auto"])
