"""GoogLeNet on several processes, left and resumed, compared with a run that was not: to the bit.

torchrun --nproc-per-node 4 -m tests.soak.resumed

Its gradients travel in several parts, whose sums on more than two processes depend on the order of the parts.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

import googlenet
from tests.soak.kills import differences

RUN: dict[str, Any] = {
    "recipe": "fast", "data_dir": "bundled", "image_size": 16, "stem_stride": 2, "batch_size": 30, "max_steps": 6,
    "checkpoint_every": 3, "log_every": 1, "precision": "fp32", "max_test_images": 41, "plots": False, "device": "cpu",
}  # fmt: skip


class Left(BaseException):
    """Ends a run at any place."""


def leave(trainer: googlenet.Trainer) -> None:
    if trainer.step == 5:
        raise Left


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="googlenet-soak-") as own:
        whole = googlenet.train(output=f"{own}/whole/run", **RUN).folder
        folder = Path(broadcast_object_list([own])[0])
        try:
            googlenet.train(output=folder / "left" / "run", on_step=leave, **RUN)
        except Left:
            googlenet.train(output=folder / "left" / "run", resume=True)
        if os.environ["RANK"] != "0":
            return 0
        found = differences(whole, folder / "left" / "run")
        print("; ".join(found) or "identical")
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
