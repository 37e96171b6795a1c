"""A folder of images, from the first look to predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.conftest import Call


def test_from_a_folder_to_predictions(call: Call, photos: Path) -> None:
    (photos / "boot" / "bad.png").write_bytes(b"")
    out, _ = call("data", "check", photos, code=1)
    assert "bad.png" in out
    quick = ("--image-size", 28, "--epochs", 2, "--learning-rate", 0.002, "--batch-size", 8, "--precision", "fp32")
    _, err = call("train", "--data", photos, *quick, "--output", "runs/photos", code=2)
    assert "bad.png" in err
    assert "--skip-unreadable" in err
    assert not Path("runs").exists()
    call("data", "check", photos, "--quarantine", "aside")
    assert Path("aside/boot/bad.png").exists()

    _, err = call("predict", "aside", code=2)
    assert "--stdin" in err
    out, _ = call("train", "--data", photos, *quick, "--output", "runs/photos")
    assert "boot 12, trouser 12" in out
    figures = json.loads(call("evaluate", "runs/photos", "--json")[0])
    assert figures["images"] == 4

    out, _ = call("predict", "runs/photos", photos / "boot", "--output", "predictions.csv")
    assert "12" in out and "predictions.csv" in out
    _, err = call("predict", "runs/photos", photos, "--output", "predictions.csv", code=2)
    assert "--resume" in err
    call("predict", "runs/photos", photos, "--output", "predictions.csv", "--resume")
    with Path("predictions.csv").open(encoding="utf-8", newline="") as file:
        assert len({row["file"] for row in csv.DictReader(file)}) == 24
