"""`film`: one frame before training and one per evaluation, also of a resumed run, which trains as without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from googlenet import RunError, Trainer, TrainingResult, create_model, train
from tests.conftest import QUICK, TINY
from tests.training.helpers import assert_same_weights, small_net
from tests.training.test_resume import Killed, killed_at

pytestmark = pytest.mark.usefixtures("small_data")


def frames(result: TrainingResult) -> list[int]:
    """The steps of the frames; the film has as many."""
    steps = sorted(int(path.stem) for path in (result.folder / "film").iterdir())
    with Image.open(result.folder / "film.webp") as film:
        assert getattr(film, "n_frames", 0) == len(steps)
    return steps


def test_a_killed_run_neither_loses_nor_repeats_frames(tmp_path: Path) -> None:
    plain = train(output=tmp_path / "plain", model=small_net(), **QUICK)
    settings = {**QUICK, "film": True}
    with pytest.raises(Killed):
        train(output=tmp_path / "killed", model=small_net(), on_step=killed_at(14), **settings)
    killed = tmp_path / "killed" / "film"
    # As if the kill had come between the frame of an evaluation and its checkpoint
    (killed / "000000020.png").write_bytes(b"half a frame")
    resumed = train(output=tmp_path / "killed", model=small_net(), resume=True)
    assert frames(resumed) == [0, 10, 20]
    assert_same_weights(plain.folder, resumed.folder)
    assert not (plain.folder / "film").exists() and not (plain.folder / "film.webp").exists()


def test_a_film_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is where its folder should be."""
    settings = {**QUICK, "film": True, "max_steps": 1}

    def block(trainer: Trainer) -> None:
        shutil.rmtree(folder / "film")
        (folder / "film").touch()

    folder = tmp_path / "stops"
    with pytest.raises(RunError, match=r"film.*\.png"):
        train(output=folder, model=small_net(), on_step=block, **settings)
    folder = tmp_path / "goes on"
    capsys.readouterr()
    result = train(output=folder, model=small_net(), on_step=block, on_save_error="continue", **settings)
    assert result.model.exists() and not (folder / "film.webp").exists()
    assert capsys.readouterr().out.count("000000001.png") == 1


def test_a_film_of_a_googlenet_with_other_layers(tmp_path: Path) -> None:
    net = create_model("bn", num_classes=10, in_channels=1, stem_stride=2)
    net.inception5b, net.fc = nn.Identity(), nn.Linear(832, 10)  # type: ignore[assignment]
    assert frames(train(output=tmp_path / "run", model=net, film=True, **{**TINY, "max_steps": 1})) == [0, 1]


def test_a_film_changes_nothing_in_the_training_of_a_googlenet(tmp_path: Path) -> None:
    settings = {**TINY, "max_steps": 3, "ema_decay": 0.9, "validation": 0.1}
    plain = train(output=tmp_path / "plain", **settings)
    filmed = train(output=tmp_path / "filmed", film=True, **settings)
    assert frames(filmed) == [0, 3]
    assert_same_weights(plain.folder, filmed.folder)
