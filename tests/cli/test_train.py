"""googlenet train: its help, what it prints, and files in the home folder."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from googlenet import Recipe, RunFolder
from googlenet.recipe import GROUPS, settings_of_recipes
from tests.conftest import Call, needs_signals

pytestmark = pytest.mark.usefixtures("small_data")

TINY = ("--image-size", 16, "--stem-stride", 2, "--batch-size", 32, "--precision", "fp32", "--no-plots")
ONE_STEP = (*TINY, "--max-steps", 1, "--max-test-images", 20)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def train_help() -> str:
    """In a process of its own, which must not import torch."""
    program = (
        "import sys, os; os.environ['COLUMNS'] = '160'; sys.argv = ['googlenet', 'train', '--help']\n"
        "from googlenet.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'matplotlib', 'accelerate'} & set(sys.modules), 'slow imports'"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_help_is_in_groups(train_help: str) -> None:
    groups = ["Network", "Starting weights", "Data", "Augmentation", "Optimization", "Evaluation", "Machine", "Logging"]
    assert list(GROUPS.values()) == groups
    places = [train_help.index(f" {group} ") for group in groups]
    assert places == sorted(places)
    firsts = [train_help.index(f"--{name.replace('_', '-')}") for name in GROUPS]
    assert all(place < first for place, first in zip(places, firsts, strict=True))


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_setting_has_help_and_a_default(name: str, train_help: str) -> None:
    words = " ".join(train_help.replace("│", " ").split())
    option = words[words.index(f"--{name.replace('_', '-')} ") :]
    description = (Recipe.model_fields[name].description or "").partition("; default: ")[0]
    assert description[1:] in option[: 2 * len(description) + 200]
    text = option[option.index(description[1:]) :].partition("]")[0]
    assert "[default: " in text
    assert ("recipe" in text) == (name in settings_of_recipes())


def test_a_run_and_its_next_command(call: Call) -> None:
    folder = 'my runs/it\'s "a" run; $HOME'
    out, _ = call("train", *ONE_STEP, "--output", folder)
    assert f"run folder: {folder}" in out
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    command, *arguments = shlex.split(line.removeprefix("next: "))
    assert shutil.which(command) or Path(command).name == "googlenet"
    assert arguments[:2] == ["predict", str(RunFolder(folder).model)]
    assert Path(arguments[1]).exists()


@needs_signals
def test_the_command_to_continue(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from googlenet.training import loop

    train_step = loop.train_step

    def interrupted(*args: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return train_step(*args, **options)

    folder = "my runs/it's one"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        out, _ = call("train", *TINY, "--max-steps", 3, "--max-test-images", 20, "--output", folder, code=130)
    (line,) = [line for line in out.splitlines() if "--resume" in line]
    words = shlex.split(line.partition("continue: ")[2])
    assert words[1:] == ["train", "--resume", "--output", folder]
    out, _ = call(*words[1:], "--json")
    assert json.loads(out)["metrics"]["step"] == 3


def test_json_is_all_of_standard_output(call: Call) -> None:
    out, err = call("train", *ONE_STEP, "--validation", 0.1, "--output", "runs/v", "--json")
    result = json.loads(out)
    assert (result["folder"], result["model"]) == ("runs/v", "runs/v/model.safetensors")
    assert result["metrics"]["step"] == 1 and result["interrupted"] is False
    assert result["temperature"] != 1
    assert "parameters" in err
    metrics = json.loads(call("evaluate", "runs/v", "--json")[0])
    assert metrics["calibration"]["temperature"] == result["temperature"]


def test_paths_in_the_home_folder(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The shell does not expand the tilde in `--output=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    call("train", *ONE_STEP, "--output=~/runs/x")
    assert RunFolder(tmp_path / "runs" / "x").model.exists()
    call("draw", "bn", "--output=~/net.svg")
    assert (tmp_path / "net.svg").exists()
    assert list(Path().iterdir()) == []


def test_find_learning_rate(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from googlenet.training import lr_finder

    seen = []

    def search(recipe: Recipe, output: Path) -> lr_finder.LearningRateSearch:
        seen.append((recipe.batch_size, output))
        return lr_finder.LearningRateSearch((0.001, 0.01), (2.3, 2.1), 0.01)

    monkeypatch.setattr(lr_finder, "find_learning_rate", search)
    assert "--learning-rate 0.01" in call("train", "--find-learning-rate", "--batch-size", 16)[0]
    out, _ = call("train", "--find-learning-rate", "-o", "plots/rates.png", "--json")
    assert json.loads(out)["suggestion"] == 0.01
    assert seen == [(16, Path("learning_rate.png")), (128, Path("plots/rates.png"))]


def test_options_that_exclude_each_other(call: Call) -> None:
    _, err = call("train", "--find-learning-rate", "--resume", code=2)
    assert "--find-learning-rate" in err and "--resume" in err
    _, err = call("train", "--no-normalize", "--weights", "x.safetensors", code=2)
    assert "normalize" in err
