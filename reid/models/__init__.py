"""Networks. Importing this package registers `googlenet_bn`, `bn_inception`, `osnet_*` and `resnet{20,32,56}_cifar` with timm."""

from reid.models import bn_inception, cifar_resnet, googlenet_bn, osnet

__all__ = ["bn_inception", "cifar_resnet", "googlenet_bn", "osnet"]
