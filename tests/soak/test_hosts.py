"""A few of the cases of `make soak` on two hosts, whose processes are forked: to import PyTorch takes longest."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

import googlenet
from googlenet import RunFolder, Trainer
from googlenet.kernels.max_pool import library
from tests.soak.kills import differences
from tests.soak.network import Host, network, why_not
from tests.training.helpers import small_net

pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.usefixtures("small_data")]

RUN: dict[str, Any] = {
    "image_size": 28, "batch_size": 9, "max_steps": 16, "log_every": 1, "checkpoint_every": 5,
    "precision": "fp32", "max_test_images": 21, "plots": False, "sync_batch_norm": True, "whiten": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    library("FLOAT32")  # compiled once, not in every process
    import_module("torch._dynamo")  # as every optimizer does
    with network(2) as hosts:
        yield hosts


def start(
    host: Host, rank: int, folder: Path, on_step: Callable[[Trainer], None] | None = None, **settings: Any
) -> int:
    """A process that trains on this host and writes what it raised; its number."""
    child = os.fork()
    if child == 0:
        status = 3
        with contextlib.suppress(BaseException), (folder / f"{rank}.txt").open("w") as output:
            try:
                for number, stream in ((1, output), (2, output)):
                    os.dup2(stream.fileno(), number)
                with host.file.open() as namespace:
                    assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
                os.environ |= {
                    "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
                    "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "eth0",
                    "TORCHELASTIC_RUN_ID": "job",
                }  # fmt: skip
                AcceleratorState._reset_state(True)
                # On the other host, the folder is not there
                output_folder = folder / ("run" if rank == 0 else "nowhere")
                googlenet.train(output=output_folder, model=small_net(), on_step=on_step, **{**RUN, **settings})
                status = 0
            except googlenet.RunError as error:
                print(error, file=output, flush=True)
                status = 1
            except BaseException:
                traceback.print_exc(file=output)
                output.flush()
        os._exit(status)
    return child


def statuses(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def output(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.txt"))


def at_step(number: int, action: Callable[[], object]) -> Callable[[Trainer], None]:
    def act(trainer: Trainer) -> None:
        if trainer.step == number:
            action()

    return act


def test_a_killed_process_and_a_restart_that_continues(hosts: list[Host], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert statuses([start(host, rank, whole) for rank, host in enumerate(hosts)]) == [0, 0], output(whole)
    assert not (whole / "nowhere").exists()  # the first process alone writes
    assert json.loads((whole / "run" / "environment.json").read_text())["processes"] == 2
    assert len((whole / "run" / "predictions.csv").read_text().splitlines()) == 1 + RUN["max_test_images"]

    die = at_step(7, lambda: os.kill(os.getpid(), signal.SIGKILL))
    started = time.monotonic()
    children = [start(hosts[0], 0, killed), start(hosts[1], 1, killed, die)]
    assert statuses(children) == [1, -signal.SIGKILL], output(killed)
    assert time.monotonic() - started < 60 and "process-timeout" in output(killed)
    steps = [row["step"] for row in RunFolder(killed / "run").rows()]
    assert 5 <= max(steps) <= 7
    # The same command in the same job of torchrun continues, without --resume
    assert statuses([start(host, rank, killed) for rank, host in enumerate(hosts)]) == [0, 0], output(killed)
    assert differences(whole / "run", killed / "run") == []


def test_a_cable_is_pulled(hosts: list[Host], tmp_path: Path) -> None:
    """Nobody closes a connection, so only the time limit helps."""
    pull = at_step(7, lambda: hosts[1].plug(False))
    started = time.monotonic()
    children = [start(hosts[0], 0, tmp_path, process_timeout=2), start(hosts[1], 1, tmp_path, pull, process_timeout=2)]
    assert statuses(children) == [1, 1], output(tmp_path)
    assert time.monotonic() - started < 60
    assert output(tmp_path).count("process-timeout") == 2
    hosts[1].plug(True)
