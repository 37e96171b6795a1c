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
        (("summary", "v4"), "no variant and no model file 'v4'"),
        (("train", "--whiten", "--variant", "paper"), "batch normalization"),
        (("summary", "--input-size", "3,3"), "C,H,W"),
        (("summary", "torchvision", "--input-size", "3,2,2"), "too small"),
        (("evaluate", "missing"), "no model file missing"),
        (("evaluate", "taken"), "no whole model file"),
        (("predict", "taken", "taken"), "no whole model file"),
        (("predict", "missing"), "PICTURES"),
        (("predict", "missing", "taken", "--output", "a.csv", "--format", "json"), "as its name says"),
        (("explain", "missing", "taken"), "no model file missing"),
        (("explain", "missing", "taken", "-o", "taken"), "the picture itself"),
        (("ablate", "missing", "--limit", 10), "no model file missing"),
        (("import", "taken"), "weights"),
        (("data", "show", "cifar"), "no data set 'cifar'"),
        (("data", "show", "--count", 0), "1 picture or more"),
        (("data", "show", "--count", 15, "--augment", "light"), "16 or more"),
        (("study", "convergence", "--only", "heads"), "no 'heads'"),
        (("study", "convergence", "--learning-rates", "0"), "above 0"),
        (("study", "convergence", "--workers", -3), "workers are 1"),
        (("train", "--blocks", 5, "--auxiliary"), "4a and 4d"),
        (("train", "--find-learning-rate", "--output", "runs/x"), "end its name in .png"),
        (("draw", "-o", "net.png"), "end its name in .svg"),
        (("bench", "startup", "-o", "bench.csv"), "end its name in .json"),
        (("explain", "missing", "taken", "-o", "why.jpg"), "end its name in .png"),
        (("ablate", "missing", "-o", "branches.svg"), "end its name in .png"),
        (("compare", "bn", "--plot", "bubbles.pdf"), "end its name in .png"),
        (("data", "show", "-o", "sheet.jpg"), "end its name in .png"),
        (("import", "taken", "-o", "model.onnx"), "end its name in .safetensors"),
        (("compare", "bn", "--train", "--image-size", 0), "image_size"),
        (("compare", "bn", "--train", "--learning-rate", -1), "learning_rate"),
        (("summary", "--batch-size", 0), "batch is of 1 image"),
        (("compare", "lenet"), "no network 'lenet'"),
        (("compare", "bn", "--input-size", 224), "C,H,W"),
        (("compare", "bn", "--latency", "--rounds", 0), "1 or more"),
        (("compare", "tutorial", "--plot", "x.png"), "published accuracy"),
        (("draw", "v4"), "v4"),
        (("draw", "torchvision", "--input-size", "3,2,2"), "too small"),
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
