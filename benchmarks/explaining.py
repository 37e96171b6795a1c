"""Seconds of `explain` and `visualize` on this machine: python -m benchmarks.explaining

The networks have random weights, on which these times do not depend.
"""

from __future__ import annotations

import statistics
import time

import torch

import googlenet


def network(size: int, channels: int, num_classes: int = 10) -> googlenet.GoogLeNet:
    net = googlenet.create_model(
        "bn", num_classes=num_classes, in_channels=channels, stem_stride=1 if size == 28 else 2
    )
    spec = googlenet.InputSpec(channels, size, (0.5,) * channels, (0.5,) * channels)
    net.info = googlenet.ModelInfo(net.architecture, tuple(f"class {index}" for index in range(num_classes)), spec)
    return net.eval()


def main(rounds: int = 5) -> None:
    print(f"{torch.get_num_threads()} threads")
    for size, channels in ((28, 1), (96, 3), (224, 3)):
        net, seconds = network(size, channels), []
        image = torch.randint(0, 256, (channels, size, size), dtype=torch.uint8)
        googlenet.explain(net, image)
        for _ in range(rounds):
            started = time.perf_counter()
            googlenet.explain(net, image)
            seconds.append(time.perf_counter() - started)
        print(f"explain, {size}x{size}: {statistics.median(seconds):.2f} s (median of {rounds})")
    net, started = network(224, 3, 1000), time.perf_counter()
    googlenet.visualize(net, "4c:100", steps=256)
    print(f"visualize 4c:100, 224x224, 256 steps: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
