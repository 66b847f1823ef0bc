"""The command `robust-reid VERB …`; also `python -m reid VERB …`."""

import sys
import warnings
from importlib import import_module
from pathlib import Path

from reid import cli
from reid.errors import nearest

VERBS = {  # module of reid.verbs -> what it does, in the order a new user needs them; each has `main(argv)` with its own --help
    "demo": "rendered people: make them, train on them, test, report",
    "import": "one table from folders, trackers, annotations, public datasets",
    "doctor": "look a dataset or table over: counts, images, labels, leaks",
    "train": "train a model from a config, then test it",
    "test": "mAP and CMC of a run, or of features made by any model",
    "audit": "which labels are wrong: a ranking, and a page to review it",
    "extract": "features of tracklets, as a gallery",
    "search": "the nearest tracklets of a gallery",
    "gallery": "take tracklets out of a gallery, build its index",
    "export": "a trained network as one file for other programs",
    "tune": "choose a setting's value on training identities held out",
    "compare": "two runs on the same queries: is the difference real?",
    "noise": "labels wrong on purpose, as a manifest that replays",
    "cifar": "the label-noise study on CIFAR-10 and CIFAR-100",
    "pack": "many small image files into a few large ones",
    "render": "only make the demo dataset, with other settings if wanted",
    "env": "versions and devices, and packages that get in the way",
    "completion": "completion of commands and flags, for bash, zsh, fish, …",
}


def main() -> int:
    """Runs the command given on the command line; returns the exit code."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: robust-reid VERB …   (robust-reid VERB --help tells more)\n")
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
