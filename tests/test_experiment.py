"""The wiring: where data is looked for, which labels training sees, and who is held out."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from reid import config, experiment
from reid.datasets.demo import load_truth, write_demo
from reid.engine.train import Job
from reid.errors import ConfigError
from reid.experiment.model import with_shared_norm
from reid.files import data_root
from reid.models.embedding import Classifier, Embedding
from reid.models.surgery import GeM
from reid.runtime import Runtime


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    sizes = {"train_ids": 8, "test_ids": 2, "tracklets_per_id": 4, "min_frames": 2, "max_frames": 3}
    write_demo(root / "demo", **sizes, distractors=1, junk=1, label_noise=0.3, noise_seed=5)
    return root


def load(root: Path, tmp_path: Path, *overrides: str) -> experiment.LabelledData:
    (tmp_path / "c.yaml").write_text("data: {name: demo}\n")
    return experiment.load_data(config.load(tmp_path / "c.yaml", [f"data.root={root}", *overrides]))


def frame_pids(data: experiment.LabelledData) -> np.ndarray:
    """The person that each frame name's label stands for, from the trainer's point of view."""
    return data.train.pids[data.train.label_F.numpy()[data.train.split.frames()]]


def test_labels_on_disk_their_truth_and_the_same_noise_drawn_anew(root: Path, tmp_path: Path) -> None:
    given, truth = load(root, tmp_path), load(root, tmp_path, "data.labels=truth")
    stored = load_truth(root / "demo")
    lengths = given.benchmark.train.lengths
    assert np.array_equal(frame_pids(given), np.repeat(given.benchmark.train.pid, lengths))
    assert np.array_equal(frame_pids(truth), np.repeat(stored.true_pid, lengths))
    noise = "data.noise={name: uniform_others, rate: 0.3, seed: 5}"
    again = load(root, tmp_path, "data.labels=truth", noise)
    assert np.array_equal(frame_pids(again), frame_pids(given))
    wrong = given.benchmark.train.pid != stored.true_pid
    assert wrong.sum() == round(0.3 * len(wrong))
    for data in (given, again):
        assert np.array_equal(~data.train.intact_F.numpy()[data.train.split.frames()], np.repeat(wrong, lengths))
        assert data.noise == f"{wrong.sum()} of {len(wrong)} ({100 * wrong.mean():.2f} %) tracklet labels wrong"
    assert truth.train.intact_F.all()


def test_what_a_network_was_trained_on_is_called_as_people_call_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: {name: manifest, path: somewhere/people.csv}\n")
    assert experiment.trained_on(config.load(tmp_path / "c.yaml")) == "people.csv"
    assert experiment.trained_on(config.load(tmp_path / "c.yaml", ["data.name=mars", "data.path=null"])) == "mars"


def test_mars_has_no_truth_to_tell(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mars").symlink_to(root / "demo")
    data = load(tmp_path, tmp_path, "data.name=mars")
    assert data.train.intact_F is None
    assert data.noise == "unknown (no true labels)"
    noisy = load(tmp_path, tmp_path, "data.name=mars", "data.noise={name: symmetric, rate: 1.0, seed: 0}")
    assert noisy.train.intact_F is None
    assert "changed on purpose; wrong labels on disk: unknown" in noisy.noise


def test_held_out_identities_are_not_trained_on(root: Path, tmp_path: Path) -> None:
    data = load(root, tmp_path, "data.holdout=0.25")
    assert data.holdout is not None
    held, trained = set(data.holdout.pid.tolist()), set(data.train.split.pid.tolist())
    assert len(held) == 2
    assert not held & trained
    assert held | trained == set(data.benchmark.train.pid.tolist())
    assert sorted(data.train.pids.tolist()) == sorted(trained)
    assert not set(data.holdout.frames().tolist()) & set(data.train.split.frames().tolist())
    same, other = (load(root, tmp_path, "data.holdout=0.25", f"seed={seed}").holdout for seed in (0, 1))
    assert set(same.pid.tolist()) == held != set(other.pid.tolist())
    with pytest.raises(ConfigError, match=r"0\.1 of 8 identities is 1"):
        load(root, tmp_path, "data.holdout=0.1")


def test_data_root_comes_from_config_then_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text("seed: 0\n")
    monkeypatch.delenv("REID_DATA", raising=False)
    assert data_root(config.load(tmp_path / "c.yaml").data.root) == Path("data")
    monkeypatch.setenv("REID_DATA", "/elsewhere")
    assert data_root(config.load(tmp_path / "c.yaml").data.root) == Path("/elsewhere")
    assert data_root(config.load(tmp_path / "c.yaml", ["data.root=/here"]).data.root) == Path("/here")


def job(root: Path, tmp_path: Path, *overrides: str, device: str = "cpu") -> Job:
    settings = ["model.name=resnet18", "model.pretrained=false", "augment={resize: [32, 16], crop: [32, 16]}"]
    (tmp_path / "c.yaml").write_text("data: {name: demo}\n")
    loaded = config.load(tmp_path / "c.yaml", [f"data.root={root}", "train.iterations=10", *settings, *overrides])
    experiment.check(loaded)
    return experiment.build_job(
        loaded, experiment.load_data(loaded).train, Runtime(torch.device(device), torch.float32)
    )


def test_every_setting_of_the_step_arrives(root: Path, tmp_path: Path) -> None:
    plain = job(root, tmp_path)
    assert (plain.accumulate, plain.ema, plain.scaler, plain.compile, plain.damaged.policy) == (
        1,
        None,
        None,
        False,
        "error",
    )
    assert (plain.preprocess.erase, plain.preprocess.color) == (0, 0)
    assert [plain.schedule(step) for step in range(3)] == [1, 1, 1]
    step = ["train.accumulate=3", "train.ema=0.9", "train.warmup=4", "machine.compile=true", "data.damaged=skip"]
    full = job(root, tmp_path, *step, "augment.erase=0.25", "augment.color=0.3", "model.freeze_norm=true")
    assert full.ema is not None
    assert full.ema.decay == 0.9
    assert full.ema.model.state_dict().keys() == full.model.state_dict().keys()
    assert (full.accumulate, full.compile, full.damaged.policy) == (3, True, "skip")
    assert (full.preprocess.erase, full.preprocess.color) == (0.25, 0.3)
    assert [full.schedule(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    frozen = {name for name, parameter in full.model.named_parameters() if not parameter.requires_grad}
    norms = {name for name, module in full.model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert frozen == {f"{name}.{part}" for name in norms for part in ("weight", "bias")}
    assert sum(len(group["params"]) for group in full.optimizer.param_groups) + len(frozen) == len(
        list(full.model.parameters())
    )


def test_parts_need_images(root: Path, tmp_path: Path) -> None:
    expected = r"train.batch_size: expected at least 2 images for each of 1 process x train.accumulate 4, as batch norm"
    with pytest.raises(ConfigError, match=expected):
        job(root, tmp_path, "train.batch_size=7", "train.accumulate=4")
    assert job(root, tmp_path, "train.batch_size=7", "train.accumulate=4", "model.freeze_norm=true").accumulate == 4


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model.freeze_norm=true", "machine.sync_norm=true"], "machine.sync_norm: has no effect"),
        (["train.warmup=2", "train.schedule={name: cosine, warmup: 2}"], "train.warmup: the schedule has"),
    ],
)
def test_settings_that_do_nothing_together(tmp_path: Path, overrides: list[str], words: str) -> None:
    (tmp_path / "c.yaml").write_text("name: c\n")
    with pytest.raises(ConfigError, match=words):
        experiment.check(config.load(tmp_path / "c.yaml", overrides))


def test_shared_norm_is_for_cuda(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"machine.sync_norm: needs CUDA devices, got cpu; remove this setting"):
        job(root, tmp_path, "machine.sync_norm=true")


def test_shared_norm_keeps_names_and_activations(tmp_path: Path) -> None:
    """Converting needs no CUDA device, and outside of training the result runs on a CPU."""
    (tmp_path / "c.yaml").write_text("machine: {sync_norm: true}\n")
    torch.manual_seed(0)
    backbone = timm.create_model("mobilenetv3_small_050", num_classes=0)  # timm's norms with activations inside
    model = Classifier(Embedding(backbone), 3).eval()
    images = torch.randn(2, 3, 64, 32)
    before, keys = model(images), model.state_dict().keys()
    shared = with_shared_norm(config.load(tmp_path / "c.yaml"), model, Runtime(torch.device("cuda"), torch.float32))
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in shared.modules()) > 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in shared.modules())
    assert shared.state_dict().keys() == keys
    torch.testing.assert_close(shared(images), before)


def test_weights_of_tracklets_reach_their_frames_with_mean_1(root: Path, tmp_path: Path) -> None:
    keys = load(root, tmp_path).benchmark.train
    (tmp_path / "w.csv").write_text(f"key,weight\n{keys.key(3)},0\n{keys.key(5)},4\n")
    data = load(root, tmp_path, f"data.weights={tmp_path / 'w.csv'}")
    split, weight = data.train.split, data.train.weight_F
    expected = np.ones(len(split))
    expected[[3, 5]] = 0, 4
    expected /= expected.mean()
    assert np.allclose(weight[split.frames()].numpy(), np.repeat(expected, split.lengths))
    assert weight.dtype == torch.float32
    assert (
        data.weights == f"0 to {expected.max():.3g}, mean 1; 1 of {len(split)} tracklets have weight 0 and are ignored"
    )
    assert load(root, tmp_path).train.weight_F is None
    held = load(root, tmp_path, f"data.weights={tmp_path / 'w.csv'}", "data.holdout=0.25")
    assert held.train.weight_F[held.train.split.start.tolist()].mean().item() == pytest.approx(1)


def test_a_list_of_losses_is_a_sum_on_features_and_logits(root: Path, tmp_path: Path) -> None:
    losses = (
        "loss=[{name: imae, T: 8}, {name: triplet, margin: 0.3, weight: 0.5, weights: w}, {name: centre, weight: 5e-4}]"
    )
    made = job(root, tmp_path, losses, "model.head={name: arcface, margin: 0.2}", "model.neck=bn")
    assert made.loss.names == ["imae", "triplet", "centre"]
    assert made.loss.factors == [1, 0.5, 5e-4]
    assert made.loss.weighing == "imae"
    assert made.loss.losses["centre"].centres_KD.shape == (8, 512)
    assert made.model.with_features
    assert made.model.takes_targets
    assert (made.model.head.margin, made.model.head.weight.shape) == (0.2, (8, 512))
    one = job(root, tmp_path, "loss=[{name: imae}]")
    assert not one.model.with_features


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["loss={name: triplet}"], "loss: triplet would leave the classifier untrained"),
        (["loss=[{name: cce}, {name: triplet, T: 2}]"], "loss.1.T: triplet takes no 'T'"),
        (["loss=[{name: cce}, {name: tripet}]"], "loss.1.name: unknown 'tripet'; did you mean 'triplet'?"),
        (["loss=[{name: cce, weight: 0}]"], "loss.0.weight: expected a number above 0, got 0"),
        (["loss=[{name: cce}, {name: cce}]"], "loss: cce appears twice"),
        (["loss=[{name: cce}, {name: triplet, weights: all}]"], "loss.1.weights: expected 'none' or 'w', got 'all'"),
        (
            ["loss=[{name: nce_rce}, {name: circle, weights: w}]"],
            "loss: weights: w needs another loss with a weight function w",
        ),
        (
            ["loss=[{name: cce}, {name: triplet}]", "train.accumulate=2"],
            "train.accumulate: triplet needs all samples",
        ),
        (["model.head={name: arcface, margin: 2.0}"], "model.head.margin: expected >= 0 and <= 1.5708, got 2"),
        (["model.head.name=arc"], "model.head.name: unknown 'arc'; did you mean 'arcface'?"),
    ],
)
def test_losses_that_do_not_go_together(tmp_path: Path, overrides: list[str], words: str) -> None:
    (tmp_path / "c.yaml").write_text("name: c\n")
    with pytest.raises(ConfigError) as caught:
        experiment.check(config.load(tmp_path / "c.yaml", overrides))
    assert [problem for problem in caught.value.problems if words in problem] == list(caught.value.problems)


def test_settings_of_the_model_arrive(root: Path, tmp_path: Path) -> None:
    resnet = job(root, tmp_path, "model.options={drop_rate: 0.3}", "model.last_stride=1", "model.pooling=gem")
    backbone = resnet.model.embedding.backbone
    assert backbone.drop_rate == 0.3
    assert backbone.forward_features(torch.zeros(1, 3, 64, 32)).shape[2:] == (4, 2)
    assert isinstance(backbone.global_pool, GeM)
    assert any(parameter is backbone.global_pool.p for parameter in resnet.optimizer.param_groups[0]["params"])
    vit = ["model.name=vit_tiny_patch16_224", "model.options={depth: 1}"]
    made = job(root, tmp_path, *vit, "train.optimizer={name: adamw, layer_decay: 0.7, head_lr: 2}", "train.freeze=3")
    assert made.model.embedding.backbone.pos_embed.shape == (1, 1 + 2 * 1, 192)  # made for images of 32 x 16
    assert {group["lr_scale"] for group in made.optimizer.param_groups} == {2, 1, 0.7}
    assert made.freeze == 3
    square = job(
        root, tmp_path, "model.name=vit_tiny_patch16_224", "model.options={depth: 1, img_size: [32, 16], patch_size: 8}"
    )
    assert square.model.embedding.backbone.pos_embed.shape == (1, 1 + 4 * 2, 192)
    padded = job(root, tmp_path, "augment.pad=3", "train.warmup=4", "train.warmup_start=0.2")
    assert padded.preprocess.pad == 3
    assert [padded.schedule(step) for step in range(5)] == pytest.approx([0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model.options={depht: 1}"], r"model.options: resnet18 cannot be built with \{'depht': 1\}: .*'depht'"),
        (["model.options={output_stride: 7}"], r"model.options: resnet18 cannot be built with"),
        (["model.options={num_classes: 3}"], r"model.options.num_classes: cannot be set here"),
        (
            ["model.name=googlenet_bn", "model.last_stride=1"],
            r"model.last_stride: 1 is only for ResNets, got GoogLeNetBN",
        ),
        (
            ["model.name=vit_tiny_patch16_224", "model.pooling=gem"],
            r"model.pooling: VisionTransformer has no average pooling",
        ),
        (
            ["model.name=vit_tiny_patch16_224", "model.options={img_size: 224}"],
            r"augment.crop: .* does not take images of \[32, 16\]",
        ),
        (["train.warmup_start=0.1"], r"train.warmup_start: has no effect without train.warmup"),
        (["train.freeze=10"], r"train.freeze: expected less than train.iterations 10, got 10"),
        (
            ["train.optimizer={name: adam, layer_decay: 1.5}"],
            r"train.optimizer.layer_decay: expected > 0 and <= 1, got 1.5",
        ),
    ],
)
def test_settings_of_the_model_that_cannot_be(root: Path, tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        job(root, tmp_path, *overrides)
