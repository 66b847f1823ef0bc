"""The command `robust-reid VERB …`; also `python -m reid VERB …`."""

import sys
import warnings
from importlib import import_module
from pathlib import Path

from reid import cli
from reid.errors import nearest

VERBS = {  # module of reid.verbs -> what it does, in the order a new user needs them; each has `main(argv)` with its own --help
    "demo": "render a demo dataset, train, test, write the report",
    "import": "make one table of folders, tracker output or public datasets",
    "doctor": "check a dataset or table: counts, images, labels, leaks",
    "train": "train a model from a config, then test it",
    "test": "compute mAP and CMC of a run, or of any model's features",
    "audit": "find wrong labels: a ranking, and a page to review it",
    "extract": "extract features of tracklets into a gallery",
    "search": "find the nearest tracklets in a gallery",
    "gallery": "remove tracklets, build an index, push to a database",
    "export": "export a trained network for other programs",
    "tune": "choose a setting's value on held-out training identities",
    "compare": "test whether the difference between two runs is significant",
    "noise": "draw label noise and save it as a reproducible manifest",
    "cifar": "run the label-noise study on CIFAR-10 and CIFAR-100",
    "pack": "pack many small image files into a few large files",
    "render": "render the demo dataset only, with any settings",
    "env": "show versions, devices and conflicting packages",
    "completion": "print shell completion for bash, zsh, fish, …",
}


def main() -> int:
    """Runs the command given on the command line; returns the exit code."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: robust-reid VERB …   (robust-reid VERB --help shows its options)\n")
        print("\n".join(f"  {verb:<12}{meaning}" for verb, meaning in VERBS.items()))
        print("\n  --version")
        return 0
    if name == "--version":
        print(f"robust-reid {_version()}")
        return 0
    if name not in VERBS:
        print(f"error: unknown command {name!r}; {nearest(name, list(VERBS))}", file=sys.stderr)
        return 2
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # hides warnings of libraries; -W and PYTHONWARNINGS show them
    sys.argv = [f"robust-reid {name}", *rest]  # the name in usage lines and logs
    return cli.run(import_module(f"reid.verbs.{name}").main)


def _version() -> str:
    from importlib.metadata import (
        PackageNotFoundError,
        version,
    )  # imported here: takes a third of the time of --help, which does not need it

    try:
        return version("robust-reid")
    except PackageNotFoundError:  # a checkout that was never installed has no version metadata
        return f"(not installed; the checkout in {Path(__file__).parents[1]})"


if __name__ == "__main__":
    sys.exit(main())
