"""Person re-identification on tracklets whose labels are wrong: the entrance for programs, which imports the rest when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reid.embedder import Embedder


def load(source: str | Path, *, checkpoint: str = "last", device: str = "auto") -> Embedder:
    """A trained network, ready to embed.

    Args:
        source: a run directory, a folder of `save_pretrained`, or an id of the Hugging Face hub such as `someone/model`.
        checkpoint: of a run: `last`, `best`, or a path.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        reid.errors.ReidError: there is no such thing, or it is damaged.
    """
    from reid.embedder import Embedder

    return Embedder.load(source, checkpoint=checkpoint, device=device)
