"""Draw label noise and write it as a manifest, without training; the dataset on disk is not changed."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid noise demo --out noise.csv \\
      data.noise='{name: switches, rate: 0.1, seed: 0}'
  robust-reid noise mars_imae --out noise.csv --data-root /data \\
      data.noise='{name: nearest, rate: 0.1, seed: 0}'
  # then, on any copy of the data
  robust-reid train demo data.noise='{name: manifest, path: noise.csv}'
A list of kinds, in brackets, is applied in order.
kinds: symmetric, exact_count, uniform_others, nearest, switches, intruders,
  fragments, split_identities, merged_identities, background, manifest"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid noise`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("config", type=Path, help="YAML file, or the name of a packaged config, e.g. demo")
    cli.add_config_flags(parser, example="data.labels=truth")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="manifest to write (CSV)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser().parse_intermixed_args(argv)
    cli.log_to_stderr()

    from reid import config  # after parsing: importing torch takes seconds
    from reid.commands import noise

    settings: config.Config = config.load(config.find(flags.config), cli.overrides_of(flags))
    noise.run(settings, flags.out, overwrite=flags.overwrite)
    return 0
