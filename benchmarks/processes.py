"""Train the demo as one process and as two through torchrun, and compare the results.

Normalisation layers use their own process's half of each batch, so that the two may differ like two seeds; each is run with several seeds.
With these layers frozen both compute the same step, up to float32 rounding. That pair is trained with SGD for a few steps, because AdamW
divides a gradient by its own magnitude, and so makes rounding errors of vanishing gradients as large as any other gradient.
Finished runs are skipped, an interrupted one resumes from its checkpoint.

    python tools/make_demo.py --out data/demo
    python benchmarks/processes.py --json benchmarks/results/processes.json
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from record import keep

from reid.engine import checkpoint
from reid.rundir import RunDirectory

ROOT = Path(__file__).parents[1]
FROZEN = [
    "model.freeze_norm=true",
    "model.neck=none",
    "train.optimizer={name: sgd}",
    "train.lr=0.001",
    "train.schedule.warmup=0",
]


def main() -> None:
    """Run what is missing and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="folder with demo/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frozen-steps", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=Path("runs/processes"), help="folder for the run directories")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    flags = parser.parse_args()
    frozen = [*FROZEN, f"train.iterations={flags.frozen_steps}", "train.log_freq=1"]
    pair = [trained(flags, processes, "frozen", *frozen) for processes in (1, 2)]
    report = {
        "seeds": [
            {"processes": processes, "seed": seed, **figures(trained(flags, processes, f"seed{seed}", f"seed={seed}"))}
            for seed in flags.seeds
            for processes in (1, 2)
        ],
        "frozen": {"steps": flags.frozen_steps, "runs": [figures(run) for run in pair], **differences(*pair)},
    }
    print(table(report))
    keep(flags.json, report)


def trained(flags: argparse.Namespace, processes: int, name: str, *overrides: str) -> RunDirectory:
    """Train the demo with this number of processes, which share the cores; returns the run."""
    run = RunDirectory(flags.runs.absolute() / f"{name}_{processes}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["tools/train.py", "configs/demo.yaml", "--data-root", os.path.abspath(flags.data_root)]
    command += ["--output-dir", str(run.path), "--resume", "auto", "test.baselines=false", *overrides]
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    print(shlex.join(command), file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if code := subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(code)
    return run


def figures(run: RunDirectory) -> dict[str, float]:
    """Read the metrics of one run under the MARS protocol, and its last loss."""
    result = next(r for r in json.loads((run.path / "eval.json").read_text()) if r["protocol"] == "mars-official")
    return {"mAP": result["mAP"], "rank1": result["cmc"]["1"], "loss": logged(run)[-1]["loss"]}


def logged(run: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def differences(one: RunDirectory, other: RunDirectory) -> dict[str, float]:
    """Compute the largest differences of the final weights, and of the losses per step."""
    ends = [checkpoint.load_first(run.resumable())[1]["model"] for run in (one, other)]
    losses = torch.tensor([[row["loss"] for row in logged(run)] for run in (one, other)])
    return {
        "largest_difference_of_weights": max(float((ends[0][k] - ends[1][k]).abs().max()) for k in ends[0]),
        "largest_difference_of_losses": float((losses[0] - losses[1]).abs().max()),
    }


def table(report: dict) -> str:
    """Format mAP and Rank-1 in per cent for each seed, and for the frozen pair."""
    lines = ["| | 1 process: mAP / Rank-1 | 2 processes |", "|---|---|---|"]
    seeds, frozen = report["seeds"], report["frozen"]
    for seed in sorted({run["seed"] for run in seeds}):
        lines.append(f"| seed {seed} | " + " | ".join(percent(run) for run in seeds if run["seed"] == seed) + " |")
    groups = [[run for run in seeds if run["processes"] == processes] for processes in (1, 2)]
    means = [{key: statistics.mean(run[key] for run in group) for key in ("mAP", "rank1")} for group in groups]
    lines.append("| mean | " + " | ".join(map(percent, means)) + " |")
    lines.append(f"| frozen, {frozen['steps']} steps | " + " | ".join(map(percent, frozen["runs"])) + " |")
    weights, losses = frozen["largest_difference_of_weights"], frozen["largest_difference_of_losses"]
    return "\n".join([*lines, "", f"frozen: weights differ by {weights:.1e}, losses by {losses:.1e} at most"])


def percent(run: dict) -> str:
    return f"{100 * run['mAP']:.2f} / {100 * run['rank1']:.2f}"


if __name__ == "__main__":
    main()
