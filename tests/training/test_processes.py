"""What several processes need, in one; tests/end_to_end and tests/soak start several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from googlenet import RunError, RunFolder, Trainer, UserError, train
from googlenet.training.loop import train_step
from googlenet.training.processes import explained_losses, synchronized
from tests.conftest import TINY
from tests.training.helpers import assert_same_weights, rows_without_times, small_net

RUN: dict[str, Any] = {**TINY, "image_size": 28, "checkpoint_every": 3}


class Killed(BaseException):
    """Ends a run at any place, as a kill would."""


def die(trainer: Trainer) -> None:
    if trainer.step == 7:
        raise Killed


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("variable", [("TORCHELASTIC_RESTART_COUNT", "1"), ("TORCHELASTIC_RUN_ID", "a-job")])
def test_what_torchrun_restarts_continues(
    variable: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a-job")
    whole = train(output=tmp_path / "whole", model=small_net(), **RUN)
    with pytest.raises(Killed):
        train(output=tmp_path / "killed", model=small_net(), on_step=die, **RUN)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another-job")
    with pytest.raises(UserError, match="not empty"):
        train(output=tmp_path / "killed", model=small_net(), **RUN)
    monkeypatch.setenv(*variable)
    continued = train(output=tmp_path / "killed", model=small_net(), **RUN)
    assert_same_weights(whole.folder, continued.folder)
    assert rows_without_times(whole) == rows_without_times(continued)


@pytest.mark.usefixtures("small_data")
def test_what_torchrun_restarts_before_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    result = train(output=tmp_path / "run", model=small_net(), **{**RUN, "max_steps": 1})
    assert RunFolder(result.folder).rows()[-1]["step"] == 1
    with pytest.raises(UserError, match="--output"):
        train(model=small_net(), **RUN)


class Accelerator:
    """Of one process that is taken for the first of two."""

    num_processes, scaler, device = 2, None, torch.device("cpu")

    def __init__(self) -> None:
        self.silent = 0

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @contextlib.contextmanager
    def no_sync(self, _: nn.Module) -> Iterator[None]:
        self.silent += 1
        yield


def test_gradients_are_exchanged_once_and_count_every_image_the_same() -> None:
    images, labels = torch.randn(7, 1, 28, 28), torch.arange(7)
    nets = [small_net().eval() for _ in range(3)]
    gradients = []
    for net, part in zip(nets, (slice(None), slice(0, None, 2), slice(1, None, 2)), strict=True):
        accelerator, optimizer = Accelerator(), torch.optim.SGD(net.parameters(), 1.0)
        before = [parameter.detach().clone() for parameter in net.parameters()]
        shares = [7] if part == slice(None) else [4, 3]
        train_step(
            net, optimizer, images[part], labels[part], criterion=nn.functional.cross_entropy, accelerator=accelerator,
            parts=3, shares=shares,
        )  # fmt: skip
        # As many parts in both processes, and none of a single image
        assert accelerator.silent == (2 if part == slice(None) else 0)
        gradients.append([old - new for old, new in zip(before, net.parameters(), strict=True)])
    for whole, first, second in zip(*gradients, strict=True):
        torch.testing.assert_close((first + second) / 2, whole)


def test_a_lost_process_is_an_error_of_one_line() -> None:
    gone = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:63: Connection reset by peer")
    for error in (gone, distributed.DistNetworkError("the client socket has timed out")):
        with (
            pytest.raises(RunError, match=r"--process-timeout.*(10\.0\.0\.2|timed out).*--resume"),
            explained_losses(5),
        ):
            raise error
    for other in (RuntimeError("shapes"), RunError("cannot write /data/gloo/x")):
        with pytest.raises(RuntimeError) as raised, explained_losses(5):
            raise other
        assert raised.value is other


def test_batch_norm_is_synchronized_within_the_block_only() -> None:
    net = small_net()
    for device, processes, expected in (("cuda", 2, nn.SyncBatchNorm), ("cuda", 1, nn.BatchNorm2d)):
        accelerator: Any = SimpleNamespace(device=torch.device(device), num_processes=processes)
        with synchronized(net, accelerator):
            assert type(net[1]) is expected
        assert type(net[1]) is nn.BatchNorm2d and "process_group" not in vars(net[1])
