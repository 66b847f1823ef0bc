"""Networks; importing this package registers `googlenet_bn`, `bn_inception` and `resnet{20,32,56}_cifar` with timm."""

from reid.models import bn_inception, cifar_resnet, googlenet_bn

__all__ = ["bn_inception", "cifar_resnet", "googlenet_bn"]
