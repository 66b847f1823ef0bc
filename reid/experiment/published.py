"""Saving a trained network as a folder to publish, and loading it from disk or from the Hugging Face hub.

Files: `model.safetensors` (weights) · `config.json` (settings) · `README.md` (model card). Loading them executes no code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from reid import config as configs
from reid.config import Config
from reid.engine import checkpoint
from reid.errors import CheckpointError, ConfigError, DataError
from reid.experiment.exported import OfExport
from reid.experiment.model import build_embedding, build_preprocess
from reid.experiment.trained import OfRun, Source, Trained, known_noise, trained_on
from reid.export.deployed import Exported
from reid.export.onnx_file import is_onnx
from reid.files import JSON_ERRORS, atomic
from reid.models.hub import one_line_of_retries
from reid.rundir import RunDirectory
from reid.runtime import Runtime

SCHEMA, FORMAT = 1, "robust-reid"
SETTINGS, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class OfFolder:
    """A folder written by `write`; a `Source`.

    Args:
        path: the folder.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def settings(self) -> dict[str, Any]:
        """Reads and checks `config.json`.

        Raises:
            CheckpointError: the file is missing or damaged, or has another format or schema.
        """
        file = self.path / SETTINGS
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            if settings.get("format") != FORMAT or settings["schema"] != SCHEMA:
                found = f"format {settings.get('format')!r}, schema {settings.get('schema')!r}"
                raise ValueError(f"{found}; expected {FORMAT!r} and {SCHEMA}")
            settings["config"]["model"], settings["fingerprint"]
            if not isinstance(settings.get("about") or {}, dict):
                raise ValueError(f"about: expected an object, got {settings['about']!r:.60}")
            for name in ("mean", "std"):
                if not _are_three_numbers(settings[name]) or (name == "std" and 0 in settings[name]):
                    raise ValueError(f"{name}: expected three numbers, a std above 0, got {settings[name]!r:.60}")
        except (*JSON_ERRORS, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = str(error) or type(error).__name__
            raise CheckpointError(
                f"{file}: not from a folder written by save_pretrained: {reason}; save it again"
            ) from None
        return settings

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """See `Source`."""
        text = json.dumps(self.settings()["config"])
        return configs.changed(configs.parse(text, self.path / SETTINGS), overrides, "override")

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """See `Source`.

        Raises:
            CheckpointError: a file is missing or damaged, or weights and settings do not belong together.
        """
        settings, file = self.settings(), self.path / WEIGHTS
        try:
            state = safetensors.torch.load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}; save it again") from None
        embedding, _ = build_embedding(config, initial_weights=False)
        checkpoint.load_weights(embedding, state, file)
        preprocess = build_preprocess(config, settings)
        about = {"run": str(self.path.absolute())} | dict(settings.get("about") or {})
        trained = Trained(config, runtime.place(embedding).eval(), preprocess, about)
        if trained.fingerprint != settings["fingerprint"]:
            told = f"fingerprint {settings['fingerprint']}, but its weights and settings give {trained.fingerprint}"
            raise CheckpointError(
                f"{self.path / SETTINGS}: contains {told}: the weights or the settings were changed; save it again"
            )
        return trained


def _are_three_numbers(values: Any) -> bool:
    return (
        isinstance(values, list) and len(values) == 3 and all(type(v) in (int, float) and 0 <= v < 256 for v in values)
    )


def find(place: str | Path, choice: str = "last") -> Source:
    """Finds a trained network: a run directory, a folder of `save_pretrained`, an exported ONNX file, or a hub repository to download.

    Args:
        place: a path, or `owner/name` on the Hugging Face hub; an existing folder with this name takes precedence.
        choice: checkpoint of a run: `last`, `best`, or a path.

    Raises:
        DataError: there is no such folder, and `place` is not a hub id; or `place` is a file.
        CheckpointError: the download failed.
    """
    folder = Path(place)
    if folder.is_dir():
        if (folder / SETTINGS).is_file():
            return OfFolder(folder)
        return OfRun(folder, choice)
    if folder.is_file() and is_onnx(folder):
        return OfExport(folder, threads=0)
    if folder.is_file():
        raise DataError(
            f"{place}: is a file; expected a run directory, a folder of save_pretrained, an exported ONNX file, or an id of the Hugging "
            "Face hub. Use --weights of the commands for weight files, and their own runtime for other exported files"
        )
    if isinstance(place, Path) or not _HUB_ID.fullmatch(place):
        raise DataError(
            f"{place}: no such folder; expected a run directory, a folder of save_pretrained, or an id of the Hugging Face hub, "
            "such as someone/model"
        )
    return OfFolder(_fetched(place))


def _fetched(hub_id: str) -> Path:
    import huggingface_hub  # imported here because it takes half a second

    try:
        with one_line_of_retries(f"{hub_id} from the Hugging Face hub"):
            return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=[SETTINGS, WEIGHTS, CARD]))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
        raise CheckpointError(
            f"{hub_id}: no such folder, and the Hugging Face hub does not provide it ({reason}); check the name and "
            "the network connection, or use the path of a local copy"
        ) from error


