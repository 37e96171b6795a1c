"""What a user can get wrong, command by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "trian"),
        (("train", "--learning-rate", 0), "greater than 0"),
        (("train", "--learning-rate", -1), "learning_rate = -1"),
        (("train", "--learning-rate", "fast"), "fast"),
        (("train", "--recipe", "slow"), "no recipe 'slow'"),
        (("train", "--variant", "v4"), "v4"),
        (("train", "--optimizer", "sgd"), "--optimizer"),
        (("train", "--data", "mnist"), "no data set 'mnist'"),
        (("train", "--batch-size", 70_000), "more than the"),
        (("train", "--resume"), "--output"),
        (("train", "--resume", "runs/x"), "nothing takes 'runs/x' here"),
        (("train", "--output", "taken"), "file in the way"),
        (("train", "--output", "taken/run"), "file in the way"),
        (("train", "--whiten", "--variant", "paper"), "batch normalization"),
        (("predict", "taken", "taken"), "no whole model file"),
        (("predict", "missing"), "PICTURES"),
        (("predict", "missing", "taken", "--output", "a.csv", "--format", "json"), "as its name says"),
        (("import", "taken"), "weights"),
        (("study", "convergence", "--only", "heads"), "no 'heads'"),
        (("study", "convergence", "--learning-rates", "0"), "above 0"),
        (("study", "convergence", "--workers", -3), "workers are 1"),
        (("train", "--blocks", 5, "--auxiliary"), "4a and 4d"),
        (("train", "--find-learning-rate", "--output", "runs/x"), "end its name in .png"),
        (("bench", "startup", "-o", "bench.csv"), "end its name in .json"),
        (("compare", "bn", "--plot", "bubbles.pdf"), "end its name in .png"),
        (("import", "taken", "-o", "model.onnx"), "end its name in .safetensors"),
        (("compare", "bn", "--train", "--image-size", 0), "image_size"),
        (("compare", "bn", "--train", "--learning-rate", -1), "learning_rate"),
        (("compare", "lenet"), "no network 'lenet'"),
        (("compare", "bn", "--input-size", 224), "C,H,W"),
        (("compare", "bn", "--latency", "--rounds", 0), "1 or more"),
        (("compare", "tutorial", "--plot", "x.png"), "published accuracy"),
        (("bench", "speed"), "speed"),
        (("bench", "startup", "--rounds", 0), "1 or more"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_exit_code_2(
    arguments: tuple[object, ...], message: str, call: Call
) -> None:
    Path("taken").write_text("not a folder, not a model")
    _, err = call(*arguments, code=2)
    assert message in err
    assert [path.name for path in Path().iterdir()] == ["taken"]
