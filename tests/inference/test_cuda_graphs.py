"""The network as CUDA graphs, on stand-ins for CUDA: which batches are recorded, and what a replay reads.

That a graph computes what the network computes needs a GPU; docs/performance.md says how that was tested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from googlenet.inference.cuda_graphs import _MOST_GRAPHS, GraphedNetwork


class Graph:
    """Replays by calling the recorded network again."""

    replays = 0
    again: Callable[[], None]

    def replay(self) -> None:
        Graph.replays += 1
        self.again()


class Network(GraphedNetwork):
    def _record(self, inputs: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        graph, recorded, logits = super()._record(inputs)
        graph.again = lambda: logits.copy_(self._network(recorded))  # type: ignore[attr-defined]
        logits.zero_()  # a graph computes nothing while it is recorded
        return graph, recorded, logits


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> GraphedNetwork:
    @contextlib.contextmanager
    def record(graph: Graph, capture_error_mode: str) -> Iterator[None]:
        yield

    Graph.replays = 0
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return Network(lambda inputs: inputs.sum(dim=(2, 3)))


def inputs(size: int, value: float) -> Tensor:
    return torch.full((size, 1, 2, 2), value)


def test_each_call_gives_its_own_logits(network: GraphedNetwork) -> None:
    results = [network(inputs(3, value)) for value in range(6)]
    assert [result.unique().tolist() for result in results[:2]] == [[0], [4]]
    assert results[5].unique().tolist() == [20]
    assert Graph.replays == 4


def test_an_odd_last_batch_is_not_recorded(network: GraphedNetwork) -> None:
    for size in (4, 4, 4, 4, 3):
        assert network(inputs(size, 1.0)).tolist() == [[4.0]] * size
    assert Graph.replays == 2


def test_the_number_of_graphs_is_bounded(network: GraphedNetwork) -> None:
    for size in range(1, _MOST_GRAPHS + 4):
        for value in range(4):
            assert network(inputs(size, value)).tolist() == [[4.0 * value]] * size
    assert Graph.replays == 2 * _MOST_GRAPHS
