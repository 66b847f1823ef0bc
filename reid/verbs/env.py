"""Print versions and devices, and report conflicting packages."""

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version

from reid import cli

PACKAGES = ("robust-reid", "torch", "torchvision", "timm", "numpy", "scipy", "pillow", "faiss-cpu", "faiss-gpu")


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid env`."""
    return cli.parser(__doc__ or "", "  robust-reid env")


def main(argv: Sequence[str] | None = None) -> int:
    parser().parse_args(argv)

    from reid.runtime import environment

    for name in PACKAGES:
        print(f"{name:<12} {_version(name)}")
    for name in ("python", "gpu", "cpu"):
        print(f"{name:<12} {environment()[name]}")
    found = conflicts({module: set(names) for module, names in packages_distributions().items()})
    print("\n".join(["", *found]) if found else "no conflicts")
    return 0


def conflicts(owners: dict[str, set[str]]) -> list[str]:
    """Return a line for each module that several installed distributions provide, which overwrite each other's files.

    Args:
        owners: module -> distributions that install it.
    """
    return [
        f"conflict: {' and '.join(sorted(owners[module]))} both install the module `{module}` and overwrite each other; "
        "uninstall all of them, then install the one you want"
        for module in ("reid", "faiss")
        if len(owners.get(module, set())) > 1
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
