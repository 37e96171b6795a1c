"""A signal to one of several processes."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from googlenet.training.interruption import Interruption


@pytest.mark.parametrize("elsewhere", [0, signal.SIGTERM])
@pytest.mark.parametrize("here", [0, signal.SIGINT])
def test_a_signal_while_processes_ask_each_other_is_kept(here: int, elsewhere: int) -> None:
    interruption = Interruption()

    def gather(number: Tensor) -> Tensor:
        interruption.number = here
        return torch.cat((number, torch.tensor([elsewhere])))

    accelerator: Any = SimpleNamespace(num_processes=2, device=torch.device("cpu"), gather=gather)
    assert interruption.requested_anywhere(accelerator) == (elsewhere != 0)
    assert interruption.number == (here or elsewhere)
    assert interruption.requested_anywhere(accelerator) == bool(here or elsewhere)
