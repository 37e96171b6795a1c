"""Random networks of torchvision, timm and pretrainedmodels, with their outputs, for `compare.py`.

Runs in an environment with torchvision and timm, which need not have googlenet:

    python -m venv other && other/bin/pip install torchvision timm
    other/bin/python experiments/family/reference.py OUTPUT_FOLDER

Weights are drawn so that activations stay in range, and batch norms get random statistics, scales and shifts. With
`--bninception FILE`, the file bninception.py of pretrainedmodels, its network is there too.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "torchvision-googlenet": (224, lambda: torchvision.models.googlenet(init_weights=False)),
    "torchvision-inception_v3": (299, lambda: torchvision.models.inception_v3(init_weights=False)),
    "torchvision-inception_v3-no-head": (
        299,
        lambda: torchvision.models.inception_v3(init_weights=False, aux_logits=False),
    ),
    "timm-inception_v3": (299, lambda: timm.create_model("inception_v3", aux_logits=True)),
    "timm-inception_v3-no-head": (299, lambda: timm.create_model("inception_v3")),
    "timm-inception_v4": (299, lambda: timm.create_model("inception_v4")),
}


def randomize(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.get_buffer("running_mean"), std=0.2)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bninception", type=Path)
    arguments = parser.parse_args()
    if arguments.bninception:
        spec = importlib.util.spec_from_file_location("bninception", arguments.bninception)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        NETWORKS["pretrainedmodels-bninception"] = (224, lambda: module.BNInception())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, (size, make) in NETWORKS.items():
        torch.manual_seed(0)
        net = make()
        randomize(net)
        path = arguments.folder / f"{name}.pth"
        torch.save(net.state_dict(), path)
        outputs: dict[str, torch.Tensor] = {}
        # BN-Inception's branches fit together only at multiples of 32; timm uses the head in eval mode, too
        sizes = {"pretrainedmodels-bninception": [224, 256], "timm-inception_v3": [299, 330]}.get(
            name, [size, 171, 330]
        )
        with torch.no_grad():
            for side in sizes:
                x = outputs[f"x{side}"] = torch.rand(2, 3, side, side) * 2 - 1
                result = net.eval()(x)
                outputs[f"logits{side}"] = result[0] if isinstance(result, tuple) else result
            x = outputs[f"x{size}"]
            for layer in net.modules():
                if isinstance(layer, nn.Dropout):
                    layer.p = 0.0
            if hasattr(net, "AuxLogits") and net.AuxLogits is not None:
                result = net.train()(x)
                outputs["train"], outputs["head"] = result[0], result[1]
        torch.save(outputs, arguments.folder / f"{name}.outputs")
        parameters = sum(parameter.numel() for parameter in net.parameters())
        print(f"{name}: {parameters:,} parameters, logits of std {outputs[f'logits{size}'].std():.3f}")


if __name__ == "__main__":
    main()