def write(folder: Path, trained: Trained, source: Source, licence: str | None) -> None:
    """Writes weights, settings and model card to a folder; existing files with these names are replaced.

    Args:
        folder: created if it does not exist.
        trained: the network.
        source: where it was loaded from, for the card.
        licence: of the weights, an SPDX identifier; None: not stated.

    Raises:
        ConfigError: the folder is a run directory, or the network an exported file.
        DataError: the folder cannot be written.
    """
    if RunDirectory(folder).config_file.exists():
        raise ConfigError(f"{folder}: is a run directory; choose another folder")
    if isinstance(trained.embedding, Exported):
        raise ConfigError(
            f"{source}: an exported file cannot be saved as weights; save the network that it was made from"
        )
    config, backbone = trained.config, trained.embedding.backbone
    made: Mapping[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]  # timm sets it on every model
    norm = source.settings() if isinstance(source, OfFolder) else made
    sections = {
        "name": config.name,
        "model": config.model.model_dump(exclude={"weights"}) | {"pretrained": False},
        "augment": {"resize": trained.preprocess.resize, "crop": trained.preprocess.crop},
        "test": {"pooling": config.test.pooling, "batch_size": config.test.batch_size},
    }
    about = _about(trained, source)
    settings = {
        "schema": SCHEMA,
        "format": FORMAT,
        "fingerprint": trained.fingerprint,
        "num_features": trained.embedding.num_features,
        "colour_order": "RGB",
        "mean": list(norm["mean"]),
        "std": list(norm["std"]),
        "config": sections,
        "about": about,
    }
    state = {key: value.detach().cpu().contiguous().clone() for key, value in trained.embedding.state_dict().items()}
    with atomic(folder / WEIGHTS) as temporary:
        safetensors.torch.save_file(state, temporary, {"format": "pt"})
    with atomic(folder / SETTINGS) as temporary:
        temporary.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic(folder / CARD) as temporary:
        temporary.write_text(_card(trained, about, licence), encoding="utf-8")


def _about(trained: Trained, source: Source) -> dict[str, Any]:
    """Returns the origin of a network: data, label noise, training and test results, without paths of this machine."""
    if isinstance(source, OfFolder):
        return dict(source.settings().get("about") or {})
    if not isinstance(source, OfRun):
        return {"trained_on": "unknown", "wrong_labels": "unknown", "results": []}
    config, directory = trained.config, RunDirectory(source.path)
    state = checkpoint.load(directory.checkpoint(source.choice), "model", "pids")
    results: list[dict[str, Any]] = []
    if source.choice == "last" and directory.results.is_file():  # results are of the last checkpoint only
        results = json.loads(directory.results.read_text(encoding="utf-8"))
    names = ("dataset", "protocol", "mAP", "cmc", "num_queries", "num_gallery")
    return {
        "trained_on": trained_on(config),
        "persons": len(state["pids"]),
        "steps": state.get("step"),
        "loss": config.model_dump()["loss"],
        "wrong_labels": known_noise(source, config),
        "results": [{name: result[name] for name in names if name in result} for result in results],
    }


def _card(trained: Trained, about: Mapping[str, Any], licence: str | None) -> str:
    """Returns the model card, with the YAML metadata that the hub reads at its top."""
    data, config = about.get("trained_on", "unknown"), trained.config
    (height, width), (h, w) = trained.preprocess.resize, trained.preprocess.crop
    entry = f"license: {licence}" if licence else "license: other\nlicense_name: not-stated"
    terms = f"Weights: {licence}." if licence else "Not stated by the author: ask before you use it."
    return f"""---
library_name: robust-reid
tags: [person-re-identification, image-feature-extraction]
{entry}
---

# {config.name or config.model.name}

{config.model.name}, which maps an image of a person to {trained.embedding.num_features} numbers: the more alike those
of two pictures, the likelier one person.

```python
import reid

model = reid.load("this folder, or its id on the hub")
features = model.embed(["a.jpg", "b.jpg"])
print(model.similarity(features))
```

Input: crops of one person each, RGB, resized to {height} x {width} (height x width); the network sees the {h} x {w} in the
middle. Fingerprint of the features: `{trained.fingerprint}`.

## Training

| | |
|---|---|
| data | {data} |
| persons | {about.get("persons", "unknown")} |
| wrong labels | {about.get("wrong_labels", "unknown")} |
| loss | `{json.dumps(about.get("loss", "unknown"))}` |
| steps | {about.get("steps", "unknown")} |

## Figures

{_figures(about.get("results") or [], data)}

## Not for

- **Evaluating on the training persons of {data}**, or on any data set that holds them: the network has seen them,
  and the figures would be too good.
- Decisions about people without human review: a similarity is not proof of identity.

## Licence

{terms} The terms of the training data ({data}) hold besides; many sets of pictures of persons are for research only.
"""


def _figures(results: Sequence[Mapping[str, Any]], data: str) -> str:
    if not results:
        return "Not measured, or not with these weights."
    of = [f"{result['dataset']}, " if "dataset" in result else "" for result in results]
    rows = [
        f"| {dataset}{result['protocol']} | {_percent(result['mAP'])} | {_percent(result['cmc'].get('1'))} | {result['num_queries']} | "
        f"{result['num_gallery']} |"
        for dataset, result in zip(of, results, strict=True)
    ]
    header = "| protocol | mAP | Rank-1 | queries | gallery |\n|---|---|---|---|---|\n"
    return f"On the test persons of {data}, per cent:\n\n{header}" + "\n".join(rows)


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"
