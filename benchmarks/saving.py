"""What checkpoints and model files cost: their time compared with that of training.

python -m benchmarks.saving [STEPS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import googlenet
from benchmarks.data import write_jpegs

_IMAGES = 200  # of each class in the folder


def main(steps: int = 300) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        for label in "ab":
            write_jpegs(folder / label, (160, 160), _IMAGES)
        runs: dict[str, dict[str, Any]] = {
            "Fashion-MNIST, recipe fast": {"recipe": "fast"},
            f"a folder of {2 * _IMAGES} images at 64x64, recipe images": {
                "data": folder,
                "image_size": 64,
                "epochs": 60,
            },
        }
        print("| run | steps | training | saving | share | checkpoints written |\n|---|---|---|---|---|---|")
        for number, (name, settings) in enumerate(runs.items()):
            run, states, saved = Path(scratch) / f"run-{number}", list[Any](), set[str]()

            def look(trainer: Any, run: Path = run, states: list[Any] = states, saved: set[str] = saved) -> None:
                states[:] = [trainer.state]
                saved.update(path.name for path in run.glob("checkpoints/step-*"))

            googlenet.train(**settings, output=run, max_steps=steps, max_test_images=200, plots=False, on_step=look)
            saved.update(path.name for path in run.glob("checkpoints/step-*"))
            (state,) = states
            share = state.saving_seconds / state.seconds
            print(
                f"| {name} | {state.step} | {state.seconds:.0f} s | {state.saving_seconds:.2f} s | {share:.1%} | "
                f"{len(saved)} |",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
