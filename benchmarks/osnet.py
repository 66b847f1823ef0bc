"""OSNet compared with torchreid's own code: same weights, same images, largest difference of features.

    git clone https://github.com/KaiyangZhou/deep-person-reid
    python benchmarks/osnet.py deep-person-reid/torchreid/models/osnet.py [--json FILE]

The file is run unchanged; weights and normalisation statistics are random, and loaded key by key.
"""

import argparse
import importlib.util
from pathlib import Path

import timm
import torch
from record import keep
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import reid.models  # noqa: F401  registers the networks
from reid.models.osnet import SIZES

MOST = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="torchreid/models/osnet.py of a checkout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    flags = parser.parse_args()
    spec = importlib.util.spec_from_file_location("torchreid_osnet", flags.file)
    if spec is None or spec.loader is None or not flags.file.is_file():
        parser.error(f"{flags.file}: expected torchreid/models/osnet.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    rows = [compared(name, getattr(theirs, name)) for name in SIZES]
    print("| network | parameters | multiply-adds | largest feature | largest difference |\n|---|---|---|---|---|")
    for row in rows:
        print("| {name} | {million:.2f} M | {mega:.1f} M | {largest:.3f} | {difference:.1e} |".format(**row))
    keep(flags.json, {"networks": rows})
    return int(any(row["difference"] > MOST for row in rows))


@torch.no_grad()
def compared(name: str, build: object) -> dict[str, object]:
    torch.manual_seed(0)
    reference: nn.Module = build(num_classes=10, pretrained=False).eval()  # type: ignore[operator]
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model = timm.create_model(name, num_classes=10).eval()
    model.load_state_dict(reference.state_dict())
    model.reset_classifier(0)
    images = torch.randn(4, 3, 256, 128)
    expected, got = reference(images), model(images)
    with FlopCounterMode(display=False) as counter:
        model(images[:1])
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    sizes = {"name": name, "million": million, "mega": counter.get_total_flops() / 2e6}
    return sizes | {"largest": expected.abs().max().item(), "difference": (got - expected).abs().max().item()}


if __name__ == "__main__":
    raise SystemExit(main())
