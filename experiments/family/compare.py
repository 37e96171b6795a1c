"""Whether weights of other packages give equal outputs here: reads what `reference.py` wrote.

python -m experiments.family.compare FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import googlenet


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the largest of their values."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(f"{'network':<34}{'parameters':>12}  largest difference, relative, by size")
    for path in sorted(parser.parse_args().folder.glob("*.pth")):
        expected = torch.load(path.with_suffix(".outputs"), weights_only=True)
        net = googlenet.import_weights(path)
        # Caffe's order of the channels is BGR, which importing changes to RGB
        inputs = {name: x.flip(1) if "bninception" in path.stem else x for name, x in expected.items()}
        differences = {}
        with torch.no_grad():
            for name, logits in expected.items():
                if name.startswith("logits"):
                    size = name.removeprefix("logits")
                    differences[size] = largest_difference(net(inputs[f"x{size}"]), logits)
            if "train" in expected:
                net.dropout.p = 0.0
                output = net.train()(inputs[f"x{net.architecture.usual_size}"])
                differences["training"] = largest_difference(output.logits, expected["train"])
                differences["head"] = largest_difference(output.aux1, expected["head"])
        parameters = sum(parameter.numel() for parameter in net.parameters())
        shown = "  ".join(f"{name}: {value:.0e}" for name, value in differences.items())
        print(f"{path.stem:<34}{parameters:>12,}  {shown}", flush=True)


if __name__ == "__main__":
    main()
