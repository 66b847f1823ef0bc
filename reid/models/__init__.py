"""Networks; importing this package registers `googlenet_bn` and `bn_inception` with timm."""

from reid.models import bn_inception, googlenet_bn

__all__ = ["bn_inception", "googlenet_bn"]
