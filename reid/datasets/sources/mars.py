"""MARS and datasets in its layout, read by the MARS loader."""

from __future__ import annotations

from pathlib import Path

from reid.datasets.mars import load_mars
from reid.datasets.sources.base import Options, Published, Rows, rows_of

PUBLISHED = Published(625, 8_298, 1_980, 12_180, "Zheng et al., ECCV 2016, and the tables of MARS-evaluation")
SHAPE = "bbox_train/, bbox_test/, info/"


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None."""
    packed = any((source / f"bbox_train{suffix}").is_dir() for suffix in ("", ".pack"))
    return f"the folders {SHAPE}" if packed and (source / "info").is_dir() else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows."""
    name = source.resolve().name
    is_mars = name.lower().startswith("mars")
    return rows_of(load_mars(source, "mars" if is_mars else name), PUBLISHED if is_mars else None)
