"""One training step: parts of a batch, images left out, scaled gradients, frozen norms, and nothing that waits for the device."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reid import runtime
from reid.augment import Preprocess
from reid.datasets.decoding import decode
from reid.datasets.loader import DamagedImages
from reid.engine.ema import Averaged
from reid.engine.objective import SumOfLosses
from reid.engine.optim import OPTIMIZERS
from reid.engine.train import Job, crop_draws, fit
from reid.errors import ConfigError, DataError
from reid.losses import LOSSES
from reid.metric_losses import Triplet
from reid.models.embedding import Embedding
from reid.tracklets import Split
from tests.engine.conftest import CPU, Tiny, make_job, weights


def rows_of(job: Job) -> list[dict[str, float]]:
    """Trains, and gives the metrics but for the clock's."""
    rows: list[dict[str, float]] = []
    fit(job, CPU, on_log=rows.append)
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


@pytest.mark.parametrize(("parts", "sizes"), [(2, [3, 2]), (3, [2, 2, 1]), (5, [1] * 5)])
def test_parts_of_a_batch_add_up_to_it(split: Split, parts: int, sizes: list[int]) -> None:
    whole, apart = make_job(split, dropout=False), make_job(split, dropout=False, accumulate=parts)
    passes: list[int] = []
    apart.model.register_forward_hook(lambda model, images, logits: passes.append(len(logits)))
    whole_rows, rows = rows_of(whole), rows_of(apart)
    torch.testing.assert_close(weights(apart), weights(whole), rtol=0, atol=1e-6)
    assert passes == sizes * 12
    for row, expected in zip(rows, whole_rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-6)
        assert row["accuracy"] == expected["accuracy"]


def test_parts_of_a_batch_under_batch_normalisation_need_it_frozen(split: Split) -> None:
    moved = {}
    for frozen in (False, True):
        jobs = [make_job(split, dropout=False, norm=True, freeze_norm=frozen, accumulate=n) for n in (1, 2)]
        for job in jobs:
            fit(job, CPU)
        moved[frozen] = float((weights(jobs[0]) - weights(jobs[1])).abs().max())
    assert moved[True] < 1e-6 < 1e-3 < moved[False]


def test_frozen_norms_stay_as_they_are(split: Split) -> None:
    job = make_job(split, norm=True, freeze_norm=True)
    norm = job.model.embedding.backbone.norm
    before, conv = {key: value.clone() for key, value in norm.state_dict().items()}, weights(job)
    fit(job, CPU, after_step=lambda done: job.model.embedding.train())  # as after an evaluation
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert not norm.training
    assert job.model.embedding.backbone.drop.training
    assert not torch.equal(weights(job), conv)
    with pytest.raises(ConfigError, match=r"model.freeze_norm: this model has no normalisation layers"):
        Embedding(Tiny(), freeze_norm=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_left_out_change_nothing_for_the_others(split: Split, workers: int) -> None:
    """Against a plain loop over the good images, with the draws of their places and the divisor of the whole batch."""
    bad = {3, 17}
    plain = make_job(split, dropout=False)
    plain = replace(plain, preprocess=_colourful())
    images = {frame: torch.from_numpy(decode(split.path(frame))) for frame in range(24)}
    optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-3)
    left_out, losses = 0, []
    for step in range(12):
        good = [(place, frame) for place, frame in enumerate(plain.sampler(step).tolist()) if frame not in bad]
        left_out += 5 - len(good)
        draws = torch.stack([crop_draws(plain, step)[place] for place, _ in good])
        batch = plain.preprocess(torch.stack([images[frame] for _, frame in good]), torch.device("cpu"), draws)
        target = plain.data.label_F[[frame for _, frame in good]]
        loss_B = LOSSES["cce"]()(plain.model(batch), target)
        losses.append(loss_B.mean().item())
        optimizer.param_groups[0]["lr"] = 0.5 * 0.5 ** (step // 5)
        optimizer.zero_grad()
        (loss_B.sum() / 5).backward()
        optimizer.step()
    split.path(3).unlink()
    split.path(17).write_bytes(b"no image")
    damaged = DamagedImages("skip")
    job = make_job(split, dropout=False, damaged=damaged, workers=workers, log_freq=1)
    rows = rows_of(replace(job, preprocess=_colourful()))
    torch.testing.assert_close(weights(job), weights(plain), rtol=0, atol=1e-6)
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-5)
    assert damaged.count == left_out > 2
    assert set(damaged.files) == {str(split.path(frame)) for frame in bad}


def _colourful() -> Preprocess:
    return Preprocess([16, 8], [14, 7], [0.5] * 3, [0.5] * 3, erase=0.5, color=0.4)


