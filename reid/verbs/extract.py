"""Embed tracklets with a trained model and write a feature folder: features.npy, meta.csv, gallery.json, and an index if wanted."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reid import cli

EXAMPLES = """\
  robust-reid extract runs/mars_imae /data/mars --out galleries/mars
  # one folder of images per tracklet
  robust-reid extract runs/mars_imae my_tracklets/ --out galleries/mine
  # more tracklets, by the same model
  robust-reid extract runs/mars_imae monday/ --out galleries/mine --add
  # or straight into a vector database
  robust-reid extract runs/mars_imae monday/ --out people.db#mine --add
  # one row per frame: path,tracklet[,pid,camid]
  robust-reid extract runs/mars_imae frames.csv --out galleries/listed
  # by a network of another toolkit, without a run
  robust-reid extract --weights theirs.pth --model resnet50 /data/mars \\
      --out galleries/theirs
  # after an interruption
  robust-reid extract runs/mars_imae /data/mars --out galleries/mars \\
      --resume auto
  robust-reid extract runs/mars_imae /data/mars --out galleries/fast \\
      --index IVF1024,Flat:nprobe=16
  torchrun --nproc-per-node 4 -m reid extract runs/mars_imae /data/mars \\
      --out galleries/mars
  # by all machines of a Ray cluster (pip install 'robust-reid[ray]')
  RAY_ADDRESS=head:6379 robust-reid extract runs/mars_imae /data/mars \\
      --out galleries/mars --engine ray"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid extract`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("run", type=Path, nargs="?", help="run directory of robust-reid train; not with --weights")
    parser.add_argument(
        "input", type=Path, help="dataset in MARS layout, folder of tracklet folders, or table (CSV, Parquet)"
    )
    cli.add_config_flags(parser)
    what = parser.add_argument_group("input and weights")
    what.add_argument("--kind", choices=["auto", "mars", "folders", "manifest"], default="auto", help="what INPUT is")
    what.add_argument("--checkpoint", metavar="last|best|PATH", help="checkpoint of RUN (default: last)")
    cli.add_weights_flags(what)
    what.add_argument(
        "--skip-tracklets",
        action="store_true",
        help="leave out images that cannot be read, and tracklets that have no other; both are listed",
    )
    engine = parser.add_argument_group("where it is computed")
    engine.add_argument(
        "--engine",
        choices=["here", "ray"],
        default="here",
        help="ray: on a Ray cluster: that of RAY_ADDRESS, else a local one",
    )
    engine.add_argument(
        "--ray-cpus", type=int, metavar="N", help="cores of each of its actors (default: a machine's, at most 8)"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=cli.path_or_text,
        required=True,
        metavar="DIR|URI",
        help="feature folder to write; with --add also a database, as robust-reid gallery push takes it",
    )
    mode = output.add_mutually_exclusive_group()
    mode.add_argument("--add", action="store_true", help="add to an existing feature folder")
    mode.add_argument("--overwrite", action="store_true", help="replace an existing feature folder")
    output.add_argument("--resume", choices=["auto"], help="resume an interrupted extraction, if there is one")
    output.add_argument("--shard", type=int, metavar="FRAMES", help="frames between two saved parts (default: 16384)")
    output.add_argument(
        "--index",
        metavar="FACTORY",
        help="build a faiss index; search parameters after a colon (of a new database: Milvus' kind of index)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser()
    flags = arguments.parse_intermixed_args(argv)
    cli.check_weights_flags(arguments, flags)
    if flags.weights is not None and flags.run is not None:  # argparse has put INPUT into RUN
        words = [str(flags.run), str(flags.input), *flags.overrides]
        flags.input, flags.overrides = Path(words[0]), words[1:]
    elif flags.weights is None and flags.run is None:
        arguments.error("give a run directory and what to embed, or --weights FILE and what to embed")
    if flags.ray_cpus is not None and flags.engine != "ray":
        arguments.error("--ray-cpus goes with --engine ray")
    cli.log_to_stderr()

    from reid.commands import extract
    from reid.experiment.exported import source
    from reid.gallery import milvus, store

    more = {} if flags.shard is None else {"shard_frames": flags.shard}
    more |= {"resume": flags.resume is not None, "index": flags.index, "skip_tracklets": flags.skip_tracklets}
    target: extract.Target | extract.Database
    if milvus.is_address(flags.out) and not store.exists(Path(flags.out)):
        if not flags.add:
            arguments.error(f"--out {milvus.address(flags.out)} is a database; use --add to add rows")
        target = extract.Database(milvus.address(flags.out), **more)
    else:
        mode: extract.Mode = "add" if flags.add else "overwrite" if flags.overwrite else "new"
        target = extract.Target(Path(flags.out), mode, **more)
    model = source(flags.run, flags.checkpoint, flags.weights, flags.model, flags.size)
    engine = extract.Engine(flags.engine == "ray", flags.ray_cpus)
    extract.run(model, cli.overrides_of(flags), flags.input, flags.kind, target, engine)
    return 0
