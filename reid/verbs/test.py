"""Test a run's checkpoint, or features made by any model, and print mAP and CMC with the protocol's name beside them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid test runs/demo
  robust-reid test runs/mars_imae --protocol mars-official --data-root /data
  robust-reid test runs/mars_imae --checkpoint best --json best.json
  robust-reid test --features features.npz --protocol all
  # a network of another toolkit, without a run
  robust-reid test --weights theirs.pth --model resnet50 data.name=market1501
  # queries in a file of their own; every row against the rest
  robust-reid test --query-file query.npz --gallery-file gallery.npz
  robust-reid test --features features.npz --leave-one-out
  # rules of your own: {name: ours, gallery: without_queries, ap: hit}
  robust-reid test --features features.npz --protocol ours.yaml
  robust-reid test --features features.npz --full --json full.json
  robust-reid test --features features.npz --after rerank
  # data from a single camera
  robust-reid test --features features.npz --any-camera"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid test`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("run", type=Path, nargs="?", help="run directory of robust-reid train")
    cli.add_config_flags(parser)
    what = parser.add_argument_group("input")
    what.add_argument(
        "--features",
        type=Path,
        metavar="FILE|DIR",
        help="evaluate these features: an .npz file, or a folder of robust-reid extract",
    )
    what.add_argument(
        "--query-file", type=Path, metavar="FILE", help="features of the queries (.npz); needs --gallery-file"
    )
    what.add_argument(
        "--gallery-file", type=Path, metavar="FILE", help="features of the gallery (.npz); needs --query-file"
    )
    what.add_argument(
        "--leave-one-out", action="store_true", help="with --features: each row is a query against all others"
    )
    what.add_argument("--checkpoint", metavar="last|best|PATH", help="checkpoint of RUN (default: last)")
    cli.add_weights_flags(what)
    how = parser.add_argument_group("evaluation")
    how.add_argument("--protocol", metavar="NAME|all|FILE.yaml", help="default: that of the run, else all")
    how.add_argument("--any-camera", action="store_true", help="count matches seen by the query's own camera too")
    how.add_argument(
        "--after",
        choices=["rerank", "expand"],
        help="k-reciprocal re-ranking, or average query expansion, of the ranking",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--full", action="store_true", help="also intervals, camera pairs, ROC and thresholds")
    output.add_argument("--markdown", action="store_true", help="print rows of a Markdown table as well")
    output.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    flags = arguments.parse_intermixed_args(argv)
    cli.check_run_or_weights(arguments, flags)
    if (flags.query_file is None) != (flags.gallery_file is None):
        arguments.error("--query-file and --gallery-file go together")
    if sum(given is not None for given in (flags.run, flags.features, flags.weights, flags.query_file)) != 1:
        arguments.error("give either a run directory, or --weights, or --features, or --query-file and --gallery-file")
    if flags.leave_one_out and flags.features is None:
        arguments.error("--leave-one-out is for --features")
    features = flags.features or flags.query_file
    overrides = cli.overrides_of(flags)
    if features is not None and (overrides or flags.checkpoint):
        arguments.error(
            "--features loads no model and no config: --protocol, --any-camera, --markdown, --full, --after and --json are all it takes"
        )
    if flags.after and flags.full:
        arguments.error("--after changes the ranking, and much of --full is about similarities: choose one")
    cli.log_to_stderr()

    from reid.commands import test
    from reid.experiment.exported import source
    from reid.protocol import get_protocols

    printed = {"json_file": flags.json, "markdown": flags.markdown, "full": flags.full, "after": flags.after}
    if features is not None:
        test.run_on_features(
            features,
            get_protocols(flags.protocol or "all", any_camera=flags.any_camera),
            gallery_file=flags.gallery_file,
            leave_one_out=flags.leave_one_out,
            **printed,
        )
    else:
        overrides += ["test.any_camera=true"] if flags.any_camera else []
        model = source(flags.run, flags.checkpoint, flags.weights, flags.model, flags.size)
        test.run(model, overrides, flags.protocol, **printed)
    return 0
