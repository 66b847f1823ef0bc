"""What a person sees in a terminal of 80 columns, run in a real one; a pipe and log.txt get whole lines."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEP = re.compile(
    r"iter \d+/\d+  eta [\d:]+  time [\d.]+ \([\d.]+\)  data [\d.]+ \([\d.]+\)  "
    r"loss [\d.]+ \([\d.]+\)  acc [\d.]+ \([\d.]+\)  lr [\d.]+$"
)


def in_a_terminal(*argv: str, columns: int = 80) -> str:
    """What the command writes to a terminal, escape codes left out."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "0"}
    command = [sys.executable, "-m", "reid", *argv]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                block = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not block:
                break
            written += block
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", written.decode())


def test_training_fits_80_columns_and_its_bar_moves_at_every_step(workplace: Path) -> None:
    shown = in_a_terminal("train", "run.yaml", "train.log_freq=1000", "train.iterations=8", "--output-dir", "r")
    lines = [line for text in shown.replace("\r\n", "\n").split("\n") for line in text.split("\r")]
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert [line.split()[1] for line in lines if line.startswith("iter ")] == ["1/8", "8/8"]
    drawn = [int(done) for done in re.findall(r"training: .*? (\d+)/8 \[", shown)]
    assert sorted(set(drawn)) == list(range(9))
    assert drawn == sorted(drawn)
    logged = [line.partition("INFO ")[2] for line in Path("r/log.txt").read_text().splitlines()]
    assert sum(bool(STEP.match(line)) for line in logged) == 2


def test_a_wide_terminal_shows_the_whole_step_line(workplace: Path) -> None:
    shown = in_a_terminal("train", "run.yaml", "train.iterations=2", "--output-dir", "r", columns=200)
    assert sum(bool(STEP.search(line)) for line in re.split(r"[\r\n]+", shown)) == 2