def test_too_few_images_for_the_parts_is_an_error(split: Split) -> None:
    for frame in range(20):
        split.path(frame).unlink()
    with pytest.raises(DataError, match=r"train.accumulate: step \d+: \d images? of this process's share left for"):
        fit(make_job(split, accumulate=5, damaged=DamagedImages("skip"), iterations=50), CPU)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_single_image_cannot_be_normalised(split: Split, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first batch one image can be read. Normalisation over an image's pixels goes on, that over the images alone does not."""
    frames = [int(frame) for frame in make_job(split).sampler(0)]
    for frame in frames[1:]:
        split.path(frame).unlink()
    settings = {"damaged": DamagedImages("skip"), "iterations": 1}
    fit(make_job(split, norm=True, **settings), CPU)
    job = make_job(split, compile=compiled, **settings)
    job.model.embedding.neck = nn.BatchNorm1d(8)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # needs no C++ compiler
    with pytest.raises(DataError, match=r"1 image is left .* needs 2; restore .*\.png\)$") as caught:
        fit(job, CPU)
    assert str(split.path(frames[1])) in str(caught.value)


def test_colours_and_erasing_leave_the_crops_as_they_were(split: Split) -> None:
    job = make_job(split)
    plain, colourful = crop_draws(job, 4), crop_draws(replace(job, preprocess=_colourful()), 4)
    assert plain.shape == (5, 3)
    assert colourful.shape == (5, 11)
    assert torch.equal(colourful[:, :3], plain)
    assert len(colourful.unique()) == 55  # no number serves twice


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("parts", [1, 2])
def test_scaled_gradients_train_bit_identically(split: Split, clip: float | None, parts: int) -> None:
    """Powers of two are exact in floating point, so that scaling there and back leaves no trace."""
    plain = make_job(split, clip_grad=clip, accumulate=parts)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=5)
    scaled = make_job(split, clip_grad=clip, accumulate=parts, scaler=scaler)
    assert rows_of(plain) == rows_of(scaled)
    assert torch.equal(weights(plain), weights(scaled))
    assert scaler.get_scale() == 2.0**14  # doubled after 5 and 10 good steps


def test_a_step_whose_scaled_gradients_overflow_is_left_out(split: Split) -> None:
    class Steep(nn.Module):
        def forward(self, logits: Tensor, target: Tensor, index: Tensor) -> Tensor:
            return 1e9 * LOSSES["cce"]()(logits, target)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    job = replace(make_job(split, iterations=1, scaler=scaler), loss=Steep())
    before = weights(job)
    fit(job, CPU)
    assert torch.equal(weights(job), before)
    assert scaler.get_scale() == 2.0**119


def test_float16_is_for_cuda() -> None:
    expected = "machine.dtype: float16 needs a CUDA device, got cpu; use bfloat16 or float32"
    with pytest.raises(ConfigError, match=expected), runtime.start("cpu", "float16"):
        pass
    assert CPU.grad_scaler() is None


