"""The profile: times are shared out exactly on a trace made by hand, and a real one is written without touching the run."""

import gzip
import json
import re
from pathlib import Path

import pytest

from reid.commands.profile import PARTS, parts_of
from tests.commands.conftest import call


def event(cat: str, name: str, begin: float, duration: float, correlation: int = -1) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "ts": begin, "dur": duration, "args": {"correlation": correlation}}


def test_time_on_the_host_is_shared_out() -> None:
    scopes = [event("user_annotation", name, 1000.0 * i, 100.0 * (i + 1)) for i, name in enumerate(PARTS)]
    again = event("user_annotation", "forward", 9000, 700)  # a second part of the same step
    others = [event("cpu_op", "forward", 0, 5e5), event("user_annotation", "Optimizer.step#SGD.step", 0, 5e5)]
    instant = {"ph": "i", "name": "Record Window End", "ts": 0}
    parts = parts_of([*scopes, again, *others, instant], seconds=0.01, steps=2)
    host = {part.name: part.host for part in parts}
    expected = {"data": 0.05, "transfer": 0.1, "forward": 0.15 + 0.35, "backward": 0.2, "optimizer": 0.25, "rest": 3.9}
    assert host == pytest.approx(expected)
    assert list(host) == [*PARTS, "rest"]
    assert all(part.device == 0 for part in parts)


def test_work_of_a_device_belongs_to_where_it_was_launched() -> None:
    """However late it runs: the host is far ahead of the device."""
    scopes = [event("user_annotation", "forward", 100, 50), event("user_annotation", "backward", 200, 50)]
    launches = {1: 110, 2: 149, 3: 201, 4: 180, 5: 50}  # 4 lies between the scopes, 5 before them
    calls = [
        event("cuda_runtime" if number % 2 else "cuda_driver", "launch", at, 1, number)
        for number, at in launches.items()
    ]
    kernels = [event("kernel", "k", 5000 + number, 10**number, number) for number in launches]
    copies = [event("gpu_memcpy", "copy", 7000, 3, 3), event("kernel", "unknown", 8000, 7, 99)]
    parts = parts_of([*kernels, *copies, *calls, *scopes], seconds=1.0, steps=1)
    device = {part.name: 1e3 * part.device for part in parts}
    expected = dict.fromkeys(PARTS, 0.0) | {"forward": 110.0, "backward": 1003.0, "rest": 10**4 + 10**5 + 7}
    assert device == pytest.approx(expected)


def test_a_profile_of_a_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["model.name=test_resnet", "train.accumulate=2"]
    assert call("train", "run.yaml", "--profile", "3", *settings) == 0
    files = {str(path.relative_to(workplace)) for path in workplace.rglob("*") if path.is_file()}
    assert files == {"run.yaml", "runs/run/profile/profile.txt", "runs/run/profile/trace.json.gz"}
    out, text = capsys.readouterr().out, Path("runs/run/profile/profile.txt").read_text()
    assert text.strip() in out
    parts = text.split("\n\n")[1]  # the operators follow
    table = dict(re.findall(r"^(\w+) +\| +([\d.]+) \| +[\d.]+$", parts, re.M))
    assert list(table) == [*PARTS, "rest", "step"]
    assert all(float(table[part]) > 0 for part in ("transfer", "forward", "backward", "optimizer"))
    total = sum(float(value) for name, value in table.items() if name != "step")
    assert total == pytest.approx(float(table["step"]), abs=0.05)
    assert re.search(r"aten::convolution_backward +\| +\d+ \| +[\d.]+", text)
    assert re.search(r"^[\d.]+ images per second .*\n[\d.]+ at most: [\d.]+ GFLOPs an image", text, re.M)
    events = json.loads(gzip.decompress(Path("runs/run/profile/trace.json.gz").read_bytes()))["traceEvents"]
    names = [e["name"] for e in events if e.get("cat") == "user_annotation"]
    assert [names.count(part) for part in PARTS] == [3, 3, 6, 6, 3]
    assert call("train", "run.yaml", "model.name=test_resnet", "train.iterations=2") == 0  # the run can still be made


@pytest.mark.parametrize("steps", ["0", "-1", "1001"])
def test_steps_out_of_range(workplace: Path, fails, steps: str) -> None:
    message = fails("train", "run.yaml", f"--profile={steps}")
    assert f"--profile: expected 1 to 1000 steps, got {steps}" in message
    assert not Path("runs").exists()
