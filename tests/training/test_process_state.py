"""A call of the library leaves the process as it was."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import random
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import googlenet
from googlenet.recipe import load_recipe
from googlenet.training.lr_finder import find_learning_rate
from tests.conftest import TINY
from tests.training.helpers import small_net

pytestmark = pytest.mark.usefixtures("small_data")


def process_state() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    loggers = [None, "googlenet", "accelerate", "matplotlib", "PIL"]
    return {
        "warnings": list(warnings.filters),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[union-attr]  # noqa: NPY002
        "python": random.getstate(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "logging": [(logging.getLogger(name).level, len(logging.getLogger(name).handlers)) for name in loggers],
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "folder": Path.cwd(),
    }


@pytest.mark.parametrize("settings", [{"tracker": "none"}, {"precision": "bf16", "plots": True}, {"seed": 5}])
def test_train(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    before, callbacks = process_state(), []
    for name in "abc":
        googlenet.train(
            output=tmp_path / name, model=small_net(), **{**TINY, "image_size": 28, "max_steps": 2, **settings}
        )
        assert process_state() == before
        callbacks.append(atexit._ncallbacks())  # type: ignore[attr-defined]
    assert callbacks[2] == callbacks[1]


def test_a_run_that_fails(tmp_path: Path) -> None:
    before = process_state()

    def fail(_: object) -> None:
        raise RuntimeError("of the caller")

    for name in "ab":
        with pytest.raises(RuntimeError):
            googlenet.train(output=tmp_path / name, model=small_net(), on_step=fail, **{**TINY, "image_size": 28})
    assert process_state() == before


def test_the_other_functions(trained: googlenet.TrainingResult, tmp_path: Path, images: Path) -> None:
    torch.manual_seed(4)
    before = process_state()
    net = googlenet.load(trained.model)
    assert process_state() == before
    googlenet.evaluate(net)
    list(googlenet.Predictor(trained.model).predict([images / "0.png"]))
    googlenet.explain(net, images / "0.png")
    googlenet.ablate(net, max_images=10)
    assert process_state() == before
    with contextlib.suppress(googlenet.UserError):  # noise may hide what a search looks for
        find_learning_rate(load_recipe("fast", **{**TINY, "batch_size": 64}), tmp_path / "rates.png", steps=20)
    assert process_state() == before


def test_environment_variables(tmp_path: Path) -> None:
    before = dict(os.environ)
    googlenet.train(output=tmp_path / "run", model=small_net(), **{**TINY, "image_size": 28, "max_steps": 1})
    assert dict(os.environ) == before
