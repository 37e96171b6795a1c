"""Test heat maps on a trained network: python -m experiments.heat_maps runs/fast --gray 0 --output heat-maps.json"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

import googlenet
from experiments.heat_maps.checks import among_others, deletion_and_insertion, is_hit, on_clouds, rank_correlation
from experiments.heat_maps.methods import METHODS, Case


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", help="a data set, whose test images are used; default: the training data")
    parser.add_argument(
        "--gray", type=float, default=0.5, help="what deletion hides pixels in, from black 0 to white 1"
    )
    parser.add_argument("--deletion", type=int, default=100, help="test images for deletion and insertion")
    parser.add_argument("--pointing", type=int, default=100, help="test images for each pointing game")
    parser.add_argument("--randomization", type=int, default=20, help="test images for randomized weights")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="their names")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    arguments = parse_arguments(words)
    net = googlenet.load(arguments.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = arguments.data or net.info.recipe["data"]
    spec = net.info.input
    test = googlenet.load_dataset(data, size=spec.size, channels=spec.channels, splits=("test",)).test
    scores: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in arguments.methods}

    def some(count: int) -> Tensor:
        return test.images[torch.linspace(0, len(test) - 1, min(count, len(test))).long()]

    for image in some(arguments.deletion):
        case = Case(net, image, _predicted(net, image))
        for name, score in scores.items():
            start = time.process_time()
            evidence = METHODS[name](case)
            score["seconds"].append(time.process_time() - start)
            deletion, insertion = deletion_and_insertion(case, evidence, arguments.gray)
            score["deletion"].append(deletion)
            score["insertion"].append(insertion)
    write(scores, arguments.output)
    generator = torch.Generator().manual_seed(0)
    images = some(arguments.pointing)
    classes = torch.tensor([_predicted(net, image) for image in images])
    wide = _with_size(net, 2 * spec.size)
    for image, target in zip(images, classes.tolist(), strict=True):
        composed, box = on_clouds(image, generator)
        for name, score in scores.items():
            score["clouds"].append(is_hit(METHODS[name](Case(net, composed, target)), composed.shape[1:], box))
        others = (classes != target).nonzero()[:, 0]
        others = others[torch.randperm(len(others), generator=generator)[:3]]
        if len(others) < 3:
            continue
        composed, box = among_others(torch.cat([image[None], images[others]]), generator)
        for name, score in scores.items():
            score["others"].append(is_hit(METHODS[name](Case(wide, composed, target)), composed.shape[1:], box))
    write(scores, arguments.output)
    torch.manual_seed(0)
    architecture = dataclasses.replace(net.info.architecture, initialization="he")
    random = googlenet.GoogLeNet(architecture).eval()
    random.info = dataclasses.replace(net.info, architecture=architecture)
    for image in some(arguments.randomization):
        target = _predicted(net, image)
        for name, score in scores.items():
            first, second = (METHODS[name](Case(each, image, target)) for each in (net, random))
            score["randomized"].append(rank_correlation(first, second, image.shape[1:]))
    write(scores, arguments.output)


def write(scores: dict[str, dict[str, list[float]]], output: Path) -> None:
    """The mean of each score and the number of images, as JSON and on the screen."""
    report = {
        name: {check: {"mean": statistics.fmean(values), "images": len(values)} for check, values in score.items()}
        for name, score in scores.items()
    }
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, checks in report.items():
        figures = (f"{check} {value['mean']:.3f} ({value['images']})" for check, value in checks.items())
        print(f"{name:30}", *figures, flush=True)


def _with_size(net: googlenet.GoogLeNet, size: int) -> googlenet.GoogLeNet:
    """The same network for larger images, which it sees at the scale that it was trained on."""
    twin = googlenet.GoogLeNet(net.architecture).eval()
    twin.load_state_dict(net.state_dict(), assign=True)
    twin.info = dataclasses.replace(net.info, input=dataclasses.replace(net.info.input, size=size))
    return twin


def _predicted(net: googlenet.GoogLeNet, image: Tensor) -> int:
    with torch.no_grad():
        return int(net(net.info.input.prepare(image[None])).argmax())


if __name__ == "__main__":
    main()
