"""Print the completion of robust-reid's commands and flags for a shell, to be kept in a file that the shell reads."""

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
    """The flags of `robust-reid completion`."""
    parser = cli.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="for which shell")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    shell = parser().parse_args(argv).shell
    print(shtab.complete(whole_command(), shell))
    return 0


def whole_command() -> argparse.ArgumentParser:
    """All verbs' parsers as subparsers of one, with files offered where a path is expected."""
    whole = argparse.ArgumentParser(prog="robust-reid")
    whole.add_argument("--version", action="store_true", help="the version")
    commands = whole.add_subparsers(dest="verb")
    for module in pkgutil.iter_modules(verbs.__path__):
        verb: argparse.ArgumentParser = import_module(f"reid.verbs.{module.name}").parser()
        _offer_files(verb)
        commands.add_parser(module.name, parents=[verb], add_help=False, help=verb.description)
    return whole


def _offer_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # argparse has no public list of them; shtab reads the same one
        if action.type in (Path, cli.path_or_text):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif isinstance(action.choices, dict):  # a verb's own verbs
            for inner in action.choices.values():
                _offer_files(inner)
