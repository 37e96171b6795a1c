"""The training step as a CUDA graph, on stand-ins for CUDA: which batches are replayed, and what they read.

That a graph computes what the step computes needs a GPU; docs/performance.md says how that was tested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import googlenet
from googlenet.recipe import Recipe
from googlenet.training.graph import GraphedStep
from googlenet.training.optim import make_optimizer, set_learning_rate


class Graph:
    """Replays by calling the recorded step again."""

    replays = 0
    step: Callable[[], None]

    def replay(self) -> None:
        Graph.replays += 1
        self.step()


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[GraphedStep, list[tuple[int, ...]], Any]]:
    recipe = Recipe(optimizer="muon", image_size=32)
    net = googlenet.create_model("bn", num_classes=10, in_channels=1)
    optimizer = make_optimizer(net, net.classifiers(), recipe)
    eager: list[tuple[int, ...]] = []

    def step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        eager.append(tuple(inputs.shape))
        return inputs.sum() + targets.sum(), inputs * optimizer.param_groups[0]["lr"]

    take_step = GraphedStep(step, optimizer)

    @contextlib.contextmanager
    def record(graph: Graph) -> Iterator[None]:
        yield

        def again() -> None:
            for old, new in zip(take_step._outputs, step(take_step._inputs, take_step._targets), strict=True):
                old.copy_(new)

        graph.step = again

    Graph.replays = 0
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    yield take_step, eager, (optimizer, recipe)


def test_a_replayed_step_reads_its_own_batch_and_rate(graphed: Any) -> None:
    take_step, _, (optimizer, recipe) = graphed
    for number in range(1, 8):
        set_learning_rate(optimizer, 0.5**number, recipe)
        inputs, targets = torch.full((4, 1, 2, 2), float(number)), torch.full((4,), number)
        loss, logits = take_step(inputs, targets)
        assert loss == 20 * number
        assert logits.unique() == number * 0.5**number
    assert Graph.replays == 4


def test_batches_of_another_shape_run_as_they_are(graphed: Any) -> None:
    take_step, eager, _ = graphed
    for count in (4, 4, 4, 4, 4, 3, 4):
        loss, _ = take_step(torch.ones(count, 1, 2, 2), torch.ones(count))
        assert loss == 5 * count
    assert Graph.replays == 3
    assert (3, 1, 2, 2) in eager


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_learning_rate_in_a_tensor_gives_the_same_weights(optimizer: Any) -> None:
    recipe = Recipe(optimizer=optimizer, weight_decay=0.1)
    weights = []
    for in_tensor in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        rule = make_optimizer(net, [net[2]], recipe)
        if in_tensor:
            for group in rule.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]))
        for step in range(1, 4):
            set_learning_rate(rule, 0.1 / step, recipe)
            net(torch.ones(2, 1, 4, 4)).square().sum().backward()
            rule.step()
            rule.zero_grad()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    torch.testing.assert_close(*weights)
