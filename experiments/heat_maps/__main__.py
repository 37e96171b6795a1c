"""Compare heat maps on a trained network: python -m experiments.heat_maps MODEL --data fashion-mnist --fill 0"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

import googlenet
from experiments.heat_maps.checks import deletion_and_insertion, is_hit, on_background, rank_correlation
from experiments.heat_maps.methods import methods
from googlenet.explanation.heat_maps import hide
from googlenet.model.fuse import folded


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="fashion-mnist", help="a data set; its test images are used")
    parser.add_argument("--fill", type=float, default=0.5, help="gray level of what deletion hides, 0 to 1")
    parser.add_argument("--deletion", type=int, default=100, help="images for deletion and insertion")
    parser.add_argument("--pointing", type=int, default=50, help="composed images for the pointing game")
    parser.add_argument("--randomization", type=int, default=10, help="images for randomized weights")
    parser.add_argument("--methods", nargs="*", help="part of the names of the methods; default: all")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    plain = googlenet.load(arguments.model)
    info = plain.info
    net = folded(plain).requires_grad_(False)
    fresh = googlenet.create_model(
        info.architecture.variant, num_classes=len(info.classes), in_channels=info.input.channels,
        stem_stride=info.architecture.stem_stride, initialization="he",
    )  # fmt: skip
    random = folded(fresh).requires_grad_(False)
    test = googlenet.load_dataset(arguments.data, size=info.input.size, splits=("test",)).test
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (info.input.mean, info.input.std))

    def inputs(count: int) -> list[Tensor]:
        places = torch.linspace(0, len(test) - 1, min(count, len(test))).long()
        return list(info.input.prepare(test.images[places]).split(1))

    chosen = arguments.methods
    compared, randomized = methods(net), methods(random)
    names = [name for name in compared if not chosen or any(part in name for part in chosen)]
    scores: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    for x in inputs(arguments.deletion):
        fill = ((arguments.fill - mean) / std).expand_as(x)
        target = _predicted(net, x)
        for name in names:
            start = time.process_time()
            evidence = compared[name](x, hide(x), target)
            scores[name]["seconds"].append(time.process_time() - start)
            deletion, insertion = deletion_and_insertion(net, x, fill, evidence, target)
            scores[name]["deletion"].append(deletion)
            scores[name]["insertion"].append(insertion)
    generator = torch.Generator().manual_seed(0)
    for x in inputs(arguments.pointing):
        image, box = on_background((x * std + mean)[0], generator)
        composed, target = (image[None] - mean) / std, _predicted(net, x)
        if _predicted(net, composed) != target:  # the network may be right to look elsewhere
            continue
        for name in names:
            evidence = compared[name](composed, hide(composed), target)
            scores[name]["pointing"].append(float(is_hit(evidence, composed.shape[2:], box)))
    for x in inputs(arguments.randomization):
        target = _predicted(net, x)
        for name in names:
            pair = (each[name](x, hide(x), target) for each in (compared, randomized))
            scores[name]["randomization"].append(rank_correlation(*pair))
    report = {
        name: {check: {"mean": statistics.fmean(values), "images": len(values)} for check, values in checks.items()}
        for name, checks in scores.items()
    }
    arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, checks in report.items():
        print(f"{name:30}", *(f"{check} {value['mean']:.3f} ({value['images']})" for check, value in checks.items()))


def _predicted(net: torch.nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return int(net(x).argmax())


if __name__ == "__main__":
    main()
