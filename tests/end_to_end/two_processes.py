"""Several trainings on two processes, started once because starting takes longest; test_processes.py has the checks."""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from googlenet import Trainer, cli, import_weights, train
from tests.training.helpers import small_net

LIKE_ONE: dict[str, Any] = {
    "data_dir": "bundled",
    "image_size": 28,
    "variant": "tutorial",
    "initialization": "he",
    "dropout": 0,
    "batch_size": 33,  # which two processes cannot share evenly, like the test images
    "gradient_accumulation": 3,
    "max_steps": 3,
    "precision": "fp32",
    "optimizer": "sgd",
    "whiten": False,
    "stem_stride": 2,
    "hflip": False,
    "plots": False,
    "max_test_images": 101,
}
BATCH_NORM: dict[str, Any] = {
    **LIKE_ONE,
    "variant": "bn",
    "gradient_accumulation": 1,  # parts of a batch have their own batch norm
    "max_steps": 1,  # a network of this size amplifies rounding with every step
    "sync_batch_norm": True,
}
ON_SHARDS: dict[str, Any] = {
    **{name: value for name, value in LIKE_ONE.items() if name != "data_dir"},
    "batch_size": 16,
    "shuffle_buffer": 80,
}
LINES: dict[str, Any] = {
    "data_dir": "bundled",
    "image_size": 28,
    "batch_size": 4,
    "max_steps": 115,
    "checkpoint_every": 33,
    "precision": "fp32",
    "plots": False,
    "max_test_images": 40,
}
FREEZE: dict[str, Any] = {
    "data_dir": "bundled",
    "image_size": 32,
    "batch_size": 8,
    "gradient_accumulation": 2,
    "max_steps": 4,
    "precision": "fp32",
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "ema_decay": 0.5,
    "freeze_fraction": 0.5,
    "plots": False,
    "max_test_images": 20,
}


def main(folder: Path) -> None:
    found: dict[str, Any] = {"callbacks": [], "learning": [], "moved": [], "written": [], "images": []}

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        is_written = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if event in ("open", "os.mkdir", "os.rename") and is_written and str(arguments[0]).startswith(str(folder)):
            found["written"].append(str(arguments[0]))

    sys.addaudithook(watch)
    source = import_weights(folder / "weights.pt").state_dict()

    def look(trainer: Trainer) -> None:
        found["learning"].append(sorted(n for n, p in trainer.net.named_parameters() if p.requires_grad))
        state = trainer.net.state_dict()
        same = [n for n in source if n in state and state[n].shape == source[n].shape]
        found["moved"].append(sorted(n for n in same if not torch.equal(state[n], source[n])))

    def list_images(trainer: Trainer) -> None:
        found["images"] = [trainer.train_split.files[int(n)] for part in trainer.indices(0) for n in part]

    train(output=folder / "two", **LIKE_ONE)
    found["callbacks"].append(atexit._ncallbacks())  # type: ignore[attr-defined]
    train(output=folder / "batch-norm", **BATCH_NORM)
    train(output=folder / "lines", model=small_net(), **LINES)
    found["callbacks"].append(atexit._ncallbacks())  # type: ignore[attr-defined]
    train(output=folder / "frozen", weights=str(folder / "weights.pt"), on_step=look, **FREEZE)
    found["callbacks"].append(atexit._ncallbacks())  # type: ignore[attr-defined]
    train("fast", output=folder / "shards-two", data=folder / "shards", on_step=list_images, **ON_SHARDS)
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
    options = "--data photos --image-size 28 --batch-size 32 --validation 0.2 --ema-decay 0.5 --max-steps 4 --no-plots"
    cli.main(["train", *options.split(), "--gradient-accumulation", "2", "--precision", "fp32"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
