"""A network on a GPU as CUDA graphs: recorded once for each shape of batch, then replayed with one call from Python."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

_EAGER_CALLS = 2  # with a shape before it is recorded: the last, smaller batch of a folder comes once
_MOST_GRAPHS = 4  # each holds memory for its maps


class GraphedNetwork:
    """Computes what a network computes, without the GPU waiting for Python to start each kernel.

    GoogLeNet has many small layers: for a few images, starting their kernels takes longer than running them. Threads
    may share it. Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        """`network` takes inputs (N, C, H, W) on a GPU and returns logits (N, classes)."""
        self._network = network
        self._lock = threading.Lock()
        self._calls: Counter[torch.Size] = Counter()
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    @torch.inference_mode()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes), float32, on the CPU."""
        with self._lock:  # a graph's tensors are overwritten by the next call
            if inputs.shape not in self._graphs:
                self._calls[inputs.shape] += 1
                if self._calls[inputs.shape] <= _EAGER_CALLS or len(self._graphs) == _MOST_GRAPHS:
                    return self._network(inputs).float().cpu()
                self._graphs[inputs.shape] = self._record(inputs)
            graph, recorded, logits = self._graphs[inputs.shape]
            recorded.copy_(inputs)
            graph.replay()
            return logits.cpu()

    def _record(self, inputs: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        graph, recorded = torch.cuda.CUDAGraph(), inputs.clone()
        # Another thread may use the GPU for something else meanwhile
        with torch.cuda.device(inputs.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = self._network(recorded).float()
        return graph, recorded, logits
