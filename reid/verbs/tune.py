"""Train one run for each value of a setting, and choose the best on held-out training identities; the test set is not used."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid tune demo --over loss.T=0.5,4,8,16
  # a grid over two settings
  robust-reid tune mars_imae --over loss.T=4,8 --over train.lr=0.01,0.02 \\
      --data-root /data --device cuda
  # continue after Ctrl-C; finished runs are not trained again
  robust-reid tune demo --over loss.T=0.5,4,8,16 --resume auto
  # to study the choice itself, also test every run
  robust-reid tune demo --over loss.T=0.5,4,8,16 --resume auto --judge \\
      --json tune.json

Labels of held-out identities are taken as given, wrong ones included."""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid tune`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("config", type=Path, help="YAML file, or the name of a packaged config, e.g. demo")
    cli.add_config_flags(parser, example="train.iterations=2000")
    runs = parser.add_argument_group("the runs")
    runs.add_argument(
        "--over",
        action="append",
        required=True,
        metavar="key=a,b,…",
        help="values to try; can be repeated for several settings",
    )
    runs.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="folder of the runs, one per value (default: runs/NAME_tune)"
    )
    how = runs.add_mutually_exclusive_group()
    how.add_argument("--resume", choices=["auto"], help="auto: continue these runs, or start them")
    how.add_argument("--overwrite", action="store_true", help="replace existing runs")
    how.add_argument("--dry-run", action="store_true", help="check every config and list the runs; write nothing")
    output = parser.add_argument_group("output")
    output.add_argument("--judge", action="store_true", help="also test every run, to check the choice")
    output.add_argument("--json", type=Path, metavar="FILE", help="also write the table to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_intermixed_args(argv)
    cli.log_to_stderr()

    from reid import config  # after parsing: importing torch takes seconds
    from reid.commands import tune

    path, overrides = config.find(flags.config), cli.overrides_of(flags)
    options = tune.Options(
        flags.output_dir or Path("runs") / f"{config.load(path, overrides).name}_tune",
        resume=flags.resume,
        overwrite=flags.overwrite,
        dry_run=flags.dry_run,
        judge=flags.judge,
        json_file=flags.json,
        command=cli.command_line(argv),
    )
    tune.run(tune.Base(path, str(flags.config), tuple(overrides)), flags.over, options)
    return 0
