"""Print the shell completion script for robust-reid's commands and flags; save it to a file that the shell reads."""

import argparse
import pkgutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import shtab

from reid import cli, verbs

EXAMPLES = """\
  robust-reid completion bash \\
      > ~/.local/share/bash-completion/completions/robust-reid
  # into a folder of zsh's $fpath
  robust-reid completion zsh > ~/.zfunc/_robust-reid"""


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of `robust-reid completion`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    shell = parser().parse_args(argv).shell
    print(shtab.complete(whole_command(), shell))
    return 0


def whole_command() -> argparse.ArgumentParser:
    """Build one parser with the parsers of all commands as subparsers, and with file completion for path arguments."""
    whole = argparse.ArgumentParser(prog="robust-reid")
    whole.add_argument("--version", action="store_true", help="the version")
    commands = whole.add_subparsers(dest="verb")
    for module in pkgutil.iter_modules(verbs.__path__):
        verb: argparse.ArgumentParser = import_module(f"reid.verbs.{module.name}").parser()
        _offer_files(verb)
        commands.add_parser(module.name, parents=[verb], add_help=False, help=verb.description)
    return whole


def _offer_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # argparse has no public list of its actions; shtab reads this one too
        if action.type in (Path, cli.path_or_text):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif isinstance(action.choices, dict):  # subcommands of a command
            for inner in action.choices.values():
                _offer_files(inner)
