"""CCE, MAE, GCE and IMAE on the demo data at 0, 30 and 60 % wrong tracklet labels, by one resumable command.

Every cell is `tools/train.py configs/demo.yaml` with another loss and another share of wrong labels, drawn by the same seed for every
loss (at 30 % they are the labels in the demo's files); everything else is equal. Finished cells are skipped, an interrupted one resumes
from its checkpoint. Prints the table; writes it, with command, commit, hardware and all metrics, to --json.

    python benchmarks/demo_losses.py --json benchmarks/results/demo_losses.json
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from statistics import mean

from record import keep

ROOT = Path(__file__).parents[1]
LOSSES = {
    "CCE": ["loss.name=cce"],
    "MAE": ["loss.name=mae"],
    "GCE (q = 0.7)": ["loss.name=gce", "loss.q=0.7"],
    "IMAE as released (T = 8)": ["loss.name=imae_released", "loss.T=8.0"],
    "IMAE (T = 8)": ["loss.name=imae", "loss.T=8.0"],
    "IMAE (T = 0.5)": ["loss.name=imae", "loss.T=0.5"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.3, 0.6], help="fractions of wrong labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds")
    parser.add_argument("--runs", type=Path, default=Path("runs/demo_losses"), help="folder for the run directories")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    parser.add_argument("overrides", nargs="*", help="passed to tools/train.py")
    flags = parser.parse_intermixed_args()
    cells = []
    for seed in flags.seeds:
        for rate in flags.rates:
            for name, loss in LOSSES.items():
                cells.append({"loss": name, "rate": rate, "seed": seed, **run_cell(name, loss, rate, seed, flags)})
                keep(flags.json, {"cells": cells})
    print(table(cells, flags.rates))
    return 0


def run_cell(name: str, loss: list[str], rate: float, seed: int, flags: argparse.Namespace) -> dict[str, float]:
    """Train and test one cell unless it is finished; returns its metrics under the MARS protocol."""
    slug = "".join(c for c in name.lower().replace(" ", "") if c.isalnum() or c == ".")
    run = ROOT / flags.runs / f"{slug}_{round(100 * rate)}_{seed}"
    if not (run / "eval.json").exists():
        noise = f"{{name: uniform_others, rate: {rate}, seed: 0}}"
        settings = [
            *loss,
            "data.labels=truth",
            f"data.noise={noise}",
            f"seed={seed}",
            "test.baselines=false",
            *flags.overrides,
        ]
        command = [
            sys.executable,
            "tools/train.py",
            "configs/demo.yaml",
            "--resume",
            "auto",
            "--output-dir",
            str(run),
            *settings,
        ]
        print(shlex.join(command), flush=True)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as training:
            signal.signal(signal.SIGTERM, lambda *_: training.terminate())  # it saves a checkpoint first; wait for it
        if training.returncode:
            raise SystemExit(training.returncode)
    result = next(r for r in json.loads((run / "eval.json").read_text()) if r["protocol"] == "mars-official")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figures = {"mAP": result["mAP"], "rank1": result["cmc"]["1"], "num_queries": result["num_queries"]}
    kept = ("accuracy", "accuracy_intact", "accuracy_corrupted")
    return (
        figures
        | {key: rows[-1][key] for key in kept if key in rows[-1]}
        | {"seconds": sum(row["seconds"] for row in rows)}
    )


def table(cells: list[dict], rates: list[float]) -> str:
    """Format mAP and Rank-1 in per cent, means over seeds."""
    lines = [
        "| loss | " + " | ".join(f"{rate:.0%} wrong: mAP / Rank-1" for rate in rates) + " |",
        "|---|" + "---|" * len(rates),
    ]
    for name in LOSSES:
        row = []
        for rate in rates:
            found = [cell for cell in cells if cell["loss"] == name and cell["rate"] == rate]
            row.append(" / ".join(f"{100 * mean(cell[key] for cell in found):.1f}" for key in ("mAP", "rank1")))
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
