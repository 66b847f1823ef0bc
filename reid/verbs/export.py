"""Write a trained network as one file for other programs, and keep it only if it gives what PyTorch gives."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid export runs/mars_imae --format onnx --out model.onnx
  # what other tools expect: normalised float32 input
  robust-reid export runs/mars_imae --format onnx --out plain.onnx \\
      --preprocessing outside
  robust-reid export runs/mars_imae --format onnx --out small.onnx \\
      --dtype int8
  robust-reid export runs/mars_imae --format torchscript --out model.ts
  # without the dataset: compared on images of your own
  robust-reid export runs/mars_imae --format onnx --out mine.onnx \\
      --images frames/"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid export`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("run", type=Path, nargs="?", help="run directory of robust-reid train; not with --weights")
    cli.add_config_flags(parser)
    what = parser.add_argument_group("output format")
    what.add_argument("--checkpoint", metavar="last|best|PATH", help="checkpoint of RUN (default: last)")
    cli.add_weights_flags(what)
    what.add_argument(
        "--preprocessing",
        choices=["inside", "outside"],
        default="inside",
        help="the file's input: resized uint8 RGB (inside, the default), or normalised float32",
    )
    what.add_argument(
        "--dtype",
        choices=["float32", "fp16", "int8"],
        default="float32",
        help="smaller types are kept only if the order of similarities is preserved",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format", choices=["onnx", "torchscript", "torch-export"], required=True, help="format of the file"
    )
    output.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    output.add_argument("--images", type=Path, metavar="DIR", help="compare on these, not on the run's test set")
    output.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    flags = arguments.parse_intermixed_args(argv)
    cli.check_run_or_weights(arguments, flags)
    if (flags.run is None) == (flags.weights is None):
        arguments.error("give either a run directory, or --weights")
    cli.log_to_stderr()

    from reid.commands import export
    from reid.experiment.exported import source

    names = export.Options.__dataclass_fields__
    options = export.Options(**{name: getattr(flags, name) for name in names})
    model = source(flags.run, flags.checkpoint, flags.weights, flags.model, flags.size)
    export.run(model, cli.overrides_of(flags), options)
    return 0
