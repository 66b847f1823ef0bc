"""The typed config: structure and types. `load` reads YAML and overrides, and reports every mistake at once.

A component (loss, sampler, schedule, noise model) has its settings beside its `name`. Their meaning, default and range are defined by
the component's signature; `reid.binding` checks settings against it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, ValidationError
from pydantic_core import PydanticCustomError

from reid.errors import ConfigError, nearest
from reid.files import require_few_brackets

_COMPONENTS = {"loss", "head", "sampler", "noise", "optimizer", "schedule"}  # sections that are a `Component`
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Strength = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Size = Annotated[list[Count], Field(min_length=2, max_length=2)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def dump(self) -> str:
        """The resolved config as YAML; `load` reads it back to an equal one."""
        return yaml.dump(self.model_dump(), Dumper=_Dumper, sort_keys=False, default_flow_style=None)


Schema = TypeVar("Schema", bound=Section)


class Component(BaseModel):
    """A component chosen by name; all other keys are arguments of the class or function with that name."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


# An explicit discriminator, so that a mistake in one variant is not reported for the other too; `_explain` leaves the tags out.
_ONE, _SEVERAL = "<one>", "<several>"
OneOrMore = Annotated[
    Annotated[Component, Tag(_ONE)] | Annotated[list[Component], Tag(_SEVERAL), Field(min_length=1)],
    Discriminator(lambda given: _SEVERAL if isinstance(given, list) else _ONE),
]


def _split_or_all(given: Any) -> int | str | None:
    if given is None or given == "all" or (type(given) is int and 0 <= given < 10):
        return given
    raise PydanticCustomError("split", "a split from 0 to 9, or all")


class Dataset(Section):
    """One dataset; its keys are those of the section `data`."""

    name: str
    path: str | None = None
    root: str | None = None
    split: Annotated[int, Field(ge=0, lt=10)] | None = None


# A list may contain bare names.
_DatasetOrName = Annotated[Dataset, BeforeValidator(lambda given: {"name": given} if isinstance(given, str) else given)]


class Data(Section):
    name: Annotated[
        Annotated[str, Tag(_ONE)] | Annotated[list[_DatasetOrName], Tag(_SEVERAL), Field(min_length=2)],
        Discriminator(lambda given: _SEVERAL if isinstance(given, list) else _ONE),
    ] = Field(
        "mars",
        description="dataset: mars, demo, market1501, msmt17, cuhk03, … or manifest (the table at `path`); a list of "
        "names or of {name, path, root, split} trains on all of them together and tests each separately",
    )
    path: str | None = Field(None, description="table of tracklets (CSV or Parquet) for the dataset manifest")
    test_share: Share = Field(
        0.3, description="fraction of persons drawn for the test if the table has no column split"
    )
    split_seed: Natural = Field(0, description="seed of that draw; the seed of the run does not change who is tested")
    root: str | None = Field(None, description="folder with one folder per dataset; default: REID_DATA, else ./data")
    split: Annotated[int | Literal["all"] | None, PlainValidator(_split_or_all)] = Field(
        None,
        description="number of the published split, 0 to 9 (ilids-vid, prid2011); default: 0; all: one run per split, and the mean",
    )
    labels: Literal["given", "truth"] = Field(
        "given", description="truth: the true labels of the demo dataset instead of the given ones"
    )
    noise: OneOrMore | None = Field(
        None,
        description="label noise added to the training tracklets: {name, rate, seed}, or a list of them, applied in order",
    )
    corrections: str | list[str] | None = Field(
        None,
        description="CSV file of label corrections, applied to the training tracklets after noise; nothing on disk "
        "is changed; or a list of files, applied in order",
    )
    weights: str | None = Field(
        None,
        description="CSV file (key,weight) with the weight of each training tracklet; a table can have a column weight instead",
    )
    holdout: Share = Field(
        0.0,
        description="fraction of training identities held out to choose best.pt; for a table without a column split, "
        "a fraction of all its persons (10 % if this is 0)",
    )
    damaged: Literal["error", "skip"] = Field("error", description="skip: leave out damaged images and list them")

    @property
    def correction_files(self) -> list[str]:
        """The correction files in order."""
        return [self.corrections] if isinstance(self.corrections, str) else self.corrections or []

    @property
    def sets(self) -> dict[str, Dataset]:
        """All datasets by config path: ``data``, or ``data.name.0`` and so on; the section's `root` is the default for those of a list."""
        if isinstance(self.name, str):
            split = None if self.split == "all" else self.split
            return {"data": Dataset(name=self.name, path=self.path, root=self.root, split=split)}
        rooted = [one.model_copy(update={"root": one.root or self.root}) for one in self.name]
        return {f"data.name.{i}": one for i, one in enumerate(rooted)}

    @property
    def noises(self) -> dict[str, Component]:
        """All noise models in order, by config path: ``data.noise``, or ``data.noise[0]`` and so on."""
        if isinstance(self.noise, list):
            return {f"data.noise[{i}]": noise for i, noise in enumerate(self.noise)}
        return {} if self.noise is None else {"data.noise": self.noise}


