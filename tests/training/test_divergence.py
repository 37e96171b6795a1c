"""Losses and gradients that are NaN or infinite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from googlenet import RunError, RunFolder, Trainer, load_dataset, train
from googlenet.errors import DivergedError
from googlenet.training import divergence, loop
from tests.conftest import QUICK
from tests.training.helpers import rows, small_net, weights

pytestmark = pytest.mark.usefixtures("small_data")
RUN: dict[str, Any] = {**QUICK, "checkpoint_every": 4, "log_every": 1}


class Poisoned(nn.Module):
    """Its loss or its gradient is not finite in some of its calls in training, counted from 1."""

    def __init__(self, *calls: int, value: float = math.nan, gradient: bool = False) -> None:
        super().__init__()
        self.net, self.calls, self.value, self.gradient = small_net(), set(calls), value, gradient
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += self.training
        if not (self.training and self.count in self.calls):
            return self.net(x)
        if self.gradient:
            output = self.net(x)
            output.register_hook(lambda gradient: gradient * self.value)
            return output
        return self.net(x * self.value)  # the statistics of batch norm become NaN as well


@pytest.mark.parametrize(("value", "gradient"), [(math.nan, False), (math.inf, False), (math.inf, True)])
def test_the_step_is_named_and_its_batch_is_saved(value: float, gradient: bool, tmp_path: Path) -> None:
    seen: list[int] = []
    model = Poisoned(13, value=value, gradient=gradient)
    with pytest.raises(DivergedError, match=r"step 13 \(epoch 2, batch 3.*--on-nan") as error:
        train(output=tmp_path / "run", model=model, on_step=lambda trainer: seen.append(trainer.step), **RUN)
    assert seen[-1] == 12 and all(parameter.isfinite().all() for parameter in model.parameters())
    path = tmp_path / "run" / "nan" / "step-13.safetensors"
    assert str(path) in str(error.value)
    split = load_dataset().train
    with safe_open(path, framework="pt") as file:
        numbers = [int(name) for name in json.loads(file.metadata()["files"])]
        assert file.get_tensor("inputs").shape == (32, 1, 28, 28)
        assert torch.equal(file.get_tensor("labels"), split.labels[torch.tensor(numbers)])
    assert RunFolder(tmp_path / "run").load_checkpoint()["progress"]["step"] == 12


def test_skipping_leaves_the_network_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before: dict[int, dict[str, Tensor]] = {}

    def look(trainer: Trainer) -> None:
        before[trainer.step] = {name: tensor.clone() for name, tensor in trainer.net.state_dict().items()}

    result = train(output=tmp_path / "run", model=Poisoned(1, 13, 14), on_step=look, on_nan="skip", **RUN)
    assert all(torch.equal(tensor, before[14][name]) for name, tensor in before[12].items())
    assert not torch.equal(before[12]["net.0.weight"], before[15]["net.0.weight"])
    assert all(tensor.isfinite().all() for tensor in weights(result.folder).values())
    steps = [row["step"] for row in rows(result) if row["split"] == "train"]
    assert steps == [step for step in range(1, 21) if step not in (1, 13, 14)]
    names = sorted(path.name for path in (result.folder / "nan").iterdir())
    assert names == [f"step-{step}.safetensors" for step in (1, 13, 14)]


def test_skipping_a_clipped_step_in_fp16() -> None:
    """The scaler of accelerate's fp16, which needs a GPU, on a CPU."""
    net = nn.Linear(3, 2)
    scaler, rule = torch.amp.GradScaler("cpu", init_scale=8.0), torch.optim.SGD(net.parameters(), lr=1)

    class Optimizer:
        zero_grad = rule.zero_grad

        def step(self) -> None:
            scaler.step(rule)
            scaler.update()

    class Accelerator:
        def __init__(self) -> None:
            self.scaler = scaler

        def backward(self, loss: Tensor) -> None:
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

        def clip_grad_norm_(self, parameters: Any, norm: float) -> None:
            scaler.unscale_(rule)
            nn.utils.clip_grad_norm_(parameters, norm)

    optimizer, accelerator = cast(Any, Optimizer()), cast(Any, Accelerator())
    x, y = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
    before = net.weight.detach().clone()
    for accepted in (False, True):
        loop.train_step(
            net, optimizer, x, y, criterion=lambda output, target: nn.functional.cross_entropy(output, target),
            accelerator=accelerator, gradient_clip=1e-3, accepts=lambda _, answer=accepted: answer,
        )  # fmt: skip
        change = (net.weight - before).norm()
        assert 0 < change <= 1.01e-3 if accepted else change == 0


def test_not_every_batch_is_skipped(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=f"{divergence.SKIPS} batches"):
        train(output=tmp_path / "run", model=Poisoned(*range(3, 99)), on_nan="skip", **RUN)
    saved = len(list((tmp_path / "run" / "nan").iterdir()))
    assert saved == divergence.SKIPS


def test_a_rollback_continues_from_the_checkpoint_at_half_the_rate(tmp_path: Path) -> None:
    settings = {**RUN, "schedule": "constant", "ema_decay": 0.5}
    result = train(output=tmp_path / "run", model=Poisoned(2, 9, 22), on_nan="rollback", **settings)
    train_rows = [row for row in rows(result) if row["split"] == "train"]
    assert [row["step"] for row in train_rows] == list(range(1, 21))
    # Call 2 returned to the start, call 9 from step 8 to 4, call 22 from step 17 to 16
    scales = [row["learning_rate"] / QUICK["learning_rate"] for row in train_rows]
    assert scales == [0.5] * 4 + [0.25] * 12 + [0.125] * 4
    assert all(tensor.isfinite().all() for tensor in weights(result.folder).values())
    assert len([row for row in rows(result) if row["split"] == "test"]) == 2


def test_a_rollback_does_not_go_behind_the_saved_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if checkpoints are expensive."""
    monkeypatch.setattr(loop, "SAVING_SHARE", 0)
    settings = {**QUICK, "max_steps": 13, "learning_rate": 1e-9, "select_by": "test"}
    result = train(output=tmp_path / "run", model=Poisoned(12), on_nan="rollback", **settings)
    assert any(path.name.startswith("step-10-") for path in RunFolder(result.folder).checkpoints())


@pytest.mark.parametrize("first", [1, 7])
def test_rollbacks_are_bounded(first: int, tmp_path: Path) -> None:
    model = Poisoned(*range(first, 999))
    with pytest.raises(RunError, match=f"{divergence.ROLLBACKS} rollbacks"):
        train(output=tmp_path / "run", model=model, on_nan="rollback", **RUN)
    assert model.count < 6 + 9 * divergence.ROLLBACKS
