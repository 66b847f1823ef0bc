"""The recipes as configs: each builds, trains some steps on rendered people and embeds them; its twin differs in the loss alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reid import config, experiment
from reid.commands.extract import features_of
from reid.datasets.demo import write_demo
from reid.engine.train import fit
from reid.runtime import Runtime

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = [f"{data}_{recipe}" for data in ("market", "mars") for recipe in ("bot", "clip", "osnet")]
SMALL = {  # the networks of the recipes, with fewer layers or channels
    "bot": ["model.options={layers: [1, 1, 1, 1], channels: [8, 16, 24, 32]}"],
    "clip": ["model.options={depth: 2, embed_dim: 48, num_heads: 2}"],
    "osnet": ["model.name=osnet_x0_25", "train.freeze=2"],
}
SHORT = [
    "data.name=demo",
    "data.split=null",
    "model.pretrained=false",
    "augment.resize=[64, 32]",
    "augment.crop=[64, 32]",
    "augment.pad=4",
]
SHORT += [
    "train.iterations=3",
    "train.batch_size=8",
    "train.schedule={name: constant}",
    "machine={device: cpu, workers: 0}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    sizes = {"train_ids": 6, "test_ids": 2, "tracklets_per_id": 4, "min_frames": 2, "max_frames": 3}
    write_demo(root / "demo", **sizes, distractors=1, junk=0)
    return root


@pytest.mark.parametrize("name", [f"{recipe}{twin}" for recipe in RECIPES for twin in ("", "_imae")])
def test_a_recipe_trains(name: str, root: Path) -> None:
    _, kind = name.removesuffix("_imae").split("_")
    settings = [*SHORT, *SMALL[kind], f"data.root={root}"]
    settings += [] if kind == "osnet" else ["train.warmup=2", "sampler.K=4"]
    settings += ["sampler.tracklets=2"] if name.startswith("mars_clip") else []
    loaded = config.load(CONFIGS / f"{name}.yaml", settings)
    experiment.check(loaded)
    data, here = experiment.load_data(loaded), Runtime(torch.device("cpu"), torch.float32)
    job = experiment.build_job(loaded, data.train, here)
    before = [parameter.detach().clone() for parameter in job.model.parameters()]
    rows: list[dict[str, float]] = []
    fit(replace(job, log_freq=1), here, on_log=rows.append)
    expected = set() if kind == "osnet" else {f"loss_{one.name}" for one in loaded.losses}
    assert {key for key in rows[-1] if key.startswith("loss_")} == expected
    moved = [not torch.equal(a, b) for a, b in zip(before, job.model.parameters(), strict=True) if b.requires_grad]
    assert sum(moved) > 0.9 * len(moved)
    features = features_of(loaded, job.model.embedding, job.preprocess, data.benchmark.test, here)
    assert len(features.features) == len(data.benchmark.test)
    assert features.features.std() > 0


@pytest.mark.parametrize("name", RECIPES)
def test_twins_differ_in_the_loss_alone(name: str) -> None:
    recipe, twin = (config.load(CONFIGS / f"{name}{end}.yaml", ["name=same"]) for end in ("", "_imae"))
    assert [text.partition(":")[0].partition(".")[0] for text in twin.differences(recipe)] == ["loss"] * len(
        twin.differences(recipe)
    )
    assert twin.losses[0].name == "imae_released"
    assert twin.losses[1:] == recipe.losses[1:]
    assert twin.losses[0].options.get("weight") == recipe.losses[0].options.get("weight")


@pytest.mark.parametrize("name", RECIPES)
def test_headers_say_what_is_followed_and_that_nothing_was_measured(name: str) -> None:
    for file in (f"{name}.yaml", f"{name}_imae.yaml"):
        header = " ".join(
            line.lstrip("# ") for line in (CONFIGS / file).read_text().splitlines() if line.startswith("#")
        )
        assert "measured with this config" in header or "measured with it" in header
    assert config.load(CONFIGS / f"{name}.yaml").augment.crop == [256, 128]


def test_the_networks_of_the_recipes_at_their_size() -> None:
    """Without weights: shapes at 256 x 128, interpolated positions, the last stride."""
    bot = config.load(CONFIGS / "market_bot.yaml", ["model.pretrained=false"])
    embedding, _ = experiment.build_embedding(bot)
    assert embedding.backbone.forward_features(torch.zeros(1, 3, 256, 128)).shape == (1, 2048, 16, 8)
    settings = ["model.pretrained=false", "model.options={depth: 1}"]
    embedding, preprocess = experiment.build_embedding(config.load(CONFIGS / "mars_clip.yaml", settings))
    assert embedding.backbone.pos_embed.shape == (1, 1 + 16 * 8, 768)
    assert embedding.eval()(torch.zeros(1, 3, 256, 128)).shape == (1, 768)
    assert preprocess.mean[0] == pytest.approx(255 * 0.48145466)  # CLIP's
