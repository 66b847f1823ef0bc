"""The two Inception nets do all that timm expects of its models.

Shapes: B batch, C channels, H height, W width, D feature.
"""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import reid.models  # noqa: F401  registers the nets

NETS = ("googlenet_bn", "bn_inception")


@pytest.mark.parametrize(("name", "tag"), [("googlenet_bn", "tv_in1k"), ("bn_inception", "caffe_in1k")])
def test_registration_and_pretrained_cfg(name: str, tag: str) -> None:
    assert timm.list_models(name) == [name] and timm.list_pretrained(name) == [f"{name}.{tag}"]
    net = timm.create_model(name)
    cfg, keys = net.pretrained_cfg, net.state_dict()
    assert cfg["input_size"] == (3, 224, 224) and cfg["num_classes"] == net.num_classes == 1000
    assert cfg["first_conv"] + ".weight" in keys and cfg["classifier"] + ".weight" in keys
    data = timm.data.resolve_model_data_config(net)
    assert data["mean"] == cfg["mean"] and data["std"] == cfg["std"]


@pytest.mark.parametrize("name", NETS)
def test_features_at_any_size(name: str) -> None:
    net = timm.create_model(name, num_classes=0).eval()
    assert net.num_features == net.head_hidden_size == 1024
    for size in [(32, 32), (64, 32), (96, 48), (128, 64), (75, 109), (224, 224)]:
        with torch.no_grad():
            features_BD = net(torch.randn(1, 3, *size))
        assert features_BD.shape == (1, 1024) and features_BD.isfinite().all()


@pytest.mark.parametrize("name", NETS)
def test_features_only_says_what_it_gives(name: str) -> None:
    torch.manual_seed(4)
    net = timm.create_model(name, features_only=True).eval()
    x_BCHW = torch.randn(1, 3, 128, 64)
    maps = net(x_BCHW)
    assert net.feature_info.channels() == [m.shape[1] for m in maps]
    assert net.feature_info.reduction() == [128 // m.shape[2] for m in maps] == [64 // m.shape[3] for m in maps]
    assert net.feature_info.reduction() == [2, 4, 8, 16, 32]
    whole = timm.create_model(name).eval()
    whole.load_state_dict(net.state_dict(), strict=False)
    torch.testing.assert_close(maps[-1], whole.forward_features(x_BCHW))
    last, again = whole.forward_intermediates(x_BCHW)
    torch.testing.assert_close([last, *again], [maps[-1], *maps])


@pytest.mark.parametrize("name", NETS)
def test_features_only_of_some_strides_by_either_way_of_timm(name: str) -> None:
    listed = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    got = timm.create_model(name, features_only=True, out_indices=(1, -2), feature_cls="getter").eval()
    got.model.load_state_dict(listed.state_dict())  # strict: both hold exactly the layers they need
    x_BCHW = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(got(x_BCHW), listed(x_BCHW))
    assert got.feature_info.channels() == listed.feature_info.channels()


@pytest.mark.parametrize("name", NETS)
def test_head(name: str) -> None:
    net = timm.create_model(name, num_classes=7, in_chans=1, drop_rate=0.5).eval()
    x_BCHW = torch.randn(2, 1, 64, 32)
    maps_BCHW = net.forward_features(x_BCHW)
    pooled_BD = maps_BCHW.mean((2, 3))
    torch.testing.assert_close(net(x_BCHW), net.get_classifier()(pooled_BD))
    torch.testing.assert_close(net.forward_head(maps_BCHW, pre_logits=True), pooled_BD)
    net.reset_classifier(3, "catavgmax")
    assert net(x_BCHW).shape == (2, 3) and net.head_hidden_size == 2048 and net.num_classes == 3
    assert not net.fc.training
    net.reset_classifier(0, "")
    torch.testing.assert_close(net(x_BCHW), maps_BCHW)
    net.reset_classifier(0, "avg")
    net.train().head_drop.eval()
    assert net.head_drop.p == 0.5 and isinstance(net.get_classifier(), nn.Identity)


@pytest.mark.parametrize("name", NETS)
def test_random_weights_keep_the_scale_before_batch_norm_has_seen_anything(name: str) -> None:
    torch.manual_seed(5)
    net = timm.create_model(name, num_classes=0).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for layer in net.layer_names:
            x = getattr(net, layer)(x)
            assert 0.3 < x.std() < 5, layer


@pytest.mark.parametrize("name", NETS)
def test_training_gives_finite_gradients_and_channels_last_the_same(name: str) -> None:
    torch.manual_seed(6)
    x_BCHW = torch.randn(4, 3, 64, 32)
    net = timm.create_model(name, num_classes=3)
    norms = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net.to(memory_format=layout).zero_grad()
        net(x_BCHW.to(memory_format=layout)).logsumexp(1).mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        norms.append(torch.stack([p.grad.norm() for p in net.parameters() if p.ndim > 1]))
    assert (norms[0] > 0).all()
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_layer_groups_run_from_the_stem_to_the_head(name: str) -> None:
    net = timm.create_model(name, num_classes=2)
    depths = [net.group_matcher()(key) for key, _ in net.named_parameters()]
    assert depths == sorted(depths) and depths[0] == 0 and depths[-1] == float("inf")
    net.set_grad_checkpointing(False)
    with pytest.raises(AssertionError, match="not supported"):
        net.set_grad_checkpointing()
