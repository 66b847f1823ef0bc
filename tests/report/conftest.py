"""Records of a study: one cell's, with figures at will, and the paper's own tables."""

import numpy as np

KEYS = ("best", "final", "train_corrupted", "train_intact")
TABLE2 = """20 0.2 cce 87.1 83.2 85.1 90.6 | 20 0.2 mae 87.8 87.8 78.2 93.0 | 20 0.2 imae 88.0 84.6 76.6 90.2
20 0.5 cce 79.7 69.5 62.4 74.0 | 20 0.5 mae 75.6 75.3 48.8 79.0 | 20 0.5 imae 83.0 80.9 56.8 85.6
20 0.8 cce 56.1 38.5 42.0 40.9 | 20 0.8 mae 45.3 45.1 20.3 46.1 | 20 0.8 imae 71.5 62.8 34.9 65.3
32 0.2 cce 87.6 81.2 85.5 88.3 | 32 0.2 mae 80.6 80.4 71.7 85.0 | 32 0.2 imae 87.8 85.3 77.7 91.2
32 0.5 cce 79.9 62.8 71.2 66.7 | 32 0.5 mae 61.6 61.6 40.3 64.0 | 32 0.5 imae 84.1 80.4 57.9 84.7
32 0.8 cce 57.6 32.7 50.9 35.1 | 32 0.8 mae 43.8 43.7 19.1 44.3 | 32 0.8 imae 71.0 68.7 31.9 71.2"""
TABLE1 = {20: (91.0, 89.9, 91.4), 32: (92.5, 82.4, 92.1), 56: (92.5, 89.0, 92.7)}
CELLS = [cell.split() for cell in TABLE2.replace("\n", " | ").split(" | ")]
PAPER = {(int(d), float(r), name): dict(zip(KEYS, map(float, v), strict=True)) for d, r, name, *v in CELLS}
PAPER |= {
    (d, 0.0, name): {"final": v}
    for d, row in TABLE1.items()
    for name, v in zip(("cce", "mae", "imae"), row, strict=True)
}


def record(name="cce", rate=0.5, depth=20, seed=0, T=None, points=5, **changes):
    """One cell's record; ``changes`` are per cent of best, final, train_corrupted, train_intact, holdout_*, or replace keys."""
    loss = {"name": name} | ({"T": T if T is not None else (8.0 if rate else 0.5)} if name.startswith("imae") else {})
    loss |= {"epsilon": 1e-6, "normalise": "weights"} if name == "imae_released" else {}
    share = {key: changes.pop(key, None) for key in (*KEYS, "holdout_noisy", "holdout_clean")}
    final = {key: v / 100 for key, v in share.items() if v is not None and key not in ("best", "final")}
    ramp = np.linspace(0.1, 1, points)
    names = ("train_corrupted", "train_intact", "max_logit", "head_norm", "saturated", "batch_gap")
    return {
        "dataset": "cifar10",
        "depth": depth,
        "loss": loss,
        "loss_label": f"{name.upper()} (T = {loss['T']:g})" if "T" in loss else name.upper(),
        "noise": {"name": "symmetric", "rate": rate, "seed": seed} if rate else None,
        "noise_label": f"{100 * rate:g} % symmetric" if rate else "clean labels",
        "seed": seed,
        "realised_rate": 0.9 * rate,
        "iterations": 64000,
        "num_train": 50000,
        "train": {"batch_size": 128, "lr": 0.1, "schedule": {"name": "constant"}, "optimizer": {"name": "sgd"}},
        "curve": {"step": [100 * i for i in range(1, points + 1)], "test": list(ramp * (share["final"] or 60) / 100)}
        | {key: list(ramp) for key in names},
        "best": {"test": (share["best"] or 70) / 100},
        "final": {"test": (share["final"] or 60) / 100, **final},
    } | changes


def imae(T):
    return lambda p_P: np.exp(T * p_P * (1 - p_P))