class Model(Section):
    name: str = Field("googlenet_bn", description="googlenet_bn, bn_inception, or any other timm model")
    options: dict[str, Any] = Field({}, description="model settings, with timm's names, such as {drop_path_rate: 0.1}")
    last_stride: Literal[1, 2] = Field(2, description="1: the last stage of a ResNet does not halve the feature map")
    pooling: Literal["default", "gem"] = Field(
        "default", description="gem: generalised mean over positions with a learned power"
    )
    pretrained: bool = Field(True, description="start from ImageNet weights")
    weights: str | None = Field(None, description="file with pretrained weights, instead of a download")
    neck: Literal["none", "bn"] = Field("none", description="bn: batch normalisation of the features (BNNeck)")
    head: Component = Field(
        Component(name="linear"),
        description="classifier used in training: linear, cosine, or with a margin: arcface, cosface",
    )
    freeze_norm: bool = Field(False, description="freeze the statistics and weights of the normalisation layers")


class Augment(Section):
    resize: Size = Field([256, 256], description="(height, width) before the crop")
    crop: Size = Field(
        [224, 224], description="(height, width) of the input: random crop in training, centre crop in the test"
    )
    flip: Probability = Field(0.5, description="probability of a horizontal flip in training")
    pad: Natural = Field(0, description="black pixels added on each side before the crop in training (pad and crop)")
    erase: Probability = Field(0.0, description="probability that a random rectangle is erased in training")
    color: Strength = Field(0.0, description="largest relative change of brightness, contrast, saturation in training")


class Train(Section):
    iterations: Count = 50000
    batch_size: Count = Field(180, description="images per step, summed over all processes")
    lr: Positive = 0.01
    optimizer: Component = Component(name="sgd")
    schedule: Component = Component(name="constant")
    warmup: Natural = Field(0, description="steps over which the learning rate rises linearly to the schedule's value")
    warmup_start: Probability = Field(0.0, description="initial factor of the learning rate in the warm-up")
    freeze: Natural = Field(
        0, description="number of initial steps with a frozen backbone: only neck and classifier are trained"
    )
    accumulate: Count = Field(
        1, description="number of parts in which each process computes its share of a batch, to save memory"
    )
    ema: Decay | None = Field(
        None,
        description="decay of an exponential moving average of the weights, which is then the model that is tested",
    )
    clip_grad: Positive | None = Field(None, description="maximum norm of the gradient; default: off")
    nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="if the loss or gradient of a step is not finite: stop, or skip the step and count it (stop after 20 in a row)",
    )
    log_freq: Count = Field(50, description="steps between log lines")
    checkpoint_freq: Count = Field(1000, description="steps between checkpoints")
    eval_freq: int = Field(-1, description="steps between evaluations of the held-out identities; -1: only at the end")


class Test(Section):
    batch_size: Count = Field(256, description="frames per forward pass, per process")
    pooling: Literal["mean", "max"] = Field(
        "mean", description="how frame features are combined into a tracklet feature"
    )
    protocols: str | list[str | dict[str, Any]] = Field(
        "all",
        description="name of a protocol, all, or a list of names and of your own protocols: {name, gallery, ap, …}",
    )
    any_camera: bool = Field(False, description="count matches from the query's own camera too")
    baselines: bool = Field(
        False, description="also evaluate two baselines: colour histograms and the untrained network"
    )


class Machine(Section):
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="float16: CUDA only")
    compile: bool = Field(
        False, description="compile the training step with torch.compile; the first steps take minutes"
    )
    sync_norm: bool = Field(False, description="synchronise batch normalisation over all processes (CUDA only)")
    workers: Natural = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1),
        description="number of image-decoding processes; default: one per processor, at most 4; 0: decode in the main process",
    )


