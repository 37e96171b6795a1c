"""The values that some settings may have, apart from `recipe` because importing pydantic takes longer than `--help`."""

from __future__ import annotations

from typing import Literal

Augment = Literal["none", "light", "medium", "strong"]
Schedule = Literal["constant", "step", "polynomial", "linear", "cosine"]
SelectBy = Literal["auto", "last", "validation", "test"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Crops = Literal[1, 2, 10, 144]
"""How many crops of each image are averaged: see `googlenet.data.crops`."""
Resize = Literal["stretch", "crop", "pad"]
"""How an image of another shape is made square: stretched, its middle cut out, or gray borders added."""
Tracker = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