class Asked(TorchDispatchMode):
    """Counts the operations for whose result the host would wait: values, and sizes that depend on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "repeat_interleave")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        self.total += 1
        masks = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in (args[1] if name == "index" else []) or [])
        if masks or name.startswith(self.WAITING):
            self.seen[name] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("loss", ["cce", "imae", "gce_truncated"])
def test_no_step_asks_the_device_for_a_value(split: Split, loss: str) -> None:
    job = make_job(split, loss=loss, norm=True, clip_grad=1.0, log_freq=100, accumulate=1 if "gce" in loss else 2)
    wrong = torch.arange(len(split.names)) % 3 == 0
    true_F = torch.where(wrong, -2, job.data.label_F)
    data, scaler = replace(job.data, true_F=true_F), torch.amp.GradScaler("cpu")
    job = replace(job, data=data, scaler=scaler, ema=Averaged(job.model, 0.9), preprocess=_colourful())
    seen: list[tuple[Counter[str], int]] = []
    with Asked() as asked:
        fit(job, CPU, after_step=lambda done: seen.append((asked.seen.copy(), asked.total)))
    (before, ops_before), (after, ops_after) = seen[0], seen[-2]  # between the two log lines, which do ask
    assert ops_after > ops_before + 100
    assert after == before


def test_the_counter_of_waits_sees_them() -> None:
    with Asked() as asked:
        values = torch.arange(3)
        values.sum().item()
        values[values > 1]
        bool(values[0])
    assert asked.seen == {"_local_scalar_dense": 2, "index": 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_step_waits_for_a_cuda_device(split: Split, dtype: torch.dtype) -> None:
    here = runtime.Runtime(torch.device("cuda", 0), dtype)
    job = make_job(split, norm=True, clip_grad=1.0, log_freq=100)
    model = here.place(job.model)
    job = replace(job, loss=job.loss.to(here.device), scaler=here.grad_scaler(), preprocess=_colourful())
    job = replace(job, ema=Averaged(model, 0.9), optimizer=torch.optim.SGD(model.parameters(), lr=0.0, fused=True))

    def after_step(done: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if 1 < done < 11 else "default")

    try:
        fit(job, here, after_step=after_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_profiler_sees_the_parts_of_a_step(split: Split) -> None:
    job = make_job(split, accumulate=2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        fit(job, CPU)
    counts = Counter(event.name for event in profile.events())
    scopes = {name: counts[name] for name in ("data", "transfer", "forward", "backward", "optimizer")}
    assert scopes == {"data": 13, "transfer": 12, "forward": 24, "backward": 24, "optimizer": 12}  # data: also its end


def test_a_compiled_model_keeps_its_names_and_trains_alike(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compile_without_a_compiler(model: nn.Module) -> nn.Module:
        calls.append(model)
        wrapper = nn.Sequential(model)
        return wrapper

    monkeypatch.setattr(torch, "compile", compile_without_a_compiler)
    plain, compiled = make_job(split, norm=True), make_job(split, norm=True, compile=True)
    fit(plain, CPU)
    fit(compiled, CPU)
    assert calls == [compiled.model]
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    assert torch.equal(weights(compiled), weights(plain))


def test_a_missing_compiler_is_one_line() -> None:
    class InvalidCxxCompiler(RuntimeError):
        __module__ = "torch._inductor.exc"

    with pytest.raises(ConfigError) as caught, runtime.compiler_errors_in_one_line():
        raise InvalidCxxCompiler("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")
    [line] = caught.value.problems
    assert line.startswith("machine.compile: torch.compile failed: No working C++ compiler found; install")
    with pytest.raises(RuntimeError, match="ours"), runtime.compiler_errors_in_one_line():
        raise RuntimeError("ours")


def test_a_sum_of_losses_trains_like_a_plain_loop(split: Split) -> None:
    """Against autograd through both at once: the way through the logits is taken once, and a sample's weight counts in every term."""
    plain = make_job(split, dropout=False)
    weight_F = torch.linspace(0, 2, 24)
    optimizer, head = (
        torch.optim.SGD(plain.model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-3),
        plain.model.head,
    )
    images = {frame: torch.from_numpy(decode(split.path(frame))) for frame in range(24)}
    terms = []
    for step in range(12):
        frames = plain.sampler(step).tolist()
        batch = plain.preprocess(torch.stack([images[frame] for frame in frames]), CPU.device, crop_draws(plain, step))
        features, target = plain.model.embedding.backbone(batch), plain.data.label_F[frames]
        parts = [LOSSES["cce"]()(head(features), target), Triplet(20.0)(features, target)]
        optimizer.param_groups[0]["lr"] = 0.5 * 0.5 ** (step // 5)
        optimizer.zero_grad()
        ((parts[0] + 0.3 * parts[1]) * weight_F[frames]).mean().backward()
        terms.append([(part * weight_F[frames]).mean().item() for part in parts])
        optimizer.step()
    loss = SumOfLosses({"cce": LOSSES["cce"](), "triplet": Triplet(20.0)}, {"cce": 1, "triplet": 0.3})
    job = make_job(split, dropout=False, log_freq=1)
    job.model.with_features = True
    rows = rows_of(replace(job, loss=loss, data=replace(job.data, weight_F=weight_F)))
    torch.testing.assert_close(weights(job), weights(plain), rtol=0, atol=1e-6)
    for row, (cce, triplet) in zip(rows, terms, strict=True):
        assert (row["loss_cce"], row["loss_triplet"]) == pytest.approx((cce, triplet), rel=1e-4, abs=1e-6)
        assert row["loss"] == pytest.approx(cce + 0.3 * triplet, rel=1e-4)
    assert sum(triplet > 0 for _, triplet in terms) > 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_backbone_stays_as_it_is_for_the_first_steps(split: Split, name: str) -> None:
    job = make_job(split, norm=True, freeze=5)
    job = replace(job, optimizer=OPTIMIZERS[name](job.model, weight_decay=0.1), lr=0.01)
    backbone, states = job.model.embedding.backbone, []

    def after_step(done: int) -> None:
        states.append({key: value.clone() for key, value in job.model.state_dict().items()})

    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    fit(job, CPU, after_step=after_step)
    for key, value in before.items():  # weights, and the statistics of the normalisation
        assert torch.equal(states[4][f"embedding.backbone.{key}"], value)
    assert not torch.equal(states[4]["head.weight"], states[3]["head.weight"])
    assert not torch.equal(states[5]["embedding.backbone.conv.weight"], before["conv.weight"])
    assert states[11]["embedding.backbone.norm.num_batches_tracked"] == 7