class Config(Section):
    """All settings of a run."""

    name: str = Field("", description="name of the run; default: the config file's name")
    seed: Natural = 0
    data: Data = Data()
    model: Model = Model()
    loss: OneOrMore = Field(
        Component(name="cce"), description="{name: …}, or a list of them with weights: their weighted sum"
    )
    sampler: Component = Component(name="frames")
    augment: Augment = Augment()
    train: Train = Train()
    test: Test = Test()
    machine: Machine = Machine()

    @property
    def losses(self) -> list[Component]:
        """The losses as written, one or several."""
        return self.loss if isinstance(self.loss, list) else [self.loss]

    def training_settings(self) -> dict[str, Any]:
        """Settings that a resumed run must share with its checkpoint: all but name, machine, test, file locations and logging intervals."""
        settings = self.model_dump(exclude={"name", "test", "machine"})
        # A run stopped by a damaged image, or by a loss that is not finite, may resume without that image or step. Corrections are
        # compared by content, which checkpoints store.
        for key in ("root", "path", "corrections", "damaged"):
            settings["data"].pop(key)
        for one in settings["data"]["name"] if isinstance(self.data.name, list) else ():
            one.pop("root"), one.pop("path")
        for key in ("log_freq", "checkpoint_freq", "nonfinite"):
            settings["train"].pop(key)
        return settings

    def differences(self, other: Config, *, but: str = "") -> list[str]:
        """Training settings that differ from another config's, such as `loss.T: 8.0 before, 4 now`; the setting `but` is ignored."""
        here, there = _flat(self.training_settings()), _flat(other.training_settings())
        changed = [key for key in sorted(here | there) if key != but and here.get(key) != there.get(key)]
        return [f"{key}: {there.get(key)!r} before, {here.get(key)!r} now" for key in changed]

    def fingerprint(self) -> str:
        """Hash of `training_settings`, 16 hexadecimal digits."""
        text = json.dumps(self.training_settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes strings that `_Loader` would read as numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def find(name: Path | str) -> Path:
    """The config file at that path, or the packaged config with that name; an existing file takes precedence.

    Args:
        name: a path, or a name such as `mars_imae`.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():  # a pipe is allowed
        return path
    inside = Path(__file__).parent / "configs"  # as installed; in a checkout the configs are beside the package
    folder = inside if inside.is_dir() else inside.parents[1] / "configs"
    packaged = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if path.name == str(path) and path.name in packaged:
        return packaged[path.name]
    raise ConfigError(
        f"{path}: no such config; expected a YAML file or the name of a packaged config; {nearest(str(path), list(packaged))}"
    )


def load(path: Path | str, overrides: Sequence[str] = (), schema: type[Schema] = Config) -> Schema:  # type: ignore[assignment]
    """Loads a config file, its `base` (one level), and overrides.

    Args:
        path: YAML file. Its key `base` names another file, relative to this one, which provides the settings that this file changes. If
            the `name` of a component changes, its whole section is replaced, so that `loss.name=cce` does not inherit IMAE's T.
        overrides: `key.path=value`, or `key.path` followed by `value`; values are YAML.
        schema: type of the config: that of a run by default; other tools have their own.

    Raises:
        ConfigError: with one line for each unknown key, wrong type or value out of range.
    """
    path = Path(path)
    settings = _read(path)
    if "base" in settings:
        base_path = path.parent / str(settings.pop("base"))
        base = _read(base_path)
        if "base" in base:
            raise ConfigError(
                f"{base_path}: `base` is not allowed in a base config (of {path}); only one level of inheritance is supported"
            )
        settings = _merge(base, settings)
    settings = _merge(settings, _parse_overrides(overrides))
    settings.setdefault("name", path.stem)
    return _validated(
        _merge(schema().model_dump(), settings), path, schema
    )  # merged with the defaults, so that train.optimizer.momentum=0.5 needs no name


def parse(text: str, source: Path | str, schema: type[Schema] = Config) -> Schema:  # type: ignore[assignment]
    """Parses a config from the text of `dump`, such as the one in a checkpoint; error messages name `source`."""
    return _validated(_mapping(text, source), source, schema)


def changed(config: Schema, overrides: Sequence[str], source: Path | str) -> Schema:
    """A copy of a config with overrides in the format of `load`; error messages name `source`."""
    return _validated(_merge(config.model_dump(), _parse_overrides(overrides)), source, type(config))


def values(text: str) -> list[Any]:
    """Parses comma-separated values, each as in an override.

    Raises:
        ConfigError: the text is not valid YAML.
    """
    try:
        read: list[Any] = yaml.load(f"[{text}]", _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"{text}: not a list of values; quote each value") from None
    return read


def _validated(settings: dict[str, Any], source: Path | str, schema: type[Schema]) -> Schema:
    try:
        return schema.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(*(f"{source}: {_explain(item, schema)}" for item in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return _mapping(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(
            f"{path}: cannot read this config: {getattr(error, 'strerror', error)}; expected a YAML file such as configs/demo.yaml"
        ) from None


def _mapping(text: str, source: Path | str) -> dict[str, Any]:
    try:
        settings = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{source}: expected a mapping of settings, got {type(settings).__name__}")
    return settings


def parse_yaml(text: str) -> Any:
    """Parses a YAML text into plain Python types.

    Raises:
        ValueError: the text is not valid; this includes impossible dates and numbers, and excessive nesting.
    """
    try:
        return yaml.load(require_few_brackets(text), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except (RecursionError, TypeError, AttributeError, LookupError) as error:  # PyYAML lets them through
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, list):
            merged[key] = _merge_list(key, old, value)
        elif isinstance(value, dict) and isinstance(old, dict):
            renamed = key in _COMPONENTS and value.get("name", old.get("name")) != old.get("name")
            merged[key] = value if renamed else _merge(old, value)
        else:
            merged[key] = value
    return merged


def _merge_list(key: str, old: list[Any], value: Mapping[str, Any]) -> Any:
    """Changes items of a list by index, as in `loss.1.weight=0.5`; a new component replaces the whole list."""
    if "name" in value:
        return value
    if not all(str(number).isdigit() and int(number) < len(old) for number in value):
        places = ", ".join(f"{key}.{i}" for i in range(len(old)))
        raise ConfigError(
            f"{key}: a list of {len(old)} in this config; expected one of {places}, got {', '.join(value)}"
        )
    changed = {str(i): item if isinstance(item, dict) else {"name": item} for i, item in enumerate(old)}
    for number, settings in value.items():
        item = changed[str(int(number))]
        named = isinstance(settings, dict) and settings.get("name", item.get("name")) == item.get("name")
        changed[str(int(number))] = _merge(item, settings) if named else settings
    return list(changed.values())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _parse_overrides(tokens: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    pending = list(tokens)
    while pending:
        key, equals, text = pending.pop(0).partition("=")
        if not equals:
            if not pending:
                raise ConfigError(f"override {key!r}: expected key.path=value or key.path value, got no value")
            text = pending.pop(0)
        try:
            value = parse_yaml(text)
        except ValueError:
            raise ConfigError(f"override {key}={text}: the value is not valid YAML; quote it") from None
        place = settings
        *sections, last = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"override {key}={text}: {section!r} is set to a value by another override")
        place[last] = value
    return settings


def _explain(item: Any, schema: type[Section]) -> str:
    """Formats one pydantic error as: dotted path, expected, got, nearest valid key."""
    where = ".".join(str(part) for part in item["loc"] if part not in (_ONE, _SEVERAL))
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])
        beside, elsewhere = _keys_beside(item["loc"], schema), _places(schema, key)
        expected = f"expected one of: {', '.join(beside)}"
        advice = f"did you mean {' or '.join(elsewhere)}? {expected}" if elsewhere else nearest(key, beside)
        return f"{where}: unknown key; {advice}"
    if item["type"] == "missing":
        return f"{where}: is missing; expected a value"
    if item["type"] == "model_type":
        return f"{where}: expected a mapping of settings, got {item['input']!r}"
    expected = item["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
    return f"{where}: expected {expected}, got {item['input']!r}"


def _keys_beside(location: Sequence[str | int], section: Any) -> list[str]:
    for part in location[:-1]:
        if isinstance(part, str) and part not in (_ONE, _SEVERAL):
            section = _section_in(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section_in(annotation: Any) -> Any:
    """The section class in a field's annotation, alone or in a list; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part)) is not None), None)


def _places(schema: type[Section], key: str) -> list[str]:
    """Sections with that key, as dotted paths such as `train.lr` for `lr`; none for `name`, which nearly every section has."""
    sections = {name: field.annotation for name, field in schema.model_fields.items()}
    held = [name for name, kind in sections.items() if isinstance(kind, type) and issubclass(kind, Section)]
    return [f"{name}.{key}" for name in held if key != "name" and key in sections[name].model_fields]  # type: ignore[union-attr]
