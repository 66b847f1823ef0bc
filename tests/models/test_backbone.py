"""Backbones of this project and of timm by name: where their weights come from, and errors that say what to do."""

from __future__ import annotations

import hashlib
import logging
import re
import socket
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch

from reid.errors import CheckpointError, ConfigError
from reid.models.backbone import create_backbone
from reid.models.hub import one_line_of_retries

NETS = ("googlenet_bn", "bn_inception")


def one_line(error: pytest.ExceptionInfo) -> str:
    (line,) = error.value.problems
    return line


@pytest.mark.parametrize("name", [*NETS, "test_resnet", "test_vit"])
def test_backbones_of_this_project_and_of_timm(name: str) -> None:
    net = create_backbone(name, pretrained=False).eval()
    size = net.pretrained_cfg["input_size"] if name == "test_vit" else (3, 64, 32)
    assert net(torch.randn(2, *size)).shape == (2, net.num_features)


@pytest.mark.parametrize("classes", [0, 5, 1000])
def test_a_file_gives_its_features_whatever_its_classifier(classes: int, tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=classes).eval()
    torch.save({"model": {f"module.{k}": v for k, v in net.state_dict().items()}, "epoch": 1}, tmp_path / "w.pth")
    got = create_backbone("test_resnet", pretrained=True, weights=tmp_path / "w.pth").eval()
    x_BCHW = torch.randn(1, 3, 64, 32)
    torch.testing.assert_close(got(x_BCHW), net.forward_head(net.forward_features(x_BCHW), pre_logits=True))


def test_unknown_models_and_tags() -> None:
    with pytest.raises(ConfigError, match=r"'googlenet'; nearest: googlenet_bn"):
        create_backbone("googlenet", pretrained=False)
    with pytest.raises(ConfigError, match=r"no weights tagged 'nope'; expected one of: googlenet_bn.tv_in1k"):
        create_backbone("googlenet_bn.nope", pretrained=False)
    with pytest.raises(TypeError, match="nonsense"):
        create_backbone("googlenet_bn", pretrained=False, nonsense=1)


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "bn_inception.pth"
    torch.save(timm.create_model("bn_inception", num_classes=0).state_dict(), path)
    with pytest.raises(CheckpointError) as error:
        create_backbone("googlenet_bn", pretrained=True, weights=path)
    net = timm.create_model("googlenet_bn", num_classes=0)
    expected = len([k for k in net.state_dict() if "num_batches" not in k])
    for part in (
        f"{path} do not match googlenet_bn: 0 of {expected} tensors match",
        "missing: conv1.conv.weight",
        "not expected: conv1_7x7_s2.conv.weight",
    ):
        assert part in one_line(error)

    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    state["layer1.0.conv2.weight"] = torch.zeros(2, 2)
    del state["layer2.0.conv2.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        create_backbone("test_resnet", pretrained=True, weights=tmp_path / "w.pth")
    total = len([k for k in state if "num_batches" not in k]) + 1
    assert one_line(error).endswith(
        f"{total - 2} of {total} tensors match; missing: layer2.0.conv2.weight; "
        "of a different shape: layer1.0.conv2.weight (2, 2) for (32, 32, 3, 3)"
    )


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def test_unreadable_files_and_pickles(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(CheckpointError, match=r"no such file: .*w\.pth"):
        create_backbone("googlenet_bn", pretrained=True, weights=path)
    path.write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"w\.pth cannot be read as tensors"):
        create_backbone("googlenet_bn", pretrained=True, weights=path)
    torch.save({"epoch": 3, "net": {}}, path)
    with pytest.raises(CheckpointError, match=r"has no tensors.* found epoch, net"):
        create_backbone("googlenet_bn", pretrained=True, weights=path)
    torch.save({"state_dict": {"conv1.conv.weight": Bomb(tmp_path / "boom")}}, path)
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        create_backbone("googlenet_bn", pretrained=True, weights=path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", NETS)
def test_offline_the_error_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        assert socket.getdefaulttimeout()  # or a silent firewall would hang the run
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    before = socket.getdefaulttimeout()
    with pytest.raises(CheckpointError) as error:
        create_backbone(name, pretrained=True)
    url = timm.get_pretrained_cfg(name).url
    for part in (
        f"weights of {name} could not be downloaded from {url}",
        "Name or service not known",
        "model.pretrained=false",
        "model.weights=PATH",
        str(tmp_path / "hub" / "checkpoints" / url.split("/")[-1]),
    ):
        assert part in one_line(error)
    assert socket.getdefaulttimeout() == before


def test_retries_of_the_hub_are_one_line(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import http_backoff

    library = logging.getLogger("huggingface_hub")
    before = list(library.handlers), library.propagate
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"http://127.0.0.1:{server.getsockname()[1]}/"  # of a port that is closed again
    with pytest.raises(Exception, match=r"[Rr]efused"), one_line_of_retries("weights of x"):
        http_backoff("HEAD", nobody, max_retries=3, base_wait_time=0.01)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["weights of x: no answer yet"]
    assert "Retry" not in capfd.readouterr().err
    assert (list(library.handlers), library.propagate) == before


def test_the_path_named_offline_is_where_timm_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **kwargs: pytest.fail("downloads"))
    path = tmp_path / "hub" / "checkpoints" / "googlenet-1378be20.pth"
    path.parent.mkdir(parents=True)
    kept = timm.create_model("googlenet_bn").state_dict()
    torch.save(kept, path)
    net = create_backbone("googlenet_bn", pretrained=True)
    torch.testing.assert_close(net.conv1.conv.weight.data, kept["conv1.conv.weight"])
    torch.save(kept | {"fc.bias": torch.zeros(5)}, path)  # not the published file: said, although fc is not needed
    with pytest.raises(CheckpointError, match=rf"kept at {re.escape(str(path))}.*of a different shape: fc.bias"):
        create_backbone("googlenet_bn", pretrained=True)


def test_download_checks_the_hash_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "net.pth"
    torch.save(timm.create_model("googlenet_bn").state_dict(), source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for prefix in ("0" * 8, digest[:8]):
        (tmp_path / f"net-{prefix}.pth").write_bytes(source.read_bytes())
    overlay = dict(url=(tmp_path / f"net-{digest[:8]}.pth").as_uri())
    net = create_backbone("googlenet_bn", pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(net.conv1.conv.weight, torch.load(source)["conv1.conv.weight"])
    overlay = dict(url=(tmp_path / f"net-{'0' * 8}.pth").as_uri())
    with pytest.raises(CheckpointError, match="invalid hash value"):
        create_backbone("googlenet_bn", pretrained=True, pretrained_cfg_overlay=overlay)


def test_no_published_weights() -> None:
    with pytest.raises(CheckpointError, match=r"no weights are published for seresnet18: set model\.pretrained=false"):
        create_backbone("seresnet18", pretrained=True)
