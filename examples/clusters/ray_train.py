"""A run on a Ray cluster: pip install "ray[train]"; python ray_train.py --data /shared/photos --workers 8 --gpu

Ray starts the processes, and starts all of them again if one is lost; the run continues from its last checkpoint.
Images and runs are on a disk that all machines see.
"""

import argparse
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def train(settings: dict[str, Any]) -> None:
    """Ray calls this in every process."""
    import googlenet

    googlenet.train(resume=True, **settings)  # starts the run if there is nothing to continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion-mnist", help="data set, folder or table (default: fashion-mnist)")
    parser.add_argument("--output", type=Path, default="runs/ray", help="run folder (default: runs/ray)")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one GPU or CPU (default: 2)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each process")
    parser.add_argument("--max-steps", type=int, help="stop after this many steps (default: the recipe's)")
    arguments = parser.parse_args()
    output = arguments.output.absolute()  # Ray's processes start in other folders
    device = "auto" if arguments.gpu else "cpu"
    settings: dict[str, Any] = {"data": arguments.data, "output": str(output), "device": device}
    if arguments.max_steps is not None:
        settings["max_steps"] = arguments.max_steps
    TorchTrainer(
        train,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=arguments.workers, use_gpu=arguments.gpu),
        # Ray makes the process group, so this is in place of --process-timeout
        torch_config=TorchConfig(timeout_s=600),
        run_config=RunConfig(
            name=f"{output.name}-ray", storage_path=str(output.parent), failure_config=FailureConfig(max_failures=3)
        ),
    ).fit()


if __name__ == "__main__":
    main()
