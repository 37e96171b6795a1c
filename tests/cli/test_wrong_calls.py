"""Usage errors of the command as a whole and of train; the other commands' are in their own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from googlenet.recipe import RENAMED
from tests.conftest import Call


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("trian",), "trian"),
        (("bench",), "bench"),
        (("compare", "bn"), "compare"),
        (("study", "convergence"), "study"),
        (("train", "--learning-rate", 0), "learning_rate = 0"),
        (("train", "--learning-rate", -1), "learning_rate = -1"),
        (("train", "--learning-rate", "fast"), "--learning-rate"),
        (("train", "--epochs", "nan"), "epochs = nan"),
        (("train", "--recipe", "slow"), "'slow'"),
        (("train", "--recipe", "slow.toml"), "slow.toml"),
        (("train", "--variant", "v9"), "v9"),
        (("train", "--optimizer", "sdg"), "--optimizer"),
        (("train", "--data", "mnist"), "'mnist'"),
        (("train", "--data", "taken"), "'taken'"),
        (("train", "--batch-size", 70_000, "--data-dir", "bundled"), "batch_size = 70000"),
        (("train", "--resume"), "--output"),
        (("train", "--resume", "--output", "runs/x"), "runs/x"),
        (("train", "--resume", "runs/x"), "'runs/x'"),
        (("train", "--output", "taken"), "taken"),
        (("train", "--output", "taken/run"), "taken/run"),
        (("train", "--whiten", "--variant", "paper"), "whiten"),
        (("train", "--nesterov", "--momentum", 0), "nesterov"),
        (("train", "--weights", "taken", "--data-dir", "bundled"), "taken"),
        (("train", "--freeze-fraction", 0.5), "weights"),
        (("train", "--find-learning-rate", "--output", "runs/x"), ".png"),
    ],
)
def test_a_usage_error_is_one_line_and_leaves_no_file(arguments: tuple[object, ...], name: str, call: Call) -> None:
    Path("taken").write_text("not a folder, not a model")
    _, err = call(*arguments, code=2)
    assert name in err
    assert [path.name for path in Path().iterdir()] == ["taken"]


@pytest.mark.parametrize("old", [*RENAMED, "num_workers", "blocks"])
def test_options_of_version_0_1(old: str, call: Call) -> None:
    _, err = call("train", f"--{old.replace('_', '-')}", 1, code=2)
    assert f"--{old.replace('_', '-')}" in err
