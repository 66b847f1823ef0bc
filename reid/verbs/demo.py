"""Make the demo dataset of rendered people, train with IMAE on its partly wrong labels, test, and write the report."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli
from reid.errors import ConfigError

EXAMPLES = """\
  # data/demo and runs/demo, in the current folder
  robust-reid demo
  # /tmp/try/data/demo and /tmp/try/runs/demo
  robust-reid demo /tmp/try
  # any setting of the config may follow
  robust-reid demo /tmp/quick train.iterations=50
Existing data and runs are used again; a stopped training is resumed."""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid demo`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(), metavar="DIR", help="working folder (default: the current one)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change a setting of the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_intermixed_args(argv)
    if "=" in str(flags.folder):  # no folder was given, so the first override was parsed as the folder
        flags.folder, flags.overrides = Path(), [str(flags.folder), *flags.overrides]
    else:
        _require_folder(flags.folder)

    from reid import config, experiment
    from reid.verbs import render, train

    experiment.check(config.load(config.find(Path("demo")), flags.overrides))  # fails before the slow rendering
    render.main(["--out", str(flags.folder / "data/demo")])
    places = ["--data-root", str(flags.folder / "data"), "--output-dir", str(flags.folder / "runs/demo")]
    return train.main(["demo", *flags.overrides, *places, "--resume", "auto"])


def _require_folder(word: Path) -> None:
    """Check that the first word is a folder and not a setting, such as `train.lr` in `demo train.lr 0.1`.

    Raises:
        ConfigError: the word names a section or a key of the config, and is no existing folder.
    """
    from reid.config import Config

    if str(word).partition(".")[0] in Config.model_fields and not word.is_dir():
        raise ConfigError(
            f"demo: {word} is a setting, but the first word after demo is the working folder; expected {word}=VALUE, "
            f"or a folder before it, as in: robust-reid demo . {word} VALUE"
        )
