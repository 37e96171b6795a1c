"""googlenet import, called in this process."""

from __future__ import annotations

import json

import torch

import googlenet
from tests.conftest import Call


def test_import(call: Call) -> None:
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1)
    torch.save(net.state_dict(), "mine.pt")
    out, _ = call("import", "mine.pt", "-o", "mine.safetensors")
    assert "mine.safetensors" in out and "tutorial" in out
    assert googlenet.load("mine.safetensors").info.classes[1] == "Trouser"
    fields = json.loads(call("import", "mine.pt", "-o", "again.safetensors", "--json")[0])
    assert (fields["model"], fields["architecture"]["variant"]) == ("again.safetensors", "tutorial")
    assert ".safetensors" in call("import", "mine.pt", "-o", "mine.onnx", code=2)[1]


def test_options_for_what_weights_do_not_show(call: Call) -> None:
    weights = googlenet.create_model("bn", num_classes=2).state_dict()
    torch.save({"state_dict": weights, "state_dict_ema": weights}, "mine.pt")
    options = ("--mean", 0.1, 0.2, 0.3, "--std", 0.4, "--size", 64, "--resize", "crop", "--json")
    out, err = call("import", "mine.pt", *options)
    assert json.loads(out)["input"] == {
        "channels": 3, "size": 64, "mean": [0.1, 0.2, 0.3], "std": [0.4] * 3, "resize": "crop", "crop_pct": 0.875,
    }  # fmt: skip
    assert "state_dict_ema" in err
    assert "state_dict_ema" not in "".join(call("import", "mine.pt", "-o", "x.safetensors", "--no-ema"))
    assert "mean" in call("import", "mine.pt", "-o", "y.safetensors", "--mean", 124, code=2)[1]
