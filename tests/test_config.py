"""Configs: every mistake at once, overrides, inheritance, and a dump that loads back."""

from pathlib import Path

import pytest
import yaml

from reid import config
from reid.config import Component
from reid.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides)
    return [problem.replace(str(path), "FILE") for problem in caught.value.problems]


def test_every_mistake_in_one_go(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {iters: 5, lr: fast, batch_size: 0}\nagument: {}\ndata: {noise: {rate: 0.3}}\n")
    found = "\n".join(problems(path))
    assert "FILE: train.iters: unknown key; did you mean 'iterations'? expected one of: iterations, batch_size" in found
    assert "FILE: train.lr: expected a number, got 'fast'" in found
    assert "FILE: train.batch_size: expected greater than or equal to 1, got 0" in found
    assert "FILE: agument: unknown key; did you mean 'augment'?" in found
    assert "FILE: data.noise.name: is missing" in found
    assert len(found.splitlines()) == 5


def test_advice_on_an_unknown_key_is_near_or_none(tmp_path: Path) -> None:
    path = write(tmp_path, "{}")
    (far,) = problems(path, "data.xyzzy=1")
    assert "FILE: data.xyzzy: unknown key; expected one of: name, path, " in far
    (misplaced,) = problems(path, "lr=0.1")
    assert "FILE: lr: unknown key; did you mean train.lr? expected one of: name, seed, " in misplaced
    (twice,) = problems(path, "train.weights=x")
    assert (
        "FILE: train.weights: unknown key; did you mean data.weights or model.weights? expected one of: iter" in twice
    )


def test_overrides_in_both_spellings(tmp_path: Path) -> None:
    path = write(tmp_path, "loss: {name: imae, T: 8.0}\n")
    loaded = config.load(path, ["loss.T", "4", "train.lr=1e-3", "data.root=/somewhere", "augment.crop=[64, 32]"])
    assert loaded.loss.options == {"T": 4}
    assert loaded.train.lr == 1e-3
    assert loaded.data.root == "/somewhere"
    assert loaded.augment.crop == [64, 32]
    assert problems(path, "loss.T") == ["override 'loss.T': expected key.path=value or key.path value, got no value"]
    assert "not valid YAML" in problems(path, "loss.T=[")[0]
    assert "set to a value by another override" in problems(path, "train=3", "train.lr=1")[0]


def test_another_name_leaves_the_old_options_behind(tmp_path: Path) -> None:
    path = write(tmp_path, "loss: {name: imae, T: 8.0}\n")
    assert config.load(path, ["loss.name=cce"]).loss.options == {}
    assert config.load(path, ["loss.name=imae"]).loss.options == {"T": 8.0}


def test_one_level_of_inheritance(tmp_path: Path) -> None:
    write(tmp_path, "train: {lr: 0.5, iterations: 7}\nloss: {name: imae, T: 2.0}\n", "below.yaml")
    loaded = config.load(write(tmp_path, "base: below.yaml\ntrain: {lr: 0.25}\nloss: {name: mae}\n"))
    assert (loaded.name, loaded.train.lr, loaded.train.iterations, loaded.loss.options) == ("run", 0.25, 7, {})
    deeper = write(tmp_path, "base: run.yaml\n", "deeper.yaml")
    assert "one level of inheritance" in problems(deeper)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "key 'seed' appears twice"),
        ("seed: [1\n", "not valid YAML"),
        ("- 1\n", "expected a mapping of settings, got list"),
        ("", "expected a mapping of settings, got NoneType"),
        ("base: nowhere.yaml\n", "cannot read this config: No such file or directory"),
        ("train: {lr: true}\n", "train.lr: expected a number, got True"),
        ("train: {iterations: 2.5}\n", "train.iterations: expected a"),
        ("train: 3\n", "train: expected a mapping of settings, got 3"),
        ("loss: imae\n", "loss: expected a mapping of settings, got 'imae'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    found = problems(write(tmp_path, text))
    assert len(found) == 1
    assert message in found[0]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file" in problems(tmp_path / "no.yaml")[0]
    assert "Is a directory" in problems(tmp_path)[0]


@pytest.mark.parametrize(
    "path", sorted(set(CONFIGS.glob("*.yaml")) - set(CONFIGS.glob("cifar*"))), ids=lambda path: path.stem
)
def test_shipped_configs_load_dump_and_bind(path: Path, tmp_path: Path) -> None:
    from reid import experiment

    loaded = config.load(path)
    experiment.check(loaded)
    assert config.load(write(tmp_path, loaded.dump())) == loaded
    assert config.parse(loaded.dump(), "text") == loaded


def test_mars_configs_hold_the_papers_settings_and_differ_in_the_loss_only() -> None:
    recipes = {path for kind in ("bot", "clip", "osnet") for path in CONFIGS.glob(f"mars_{kind}*.yaml")}
    paths = sorted(set(CONFIGS.glob("mars_*.yaml")) - recipes)
    loaded = {path.stem: config.load(path) for path in paths}
    forms = {"mars_imae", "mars_imae_eq22", "mars_imae_frames"}
    assert set(loaded) == {"mars_base", "mars_cce", "mars_gce", "mars_mae"} | forms
    frames = loaded.pop("mars_imae_frames")
    assert frames.sampler.model_dump() == {"name": "frames"}
    assert (
        frames.model_copy(update={"sampler": loaded["mars_imae"].sampler, "name": "mars_imae"}) == loaded["mars_imae"]
    )
    rest = {name: {**c.training_settings(), "loss": None} for name, c in loaded.items()}
    assert all(settings == rest["mars_imae"] for settings in rest.values())
    train, augment = loaded["mars_imae"].train, loaded["mars_imae"].augment
    assert (train.iterations, train.batch_size, train.lr) == (50000, 180, 0.01)
    assert train.optimizer.model_dump() == {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
    assert train.schedule.model_dump() == {"name": "step", "every": 10000, "factor": 0.5}
    assert (augment.resize, augment.crop, augment.flip) == ([256, 256], [224, 224], 0.5)
    assert loaded["mars_imae"].data.holdout == 0
    losses = {name: c.loss.model_dump() for name, c in loaded.items()}
    assert losses["mars_imae"] == {"name": "imae_released", "T": 8.0}
    assert losses["mars_imae_eq22"] == {"name": "imae", "T": 8.0}
    assert losses["mars_gce"] == {"name": "gce", "q": 0.7}
    assert (loaded["mars_imae"].model.name, loaded["mars_imae"].model.pretrained) == ("bn_inception", True)
    assert loaded["mars_imae"].sampler.model_dump() == {"name": "identities", "K": 18, "tracklets": 2}


def test_fingerprint_tells_training_settings_apart(tmp_path: Path) -> None:
    path = write(tmp_path, "loss: {name: imae, T: 8.0}\n")
    same = [
        config.load(path, o).fingerprint()
        for o in ([], ["machine.workers=0"], ["data.root=x"], ["train.log_freq=1"], ["data.damaged=skip"])
    ]
    assert len(set(same)) == 1
    other = [
        config.load(path, [o]).fingerprint()
        for o in ("loss.T=4", "seed=1", "train.iterations=9", "model.name=resnet18")
    ]
    assert len({*same, *other}) == 5


def test_component_mistakes_all_at_once(tmp_path: Path) -> None:
    from reid import experiment

    text = """
    data: {name: marz, labels: truth, noise: {name: symmetric, rate: 0.3}}
    loss: {name: cce, T: 8}
    sampler: {name: frames, K: 4}
    augment: {resize: [64, 32], crop: [72, 32]}
    train: {schedule: {name: step, every: often}}
    test: {protocols: mars-offical}
    """
    with pytest.raises(ConfigError) as caught:
        experiment.check(config.load(write(tmp_path, text)))
    found = "\n".join(caught.value.problems)
    assert "data.name: unknown dataset 'marz'; did you mean 'mars'?" in found
    assert "loss.T: cce takes no 'T'; expected one of: (none)" in found
    assert "sampler.K: frames takes no 'K'" in found
    assert "train.schedule.every: expected a integer, got 'often'" in found
    assert "data.noise.seed: is missing; symmetric needs it" in found
    assert "augment.crop: expected at most augment.resize [64, 32], got [72, 32]" in found
    assert "mars-official" in found
    assert "data.labels" in found
    assert len(caught.value.problems) == 8


def test_component_ranges(tmp_path: Path) -> None:
    from reid import experiment

    with pytest.raises(ConfigError, match=r"loss\.T: expected >= 0 and <= 300, got -1"):
        experiment.check(config.load(write(tmp_path, "loss: {name: imae, T: -1}\n")))
    with pytest.raises(ConfigError, match=r"loss\.name: unknown 'image'; did you mean 'imae'"):
        experiment.check(config.load(write(tmp_path, "loss: {name: image}\n")))


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    from reid import experiment

    text = """
    model: {neck: bn, freeze_norm: true}
    loss: {name: gce_truncated}
    train: {iterations: 10, warmup: 10, accumulate: 2}
    """
    with pytest.raises(ConfigError) as caught:
        experiment.check(config.load(write(tmp_path, text)))
    problems = [problem.removeprefix("run: ") for problem in caught.value.problems]
    assert problems == [
        "train.warmup: expected 0 <= warmup < 10 iterations, got 10",
        "model.neck: bn has no effect with model.freeze_norm; remove one of the two",
        "train.accumulate: gce_truncated needs all samples of a step at once; expected 1, got 2",
    ]


@pytest.mark.parametrize(
    "override",
    [
        "train.ema=1.0",
        "train.ema=0",
        "augment.erase=1.5",
        "augment.color=-0.1",
        "train.accumulate=0",
        "data.damaged=ask",
    ],
)
def test_ranges_of_plain_settings(tmp_path: Path, override: str) -> None:
    [problem] = problems(write(tmp_path, "seed: 0\n"), override)
    assert problem.startswith(f"FILE: {override.split('=')[0]}: expected ")


def test_a_config_from_before_a_setting_existed_means_its_default(tmp_path: Path) -> None:
    """Old runs go on: their config.yaml lacks later keys, whose defaults change nothing."""
    settings = config.load(write(tmp_path, "loss: {name: imae, T: 8.0}\n")).model_dump()
    new = {
        "data": ["damaged"],
        "model": ["freeze_norm"],
        "augment": ["erase", "color"],
        "train": ["warmup", "accumulate", "ema"],
        "machine": ["compile", "sync_norm"],
    }
    for section, keys in new.items():
        for key in keys:
            settings[section].pop(key)
    old = config.parse(yaml.safe_dump(settings), "checkpoint")
    now = config.load(write(tmp_path, "loss: {name: imae, T: 8.0}\n"), ["data.damaged=skip", "machine.compile=true"])
    assert now.differences(old) == []
    changed = config.load(write(tmp_path, "loss: {name: imae, T: 8.0}\n"), ["train.ema=0.99"])
    assert changed.differences(old) == ["train.ema: None before, 0.99 now"]


def test_a_list_of_losses(tmp_path: Path) -> None:
    path = write(tmp_path, "loss: [{name: imae, T: 8.0}, {name: triplet, weight: 0.5}]\n")
    loaded = config.load(path)
    assert [(one.name, one.options) for one in loaded.losses] == [("imae", {"T": 8.0}), ("triplet", {"weight": 0.5})]
    assert config.parse(loaded.dump(), "dump") == loaded
    changed = config.load(path, ["loss.1.weight=2", "loss.0.T=4", "loss.1.margin=0.5"])
    assert [one.options for one in changed.losses] == [{"T": 4}, {"weight": 2, "margin": 0.5}]
    assert [one.options for one in config.load(path, ["loss.0.name=gce"]).losses] == [{}, {"weight": 0.5}]
    assert config.load(path, ["loss.name=cce"]).losses == [Component(name="cce")]
    assert changed.differences(loaded) == [
        "loss: [{'name': 'imae', 'T': 8.0}, {'name': 'triplet', 'weight': 0.5}] before, "
        "[{'name': 'imae', 'T': 4}, {'name': 'triplet', 'weight': 2, 'margin': 0.5}] now"
    ]
    assert problems(path, "loss.T=4") == ["loss: a list of 2 in this config; expected one of loss.0, loss.1, got T"]
    assert problems(path, "loss.2.T=4") == ["loss: a list of 2 in this config; expected one of loss.0, loss.1, got 2"]
    assert problems(path, "loss=[{T: 4}]") == ["FILE: loss.0.name: is missing; expected a value"]
    assert problems(path, "loss=[]") == [
        "FILE: loss: expected List should have at least 1 item after validation, not 0, got []"
    ]
    assert problems(path, "loss=3") == ["FILE: loss: expected a mapping of settings, got 3"]


def test_several_datasets_by_name_or_with_settings_of_their_own(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: {name: [market1501, {name: manifest, path: a.csv}], root: /data}")
    settings = config.load(file, ["data.name.1.path=b.csv", "data.name.0.root=/other"])
    assert {place: (one.name, one.path, one.root) for place, one in settings.data.sets.items()} == {
        "data.name.0": ("market1501", None, "/other"),
        "data.name.1": ("manifest", "b.csv", "/data"),
    }
    assert config.parse(settings.dump(), "dump") == settings
    moved = config.load(file, ["data.name.1.path=elsewhere.csv", "data.root=/moved"])
    assert moved.fingerprint() == settings.fingerprint() and moved.differences(settings) == []
    assert config.load(file, ["data.name=[market1501, mars]"]).fingerprint() != settings.fingerprint()
