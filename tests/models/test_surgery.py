"""A finer last feature map, and GeM in the place of the mean."""

import pytest
import timm
import torch
from torch import nn

import reid.models  # noqa: F401
from reid.errors import ConfigError
from reid.models.surgery import GeM, keep_size_in_last_stage, pool_by_gem


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50d", "resnext50_32x4d", "seresnet50"])
def test_last_stride_of_resnets(name: str) -> None:
    before, model = timm.create_model(name, num_classes=0).eval(), timm.create_model(name, num_classes=0).eval()
    keep_size_in_last_stage(model)
    images = torch.randn(1, 3, 256, 128)
    with torch.no_grad():
        assert before.forward_features(images).shape[2:] == (8, 4)
        assert model.forward_features(images).shape[2:] == (16, 8)
    model.load_state_dict(before.state_dict())
    assert all(
        getattr(module, "dilation", (1, 1)) == (1, 1) for module in model.modules() if isinstance(module, nn.Conv2d)
    )
    with torch.no_grad():  # the stages before are the same, and every second place of the first convolution too
        upto = nn.Sequential(
            model.conv1, model.bn1, model.act1, model.maxpool, model.layer1, model.layer2, model.layer3
        )(images)
        fine, coarse = (nn.Sequential(*list(one.layer4[0].children())[:2])(upto) for one in (model, before))
    if name == "resnet18":
        torch.testing.assert_close(fine[:, :, ::2, ::2], coarse)


@pytest.mark.parametrize("name", ["googlenet_bn", "vit_tiny_patch16_224", "osnet_x0_25"])
def test_other_networks_have_no_last_stride(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model.last_stride: 1 is only for ResNets, got"):
        keep_size_in_last_stage(timm.create_model(name, num_classes=0))


def test_a_blur_in_the_way() -> None:
    with pytest.raises(
        ConfigError, match=r"model.last_stride: cannot be 1 in a network that downsamples with BlurPool2d"
    ):
        keep_size_in_last_stage(timm.create_model("resnetblur50", num_classes=0))


def test_gem_is_the_generalised_mean() -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    x[0, 0] = 0
    gem = GeM(p=3.0).double()
    expected = [
        [(sum(max(v, 1e-6) ** 3 for v in plane.flatten().tolist()) / 20) ** (1 / 3) for plane in image] for image in x
    ]
    torch.testing.assert_close(gem(x), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(GeM(1.0).double()(x + 0.1), (x + 0.1).mean((2, 3)))
    torch.testing.assert_close(GeM(300.0).double()(x + 0.1), (x + 0.1).amax((2, 3)), rtol=0.02, atol=0)
    assert GeM(flatten=False)(x).shape == (2, 3, 1, 1)
    assert GeM()(x.bfloat16()).dtype == torch.float32
    power = torch.tensor([2.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: torch.func.functional_call(gem, {"p": p}, (x + 0.1,)), power)


@pytest.mark.parametrize(
    "name", ["resnet18", "googlenet_bn", "bn_inception", "osnet_x0_25", "mobilenetv3_small_050", "convnext_atto"]
)
def test_gem_takes_the_place_of_the_mean(name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    images = torch.randn(2, 3, 64, 32)
    before = model(images)
    pool_by_gem(model)
    [gem] = [module for module in model.modules() if isinstance(module, GeM)]
    gem.eps = -1e9
    gem.p.data.fill_(1.0)
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)
    gem.eps = 1e-6
    model(images).sum().backward()
    assert gem.p.grad.isfinite().all()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_without_a_mean_over_positions(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model.pooling: .* has no average pooling that gem could replace"):
        pool_by_gem(
            timm.create_model(name, num_classes=0, depth=1) if "vit" in name else timm.create_model(name, num_classes=0)
        )
