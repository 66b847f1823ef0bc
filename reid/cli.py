"""Shared parts of all command-line tools: flags, exit codes, signals, logging. Imports torch only when work begins, so --help is fast."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from reid.errors import ReidError, one_line

logger = logging.getLogger(__name__)


# Ctrl-C; the default of kill; what cluster managers send before a job's time limit (SLURM: --signal=USR1@120).
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGUSR1
_SIGPIPE = 13  # Windows has no signal.SIGPIPE
ECHO = 1.0  # seconds within which a second signal is a duplicate of the first


class Interrupted(BaseException):
    """Raised for a signal of `STOPPING`; the run can be resumed. `code` is the exit code, 128 plus the signal's number: 130, 143 or 138."""

    def __init__(self, signum: int) -> None:
        self.code = 128 + signum


class StopFlag:
    """Records a signal of `STOPPING`, so that a loop can stop at the end of a step; a second signal stops at once.

    A second signal within `ECHO` seconds is ignored as a duplicate: one sent to a whole job arrives both directly and through torchrun.
    """

    def __init__(self) -> None:
        self.signum, self._since = 0, 0.0

    def __enter__(self) -> StopFlag:
        self._before = {signum: signal.signal(signum, self._note) for signum in STOPPING}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            if time.monotonic() - self._since > ECHO:
                raise Interrupted(signum)
            return
        self.signum, self._since = signum, time.monotonic()
        logger.warning("%s: stopping after this step; repeat to stop immediately", signal.Signals(signum).name)


def run(main: Callable[[], int | None]) -> int:
    """Calls a tool's main and returns the exit code.

    0: done. 2: an error that is not a bug, such as a wrong setting, an unusable file, a full disk or too little memory. 130, 143, 138:
    SIGINT, SIGTERM, SIGUSR1. 141: stdout was closed. 1: any other exception, which is a bug; its traceback is printed.
    """
    try:
        with _interruptible():
            code = main() or 0
            sys.stdout.flush()  # so that a full disk is reported here, not at interpreter exit
            return code
    except ReidError as error:
        from reid.processes import is_main_process

        for problem in error.problems if is_main_process() else ():
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of stdout has closed it, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + _SIGPIPE
    except Interrupted as interrupted:
        return interrupted.code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            usable = "check that the file or folder exists and is accessible"
            print(f"error: {one_line(f'{error.filename}: {error.strerror}; {usable}')}", file=sys.stderr)
            return 2
        if (told := _of_the_machine(error)) is not None:
            print(f"error: {one_line(told)}", file=sys.stderr)
            return 2
        traceback.print_exc()  # the interpreter would keep the frames, and wait forever for the workers that they refer to
        return 1


def _of_the_machine(error: Exception) -> str | None:
    """Message for an error of the machine, neither a bug nor the user's mistake: disk full, out of memory. None for any other error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):  # buffered output cannot be written either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"{error.strerror}: the disk is full (or the device that the output goes to); free some space and run the command again"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        return f"out of memory: {error}; lower the batch size or machine.workers, or use a larger machine"
    return None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turns signals into `Interrupted`; afterwards ignores them, because torchrun sends them also to processes that are already exiting."""
    for signum in STOPPING[1:]:  # Python itself turns SIGINT into a KeyboardInterrupt
        signal.signal(signum, _interrupt)
    try:
        yield
    finally:
        for signum in STOPPING[1:]:
            signal.signal(signum, _ignore)  # child processes would inherit SIG_IGN


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


def _ignore(signum: int, frame: FrameType | None) -> None:
    pass


