"""Train a re-identification model from a config, then test it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  python tools/train.py configs/demo.yaml
  python tools/train.py configs/mars_imae.yaml --data-root /data --device cuda
  python tools/train.py configs/mars_imae.yaml loss.T=4 train.lr 0.02 --output-dir runs/imae_T4
  python tools/train.py configs/mars_imae.yaml --resume auto      # go on after Ctrl-C, or start
  python tools/train.py configs/mars_imae.yaml --dry-run          # build everything, one step, write nothing
  python tools/train.py configs/mars_imae.yaml --profile 20       # where a step's time goes: table and trace
  torchrun --nproc-per-node 4 tools/train.py configs/mars_imae.yaml
exit codes: 0 done, 2 your input (one line per mistake), 130, 143 and 138 stopped by SIGINT, SIGTERM and SIGUSR1
(resumable; with torchrun, SIGUSR1 needs --signals-to-handle SIGTERM,SIGINT,SIGUSR1)"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("config", type=Path, help="YAML file, e.g. configs/demo.yaml")
    cli.add_config_flags(parser, example="loss.T=4")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="run directory (default: runs/NAME)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", metavar="auto|PATH", help="auto: continue this run, or start it; PATH: from that checkpoint"
    )
    how.add_argument("--overwrite", action="store_true", help="replace an existing run")
    how.add_argument("--dry-run", action="store_true", help="build everything, do one step, write nothing")
    how.add_argument(
        "--profile",
        type=int,
        metavar="N",
        help="train N steps, write only profile.txt and trace.json.gz to DIR/profile",
    )
    flags = parser.parse_intermixed_args(argv)
    cli.log_to_stderr()

    from reid import config  # after parsing: importing torch takes seconds
    from reid.commands import profile, train

    settings = config.load(flags.config, cli.overrides_of(flags))
    output_dir = flags.output_dir or Path("runs") / settings.name
    if flags.profile is not None:
        profile.run(settings, output_dir, flags.profile)
        return 0
    train.run(settings, train.Options(output_dir, flags.resume, flags.overwrite, flags.dry_run, cli.command_line(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
