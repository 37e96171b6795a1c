"""Checkpoints with odd content, as a damaged or hostile file has it: refused before anything is computed with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from googlenet import RunFolder, UserError
from googlenet.recipe import load_recipe, stored_recipe
from googlenet.training.optim import load_optimizer, make_optimizer
from googlenet.training.processes import make_accelerator
from googlenet.training.setup import Trainer
from tests.training.helpers import small_net

State = dict[str, Any]
CHANGES: tuple[Callable[[State], Any], ...] = (
    lambda state: state["progress"].update(step="1"),
    lambda state: state["progress"].update(step=True),
    lambda state: state["progress"].update(step=-1),
    lambda state: state["progress"].update(step=10**9),
    lambda state: state["progress"].update(epoch=5),
    lambda state: state["progress"].update(seconds=float("nan")),
    lambda state: state["progress"].update(seconds=1e300),
    lambda state: state["progress"].update(best_metrics={"step": 1}),
    lambda state: state["progress"].update(best_metrics={"step": 1, "epoch": "1"}),
    lambda state: state["progress"].update(best_metrics=[1]),
    lambda state: state["progress"].update(unrecorded=[1.0]),
    lambda state: state["progress"].update(unrecorded=["a", 1, 1, 1]),
    lambda state: state["progress"].update(other=1),
    lambda state: state["progress"].update({1: 1}),
    lambda state: state["input"].update(size=10**9),
    lambda state: state["input"].pop("mean"),
    lambda state: state["net"].popitem(),
    lambda state: state.update(net=[]),
    lambda state: state.update(average=None),
    lambda state: state.update(average={}),
    lambda state: state["optimizer"].pop("state"),
    lambda state: state["optimizer"].update(state=[1]),
    lambda state: state["optimizer"]["state"].update({0: {}, 1: {"step": torch.zeros(())}}),
    lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
    lambda state: state["optimizer"]["state"][0].update(exp_avg=0.5),
    lambda state: state["optimizer"]["state"][0].update(step=torch.zeros(3)),
    lambda state: state["optimizer"]["param_groups"].pop(),
    lambda state: state["optimizer"]["param_groups"][0].update(params=[0]),
)


def test_odd_values_are_refused(photos: Path) -> None:
    recipe = load_recipe(
        "fast", data=photos, image_size=28, batch_size=4, epochs=1.0, ema_decay=0.9, whiten=False, precision="fp32",
        optimizer="adamw", plots=False,
    )  # fmt: skip
    trainer = Trainer(recipe, make_accelerator(recipe), small_net(channels=1, classes=2))
    images, targets, _ = next(trainer.batches(0))
    F.cross_entropy(trainer.model(images), targets).backward()
    trainer.optimizer.step()
    trainer.state.step = 1
    intact = copy.deepcopy(trainer.state_dict())
    trainer.load_state_dict(copy.deepcopy(intact))
    assert trainer.step == 1
    for number, change in enumerate(CHANGES):
        state = copy.deepcopy(intact)
        change(state)
        with pytest.raises(UserError):
            trainer.load_state_dict(state)
            pytest.fail(f"change {number} was accepted")
    with pytest.raises(UserError):
        stored_recipe(intact["recipe"] | {3: 4})


def test_settings_of_the_optimizer_are_those_of_the_recipe() -> None:
    net = small_net()
    for name in ("sgd", "adam", "adamw", "muon"):
        recipe = load_recipe("fast", optimizer=name)
        optimizer = make_optimizer(net, [], recipe)
        net(torch.zeros(2, 1, 28, 28)).sum().backward()
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0]["lr"] = "hostile"
        again = make_optimizer(net, [], recipe)
        load_optimizer(again, saved)
        assert again.param_groups[0]["lr"] == recipe.learning_rate
        assert again.state_dict()["state"].keys() == saved["state"].keys()
        again.step()
        for state in saved["state"].values():
            state["other"] = state.pop("step" if name != "sgd" else "momentum_buffer")
        with pytest.raises(ValueError, match="other"):
            load_optimizer(make_optimizer(net, [], recipe), saved)


@pytest.mark.parametrize("content", [[], {"recipe": {}}, {"recipe": [], "data": "", "input": {}, "progress": {}}])
def test_a_checkpoint_that_is_something_else(content: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match="damaged"):
        RunFolder(tmp_path).load_checkpoint()
