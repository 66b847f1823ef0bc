"""Person re-identification on tracklets with label noise. This module is the Python entry point; it imports the rest on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reid.embedder import Embedder


def load(source: str | Path, *, checkpoint: str = "last", device: str = "auto") -> Embedder:
    """Loads a trained network to embed images with.

    Args:
        source: a run directory, a folder of `save_pretrained`, an ONNX file exported with `--preprocessing outside`, or an id of the
            Hugging Face hub such as `someone/model`.
        checkpoint: checkpoint of a run: `last`, `best`, or a path.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        reid.errors.ReidError: the source does not exist, or is damaged.
    """
    from reid.embedder import Embedder

    return Embedder.load(source, checkpoint=checkpoint, device=device)
