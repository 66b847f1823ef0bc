"""The label-noise study on CIFAR: train a grid of losses, noise, depths and seeds, then print the results next to the paper's."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  # six networks at 50 % noise, two hours on 2 cores
  robust-reid cifar cifar10_quick
  robust-reid cifar cifar10_table2 --data-root /data --device cuda
  # continue after Ctrl-C; finished cells are not trained again
  robust-reid cifar cifar10_quick --resume auto
  # a finished study, with a second seed added
  robust-reid cifar cifar10_quick seed=[0,1] --resume auto
  robust-reid cifar cifar10_quick 'loss=[{name: imae, T: 4}, {name: sce}]' \\
      --output-dir runs/mine
exit codes:
  0 success, 2 user error (one line per mistake), 1 bug; 130 and 143 stopped by
  a signal (resumable)"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid cifar`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("config", type=Path, help="YAML file, or the name of a packaged config")
    cli.add_config_flags(parser, example="train.iterations=8000")
    study = parser.add_argument_group("the study")
    study.add_argument("--output-dir", type=Path, metavar="DIR", help="folder of the study (default: runs/NAME)")
    how = study.add_mutually_exclusive_group()
    how.add_argument("--resume", choices=["auto"], help="auto: continue this study, or start it")
    how.add_argument("--overwrite", action="store_true", help="replace an existing study")
    how.add_argument("--dry-run", action="store_true", help="read the dataset, check the grid, write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_intermixed_args(argv)
    cli.log_to_stderr()

    from reid import config  # after parsing: importing torch takes seconds
    from reid.cifar.config import StudyConfig
    from reid.commands import cifar

    settings = config.load(config.find(flags.config), cli.overrides_of(flags), StudyConfig)
    options = cifar.Options(
        flags.output_dir or Path("runs") / settings.name,
        flags.resume is not None,
        flags.overwrite,
        flags.dry_run,
        cli.command_line(argv),
    )
    cifar.run(settings, options)
    return 0
