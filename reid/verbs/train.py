"""Train a re-identification model from a config, then test it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid train demo
  robust-reid train mars_imae --data-root /data --device cuda
  robust-reid train mars_imae loss.T=4 train.lr 0.02 --output-dir runs/imae_T4
  # continue after Ctrl-C, or start
  robust-reid train mars_imae --resume auto
  # a run for each of the ten published splits: mean, standard deviation
  robust-reid train mars_osnet data.name=prid2011 data.split=all
  # check everything with one step; writes nothing
  robust-reid train mars_imae --dry-run
  # where a step's time goes: table and trace
  robust-reid train mars_imae --profile 20
  # four processes, one GPU each
  torchrun --nproc-per-node 4 -m reid train mars_imae
exit codes:
  0 success, 2 user error (one line per mistake), 1 bug; 130, 143 and 138
  stopped by SIGINT, SIGTERM and SIGUSR1 (resumable; with torchrun, SIGUSR1
  needs --signals-to-handle SIGTERM,SIGINT,SIGUSR1)"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid train`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.usage = "%(prog)s CONFIG [key.path=value ...] [flags]"
    parser.add_argument("config", type=Path, help="YAML file, or the name of a packaged config, e.g. demo")
    cli.add_config_flags(parser, example="loss.T=4")
    run = parser.add_argument_group("the run")
    run.add_argument("--output-dir", type=Path, metavar="DIR", help="run directory (default: runs/NAME)")
    how = run.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", metavar="auto|PATH", help="auto: continue this run, or start it; PATH: from that checkpoint"
    )
    how.add_argument("--overwrite", action="store_true", help="replace an existing run")
    how.add_argument("--dry-run", action="store_true", help="check everything with one step; write nothing")
    how.add_argument(
        "--profile",
        type=int,
        metavar="N",
        help="train N steps; write only profile.txt and trace.json.gz to DIR/profile",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_intermixed_args(argv)
    cli.log_to_stderr()

    from reid import config  # after parsing: importing torch takes seconds
    from reid.commands import profile, splits, train

    settings: config.Config = config.load(config.find(flags.config), cli.overrides_of(flags))
    output_dir = flags.output_dir or Path("runs") / settings.name
    if flags.profile is not None:
        profile.run(settings, output_dir, flags.profile)
        return 0
    options = train.Options(output_dir, flags.resume, flags.overwrite, flags.dry_run, cli.command_line(argv))
    run = splits.run if settings.data.split == "all" else train.run
    run(settings, options)
    return 0
