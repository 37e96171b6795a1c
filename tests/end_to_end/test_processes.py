"""Several processes, and processes that are stopped, killed or left alone: what a user is told, and what stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import googlenet
from tests.conftest import write_photos
from tests.end_to_end.conftest import SMALL, Command

FEW = ("--test-images", 501)  # which two processes cannot share evenly


def test_ctrl_c_and_going_on(command: Command) -> None:
    process = command.start("train", *SMALL, "--max-steps", 40, "--row-every", 1, *FEW, "-o", "runs/x")
    metrics = command.folder / "runs/x/metrics.jsonl"
    while not metrics.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "train --resume --output" in out
    assert (command.folder / "runs/x/curves.png").exists()
    out, _ = command("train", "--resume", "--output", "runs/x")
    assert "going on after step" in out
    steps = [json.loads(line)["step"] for line in (command.folder / "runs/x/metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 40


def test_two_processes_learn_together(command: Command) -> None:
    """Gradients averaged over two processes' halves of each batch; the test split shared and put together again."""
    settings: tuple[object, ...] = (
        "train",
        *SMALL,
        "--variant",
        "tutorial",
        "--initialization",
        "he",
        "--dropout",
        0,
        "--max-steps",
        4,
    )
    settings += ("--precision", "fp32", "--optimizer", "sgd", "--no-flip", *FEW)
    command(*settings, "-o", "runs/one")
    out = on_two_processes(command, *settings, "-o", "runs/two")
    assert out.count("run folder:") == 1
    one, two = (command.folder / "runs" / name for name in ("one", "two"))
    assert json.loads((two / "environment.json").read_text())["processes"] == 2
    for name, tensor in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(load_file(two / "model.safetensors")[name], tensor, rtol=1e-3, atol=1e-4)
    rows = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (one, two)]
    assert rows[0]["accuracy"] == pytest.approx(rows[1]["accuracy"], abs=0.003)
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-3)


def on_two_processes(command: Command, *arguments: object) -> str:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "googlenet")
    process = command.start(*arguments, module=launcher)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    assert "strides" not in err
    return out


def test_two_processes_judge_what_they_keep(command: Command) -> None:
    """Batch normalization's statistics are each process's own while it trains; the model kept is one of them."""
    write_photos(command.folder / "photos", of_each=80)
    settings = ("--validation", 0.2, "--ema", 0.5, "--accumulate", 2, "--max-steps", 4, "--precision", "fp32")
    out = on_two_processes(command, "train", "--data", "photos", *SMALL, *settings)
    (run,) = (command.folder / "runs").iterdir()
    assert f"run folder: runs/{run.name}" in out
    kept = googlenet.load(run).info.metrics["test"]["accuracy"]
    figures = json.loads(command("evaluate", run, "--json")[0])
    assert figures["accuracy"] == pytest.approx(kept, abs=1e-9)


def test_a_time_limit_that_reaches_the_loaders_processes_too_ends_a_run_cleanly(command: Command) -> None:
    process = command.start("train", *SMALL, "--max-steps", 900, "--num-workers", 1, "-o", "runs/x")
    while not (command.folder / "runs/x/metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert "train --resume --output" in out
    assert (command.folder / "runs/x/checkpoints/last.pt").exists()


def test_two_processes_may_train_twice(command: Command) -> None:
    script = command.folder / "twice.py"
    script.write_text(
        "import googlenet\n"
        "for seed in (0, 1):\n"
        "    googlenet.train(seed=seed, max_steps=1, stem_stride=2, test_images=64, pictures=False)\n"
    )
    process = command.start("--nproc-per-node", 2, script, module=("torch.distributed.run", "--standalone"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("epoch 1/1") == 2


def test_a_reader_that_leaves_is_no_fault(command: Command) -> None:
    process = command.start("compare", "bn", "--json")
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")
    with Path("/dev/full").open("w") as full:
        program = [sys.executable, "-m", "googlenet", "summary"]
        told = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, env=command.environment)
    assert (told.returncode, told.stderr) == (1, "googlenet: No space left on device\n")


def test_a_study_whose_process_is_killed_says_so(command: Command) -> None:
    arguments = ("study", "convergence", "--quick", "--only", "tutorial", "--steps", 5000, "--image-size", 16)
    process = command.start(*arguments, "--seeds", 1, "--workers", 2, "-o", "runs/study")
    while not list((command.folder / "runs" / "study").rglob("*/run/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "a process of the study was killed" in err


def test_a_study_goes_on_where_it_stopped(command: Command) -> None:
    """Two cells of three steps; those whose results are there are not run again."""
    arguments: tuple[object, ...] = ("study", "convergence", "--quick", "--only", "tutorial", "--steps", 3)
    arguments += ("--seeds", 2, "--image-size", 16, "--learning-rates", 0.001, "--workers", 1, "-o", "runs/study")
    out, _ = command(*arguments)
    assert "4/4  " in out
    assert "report: runs/study/report.md" in out
    folder = command.folder / "runs" / "study"
    assert "| tutorial |" in (folder / "report.md").read_text()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    assert len(kept) == 2
    lost = sorted(kept)[0]
    lost.unlink()
    (folder / "report.md").unlink()
    found = json.loads(command(*arguments, "--json")[0])
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert lost.exists()
    assert {path for path, time in kept.items() if path.stat().st_mtime_ns != time} == {lost}
    assert (folder / "report.md").exists()
    _, err = command(*(4 if word == 3 else word for word in arguments), code=2)
    assert "steps = 3, not 4" in err


@pytest.mark.parametrize(
    ("everyone", "since"), [(True, "*/run/metrics.jsonl"), (False, "*/run/metrics.jsonl"), (True, "study.json")]
)
def test_ctrl_c_ends_a_study_and_its_workers(everyone: bool, since: str, command: Command) -> None:
    """In a terminal the signal reaches the workers as well, whatever they are doing: training, or still starting."""
    arguments = ("study", "convergence", "--quick", "--only", "tutorial", "--steps", 5000, "--image-size", 16)
    process = command.start(*arguments, "--seeds", 1, "--workers", 2, "-o", "runs/study")
    while not list((command.folder / "runs" / "study").rglob(since)) and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "googlenet: stopped" in err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):  # nobody of the group is left, or not for long
        for _ in range(300):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
