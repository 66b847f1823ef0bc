"""The label-noise study on CIFAR-10 and CIFAR-100."""
