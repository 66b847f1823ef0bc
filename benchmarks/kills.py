"""Kill a training run with SIGKILL at random moments, resume it each time, and compare its final state with an undisturbed run.

    python benchmarks/kills.py [--kills 100] [--workers 0] [--json FILE]

A small network trains on a small rendered dataset through tools/train.py, with a checkpoint every 3 steps, log lines at other
steps, held-out identities (best.pt), an average of the weights, and a test at the end. About a fifth of the kills happens during startup,
a tenth after the last step (test and report), the others during training. A run that finishes before all kills are done is compared, and
another begins. Weights, optimiser state, all lines of metrics.jsonl except clock times, and eval.json must be bitwise equal.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from record import keep

from reid.datasets.demo import write_demo
from reid.engine import checkpoint
from reid.rundir import RunDirectory

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = """
data: {{name: demo, holdout: 0.4}}
model: {{name: test_resnet, pretrained: false}}
loss: {{name: imae, T: 8.0}}
augment: {{resize: [36, 20], crop: [32, 16]}}
train: {{iterations: {steps}, batch_size: 8, lr: 0.01, ema: 0.99, log_freq: 7, checkpoint_freq: 3, eval_freq: 20}}
test: {{batch_size: 64, protocols: market1501}}
machine: {{device: cpu, workers: {workers}}}
"""
DATASET: dict[str, Any] = {
    "train_ids": 6,
    "test_ids": 5,
    "tracklets_per_id": 4,
    "min_frames": 2,
    "max_frames": 4,
    "distractors": 4,
    "junk": 2,
}
CLOCKS = {"seconds", "data_seconds", "images_per_second"}
BUILT, TRAINED, TESTED = (
    "model test_resnet: ",
    "nothing left to train",
    "protocol market1501: ",
)  # log messages of a run
EARLY, LATE = 0.2, 0.1  # shares of the kills during startup, and after the last step


@dataclass
class Run:
    """A run directory and its current process."""

    folder: Path
    steps: int
    _said: int = 0

    def __post_init__(self) -> None:
        self.directory, self._output = RunDirectory(self.folder / "run"), self.folder / "output.txt"
        self.folder.mkdir()
        self._output.touch()

    def start(self) -> None:
        self._said, self.started = self._output.stat().st_size, time.monotonic()
        data: list[str | Path] = ["--data-root", self.folder.parent, "--output-dir", self.directory.path]
        command: list[str | Path] = [
            sys.executable,
            PROJECT / "tools/train.py",
            self.folder.parent / "run.yaml",
            *data,
            "--resume",
            "auto",
        ]
        with open(self._output, "ab") as output:
            self.process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output)

    def says(self, words: str) -> bool:
        """Whether the process has printed the words."""
        return words.encode() in self._output.read_bytes()[self._said :]

    def wait_until(self, words: str) -> float:
        """Wait until the process prints the words or ends; returns the time."""
        while not self.says(words) and self.process.poll() is None:
            time.sleep(0.002)
        return time.monotonic()

    def finish(self) -> float:
        """Wait until the process ends, which must succeed; returns the time."""
        if code := self.process.wait():
            raise SystemExit(f"{self._output}: the process that was not killed ended with code {code}")
        return time.monotonic()

    def left(self) -> int:
        """Steps left for the next process."""
        files = self.directory.resumable()
        return self.steps - (checkpoint.load_first(files)[1]["step"] if files else 0)

    def found(self) -> str:
        """Describe what the killed process was doing, by its output and files."""
        half = [file.name.split(".")[1] for file in self.directory.path.rglob(".*.tmp")]
        if "last" in half:
            previous_alone = self.directory.previous.exists() and not self.directory.last.exists()
            return "last.pt: between the two renames" if previous_alone else "last.pt: being written or proven"
        if half:
            return f"{half[0]}: being written"
        if not self.says(BUILT):
            return "starting up"
        return "after the last step" if self.says(TRAINED) or not self.left() else "between checkpoints"


@dataclass
class Tally:
    """Kills so far: the states found, and the step of the checkpoint left by each."""

    wanted: int
    starts: int = 0
    found: Counter[str] = field(default_factory=Counter)
    at_step: list[int] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.wanted - len(self.at_step)


def undisturbed(run: Run) -> dict[str, float]:
    """Train without a kill, then test again; returns the seconds of startup, of a step, and of the final test and report."""
    run.start()
    built = run.wait_until(BUILT)
    startup, ended = built - run.started, run.finish()
    run.start()
    trained = run.wait_until(TRAINED)
    finishing = run.finish() - trained
    return {"startup": startup, "step": max(ended - built - finishing, 0.1) / run.steps, "end": finishing}


def disturb(run: Run, tally: Tally, seconds: dict[str, float], draw: random.Random) -> None:
    """Start and kill a run until it finishes or the kills are used up; in the latter case, let it finish."""
    while tally.left:
        _start_and_wait(run, tally, seconds, draw)
        run.process.kill()
        if run.process.wait() == 0:  # it finished before the kill
            return
        tally.found[run.found()] += 1
        tally.at_step.append(run.steps - run.left())
        print(f"kill {len(tally.at_step)}: step {tally.at_step[-1]}, {dict(tally.found)}", file=sys.stderr)
    run.start()
    tally.starts += 1
    run.finish()


def _start_and_wait(run: Run, tally: Tally, seconds: dict[str, float], draw: random.Random) -> None:
    steps, late = run.left(), LATE * tally.wanted
    run.start()
    tally.starts += 1
    if not steps:
        run.wait_until(TRAINED)
        time.sleep(draw.uniform(0, seconds["end"]))
    elif draw.random() < EARLY:
        time.sleep(draw.uniform(0, seconds["startup"]))
    else:  # spread over the steps left, so that the run does not finish long before the kills are used up
        share = min(1.0, 2 / max(1.0, (1 - EARLY) * (tally.left - late)))
        run.wait_until(BUILT)
        time.sleep(draw.uniform(0, share * steps * seconds["step"]))


def differences(ours: Run, theirs: Run) -> list[str]:
    """List the differences between the final states of two runs."""
    found = []
    for name in ("last", "best"):
        mine, other = (checkpoint.load(run.directory.checkpoint(name)) for run in (ours, theirs))
        keys = sorted((mine.keys() | other.keys()) - {"windows"})  # its sums are in the lines; its clock times differ
        found += [f"{name}.pt: {key}" for key in keys if not _same(mine.get(key), other.get(key))]
    if _lines(ours) != _lines(theirs):
        found.append("metrics.jsonl")
    if ours.directory.results.read_bytes() != theirs.directory.results.read_bytes():
        found.append("eval.json")
    return [f"{ours.folder.name}: {difference}" for difference in found]


def _lines(run: Run) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row.keys() - CLOCKS} for row in run.directory.read_metrics()]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in theirs)
    return ours == theirs


def measured(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything; returns the report."""
    write_demo(folder / "demo", **DATASET)
    (folder / "run.yaml").write_text(CONFIG.format(steps=flags.steps, workers=flags.workers))
    whole, tally, draw = Run(folder / "whole", flags.steps), Tally(flags.kills), random.Random(flags.seed)
    seconds, runs, different = undisturbed(whole), 0, []
    while tally.left:
        runs += 1
        run = Run(folder / f"disturbed_{runs}", flags.steps)
        disturb(run, tally, seconds, draw)
        different += differences(run, whole)
    return {
        "kills": len(tally.at_step),
        "found": dict(tally.found.most_common()),
        "at_step": tally.at_step,
        "runs": runs,
        "starts": tally.starts,
        "steps": flags.steps,
        "lines_compared": len(_lines(whole)) * runs,
        "differences": different,
        "seconds": seconds,
    }


def table(report: dict[str, Any]) -> str:
    """Format the states found by the kills, and the result."""
    rows = [f"| {what} | {count} |" for what, count in report["found"].items()]
    head = ["| the killed process was | kills |", "|---|---|"]
    equal = f"{report['kills']} kills, {report['starts']} starts, {report['runs']} run(s) of {report['steps']} steps: "
    end = (
        "; ".join(report["differences"])
        or f"weights and {report['lines_compared']} lines equal to the undisturbed run's"
    )
    return "\n".join([*head, *rows, "", equal + end])


def main(argv: list[str] | None = None) -> int:
    """Print the table; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=600, help="steps of a run")
    parser.add_argument("--workers", type=int, default=0, help="decoding processes of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = measured(flags, Path(folder))
    print(table(report))
    keep(flags.json, report)
    return 1 if report["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
