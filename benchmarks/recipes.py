"""Training recipes on the demo data at 0, 30 and 60 % wrong tracklet labels, with minutes of training, by one resumable command.

Every cell is `tools/train.py configs/demo.yaml` with a recipe's settings on top; wrong labels are drawn by the same seed for every recipe.
Data, number of steps, images per step and input size are the same. Recipes with the identity sampler have batches of 12 persons x 4 images,
the others batches of any tracklets, as in demo.yaml. `minutes` is the training time on this machine, which should be idle otherwise.
Finished cells are skipped, an interrupted one resumes from its checkpoint. Prints the table; writes it, with command, commit, hardware
and all metrics, to --json.

    python benchmarks/recipes.py --json benchmarks/results/recipes.json
    python benchmarks/recipes.py --recipes "demo.yaml" "BoT" --rates 0.3 --seeds 0
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from demo_losses import run_cell
from record import keep

TRIPLET = "{name: triplet, margin: 0.3}"
# Losses, sampler and augmentation of Bag of Tricks, for the demo's small images; optimiser and schedule stay those of demo.yaml.
SAMPLER = "sampler={name: identities, K: 4, cross_camera: true}"
AUGMENT = "augment={resize: [64, 32], crop: [64, 32], pad: 4, flip: 0.5, erase: 0.5}"
BOT = [f"loss=[{{name: label_smoothing}}, {TRIPLET}]", SAMPLER, AUGMENT]
# Its optimiser and schedule, scaled to the demo's number of steps. They are made for ImageNet weights.
PUBLISHED = [
    "train.optimizer={name: adam, weight_decay: 5e-4}",
    "train.schedule={name: milestones, at: [180, 320], factor: 0.1}",
    "train.warmup=45",
    "train.warmup_start=0.01",
]
VIT = [
    "model.name=vit_tiny_patch16_224",
    "model.options={patch_size: 8, depth: 6, drop_path_rate: 0.1}",
    "train.lr=5e-4",
    "train.schedule={name: cosine}",
]


def with_loss(*losses: str) -> list[str]:
    """Bag of Tricks with other losses."""
    return [f"loss=[{', '.join(losses)}]", *BOT[1:]]


RECIPES = {
    "demo.yaml": [],
    "demo.yaml, GeM": ["model.pooling=gem"],
    "demo.yaml, identity sampler": [SAMPLER],
    "demo.yaml, pad and erase": [AUGMENT],
    "demo.yaml, IMAE as released": ["loss=[{name: imae_released, T: 8.0}]"],
    "demo.yaml, triplet": [f"loss=[{{name: imae_released, T: 8.0}}, {TRIPLET}]"],
    "demo.yaml, triplet weighted by w(p)": [
        "loss=[{name: imae_released, T: 8.0}, {name: triplet, margin: 0.3, weights: w}]"
    ],
    "BoT": BOT,
    "BoT, published schedule": [*BOT, *PUBLISHED],
    "BoT, IMAE": with_loss("{name: imae_released, T: 8.0}", TRIPLET),
    "BoT, GCE": with_loss("{name: gce, q: 0.7}", TRIPLET),
    "BoT, IMAE, triplet weighted by w(p)": with_loss(
        "{name: imae_released, T: 8.0}", "{name: triplet, margin: 0.3, weights: w}"
    ),
    "BoT, IMAE, no triplet": with_loss("{name: imae_released, T: 8.0}"),
    "BoT, IMAE, GeM": [*with_loss("{name: imae_released, T: 8.0}", TRIPLET), "model.pooling=gem"],
    "BoT, sub-center ArcFace": [*BOT, "loss=[{name: cce}]", "model.head={name: arcface, margin: 0.3, centres: 3}"],
    "ViT-tiny, IMAE, triplet": [*with_loss("{name: imae_released, T: 8.0}", TRIPLET), *VIT],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="NAME")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.3, 0.6], help="fractions of wrong labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="folder for the run directories")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    parser.add_argument("--override", dest="overrides", action="append", default=[], help="passed to tools/train.py")
    flags = parser.parse_args()
    cells = []
    for seed in flags.seeds:
        for rate in flags.rates:
            for name in flags.recipes:
                figures = run_cell(name, RECIPES[name], rate, seed, flags)
                cells.append({"recipe": name, "rate": rate, "seed": seed, **figures})
                keep(flags.json, {"cells": cells})
    print(table(cells, flags.recipes, flags.rates))
    return 0


def table(cells: list[dict], recipes: list[str], rates: list[float]) -> str:
    """Format mAP and Rank-1 in per cent, means over seeds, with the standard deviation of mAP; minutes, mean over the recipe's cells."""
    heads = [f"{rate:.0%} wrong: mAP / Rank-1" for rate in rates]
    lines = ["| recipe | " + " | ".join([*heads, "minutes"]) + " |", "|---|" + "---|" * (len(rates) + 1)]
    for name in recipes:
        row = []
        for rate in rates:
            found = [cell for cell in cells if cell["recipe"] == name and cell["rate"] == rate]
            spread = f" ± {100 * stdev(cell['mAP'] for cell in found):.1f}" if len(found) > 1 else ""
            row.append(
                f"{100 * mean(c['mAP'] for c in found):.1f}{spread} / {100 * mean(c['rank1'] for c in found):.1f}"
            )
        minutes = mean(cell["seconds"] for cell in cells if cell["recipe"] == name) / 60
        lines.append(f"| {name} | " + " | ".join([*row, f"{minutes:.1f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