def parser(description: str, examples: str) -> argparse.ArgumentParser:
    """An argument parser that shows the examples without wrapping them; like the rest of its help, they must fit 80 columns."""
    return argparse.ArgumentParser(
        prog=Path(sys.argv[0]).name,  # from Python 3.14 on, the default would show `python -m reid`
        description=textwrap.fill(description, 80),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def path_or_text(text: str) -> str:
    """Argument type for a path or any other text, returned unchanged; shell completion offers files for it, as for a `Path`."""
    return text


def add_config_flags(arguments: argparse.ArgumentParser, example: str = "machine.workers=8") -> None:
    """Adds flags that stand for config keys, and free overrides; `overrides_of` turns both into one list."""
    arguments.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help=f"change a setting, e.g. {example} (or with a space)"
    )
    group = arguments.add_argument_group("settings that have a flag")
    group.add_argument("--data-root", metavar="DIR", help="folder with one folder per dataset (data.root)")
    group.add_argument("--device", help="auto, cpu, cuda or cuda:N (machine.device)")
    group.add_argument("--seed", type=int, help="random seed of everything except label noise (seed)")


def add_weights_flags(arguments: argparse._ActionsContainer) -> None:
    """Adds flags that specify a network by a weight file, in place of a run."""
    arguments.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights to use instead of RUN: a checkpoint, also of another toolkit, or an exported ONNX file",
    )
    arguments.add_argument("--model", metavar="NAME", help="the network of FILE, e.g. resnet50")
    arguments.add_argument("--size", type=_size, metavar="HxW", help="input size of that network (default: 256x128)")


def _size(text: str) -> tuple[int, int]:
    height, times, width = text.partition("x")
    if not (times and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 256x128, got {text!r}")
    return int(height), int(width)


def check_weights_flags(arguments: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Checks that flags of `add_weights_flags` are consistent; if not, exits as argparse does."""
    if flags.weights is None and (flags.model or flags.size):
        arguments.error("--model and --size describe --weights FILE; a run already contains them")
    if flags.weights is not None and flags.checkpoint:
        arguments.error("--checkpoint chooses a checkpoint of a run; it cannot be combined with --weights FILE")


def check_run_or_weights(arguments: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
    """Runs `check_weights_flags` for tools whose first positional argument is RUN; with --weights, that argument is the first override."""
    check_weights_flags(arguments, flags)
    if flags.weights is not None and flags.run is not None:
        flags.run, flags.overrides = None, [str(flags.run), *flags.overrides]


def overrides_of(flags: argparse.Namespace) -> list[str]:
    """The list of overrides, those of flags last."""
    named = {"data.root": flags.data_root, "machine.device": flags.device, "seed": flags.seed}
    # Quoted, because the name of a folder may look like a number.
    return [
        *flags.overrides,
        *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in named.items() if value is not None),
    ]


class _TerminalFormatter(logging.Formatter):
    """Formats log lines no wider than the terminal that shows them; files and pipes get whole lines.

    Lines that are too long are wrapped between words. If a record has an attribute `short`, it replaces a message that is too long. Lines
    of tables, which contain " | ", are not wrapped.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not sys.stderr.isatty():
            return text
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0 if the terminal does not report it
        if len(text) >= columns:
            text = getattr(record, "short", text)
        return "\n".join(
            line if len(line) < columns or " | " in line else _wrapped(line, columns) for line in text.split("\n")
        )


def _wrapped(line: str, columns: int) -> str:
    return textwrap.fill(
        line,
        columns - 1,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def log_to_stderr() -> None:
    """Logs to stderr from the main process only; other processes log only critical errors, the reason why all of them must end."""
    from reid.processes import is_main_process

    root = logging.getLogger()
    root.setLevel(logging.INFO if is_main_process() else logging.CRITICAL)
    handler = logging.StreamHandler()
    handler.setFormatter(_TerminalFormatter("%(message)s"))
    root.handlers = [handler]
    logging.getLogger("faiss").setLevel(logging.WARNING)  # else it logs which of its builds it tries to load


@contextlib.contextmanager
def logging_to_file(path: Path) -> Iterator[None]:
    """Appends the log lines, with times, to a file as well, for the duration of the context."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def command_line(argv: Sequence[str] | None) -> str:
    """The command as typed, for logs."""
    return " ".join(sys.argv if argv is None else [sys.argv[0], *argv])
