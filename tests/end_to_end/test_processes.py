"""Several processes, and processes that are interrupted or killed."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import googlenet
from googlenet import RunFolder, create_model
from googlenet.data import pack
from tests.conftest import once, write_photos
from tests.end_to_end.conftest import SMALL, Command
from tests.end_to_end.two_processes import BATCH_NORM, LIKE_ONE, ON_SHARDS


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that two_processes.py wrote to, and its standard output."""
    return once(tmp_path_factory, "two", train_on_two)


def train_on_two(folder: Path) -> tuple[Path, str]:
    write_photos(folder / "photos", of_each=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "BLOCK_IMAGES", 5)
        pack.pack(folder / "photos", folder / "shards")
    torch.manual_seed(0)
    torch.save(create_model("torchvision", num_classes=7, in_channels=1).state_dict(), folder / "weights.pt")
    script = Path(__file__).with_name("two_processes.py")
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    process = Command(folder).start(script, folder, module=launcher)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    assert "strides" not in err and "Traceback" not in err
    return folder, out


@pytest.mark.parametrize(("name", "settings"), [("two", LIKE_ONE), ("batch-norm", BATCH_NORM)])
def test_two_processes_learn_what_one_learns(
    name: str, settings: dict[str, Any], two: tuple[Path, str], tmp_path: Path
) -> None:
    """Gradients are averaged over both parts of each batch; the test split is shared and put together again."""
    one, both = tmp_path / "one", two[0] / name
    googlenet.train(output=one, **settings)
    assert json.loads((both / "environment.json").read_text())["processes"] == 2
    expected = load_file(one / "model.safetensors")
    for parameter, tensor in load_file(both / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[parameter], rtol=1e-3, atol=1e-3)
    for row, expected_row in zip(RunFolder(both).rows(), RunFolder(one).rows(), strict=True):
        assert row["loss"] == pytest.approx(expected_row["loss"], abs=1e-3)
    rows, expected_rows = ([*csv.DictReader((run / "predictions.csv").open())] for run in (both, one))
    assert [row["file"] for row in rows] == [row["file"] for row in expected_rows]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected_row["loss"]), rel=0.02, abs=0.01)


def test_the_first_process_alone_writes(two: tuple[Path, str]) -> None:
    first, second = (json.loads((two[0] / f"rank{rank}.json").read_text())["written"] for rank in (0, 1))
    assert second == [] and any("model.safetensors" in path for path in first), first


def test_two_processes_read_their_own_parts_of_shards(two: tuple[Path, str], tmp_path: Path) -> None:
    """Every image once, in the batches that one process has."""
    folder, _ = two
    parts = [json.loads((folder / f"rank{rank}.json").read_text())["images"] for rank in (0, 1)]
    files = googlenet.load_dataset(folder / "shards", size=28).train.files
    assert len(parts[0]) == len(parts[1]) == 48 and sorted(parts[0] + parts[1]) == sorted(files)
    googlenet.train("fast", output=tmp_path / "one", data=folder / "shards", **ON_SHARDS)
    expected = load_file(tmp_path / "one" / "model.safetensors")
    for name, tensor in load_file(folder / "shards-two" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)
    one, both = (
        (run / "predictions.csv").read_text().splitlines() for run in (tmp_path / "one", folder / "shards-two")
    )
    assert [line.split(",")[0] for line in one] == [line.split(",")[0] for line in both]


def test_progress_lines_of_two_processes(two: tuple[Path, str]) -> None:
    """About every 100 steps, although checkpoints write rows at steps that are not multiples of ten."""
    steps = [int(step) for step in re.findall(r"\b(\d+)/2500\b.* images/s.* left", two[1])]
    assert len(steps) == 1 and 100 <= steps[0] <= 110


def test_freezing_on_two_processes(two: tuple[Path, str]) -> None:
    heads = ("fc.", "aux1.fc2.", "aux2.fc2.")
    for rank in (0, 1):
        found = json.loads((two[0] / f"rank{rank}.json").read_text())
        assert all(name.startswith(heads) for name in found["learning"][0] + found["learning"][1])
        assert found["learning"][2] == found["learning"][3] and len(found["learning"][3]) > 100
        assert found["moved"][:2] == [[], []]
        assert "conv3.conv.weight" in found["moved"][2] and "conv3.bn.running_mean" in found["moved"][2]


def test_nothing_is_registered_again_in_each_run(two: tuple[Path, str]) -> None:
    for rank in (0, 1):
        callbacks = json.loads((two[0] / f"rank{rank}.json").read_text())["callbacks"]
        assert callbacks[1] == callbacks[2]


def test_what_two_processes_save_is_what_they_evaluated(two: tuple[Path, str]) -> None:
    """Batch norm statistics are each process's own during training; the model is the first one's."""
    folder, out = two
    (run,) = (folder / "runs").iterdir()
    assert out.count("run folder:") == 1 and f"run folder: runs/{run.name}" in out
    net = googlenet.load(run)
    evaluation = googlenet.evaluate(net, folder / "photos", precision="fp32")
    assert evaluation.accuracy == pytest.approx(net.info.metrics["test"]["accuracy"], abs=1e-9)
    assert evaluation.loss == pytest.approx(net.info.metrics["test"]["loss"], rel=1e-4)


def test_killed_then_interrupted_then_finished(command: Command) -> None:
    """kill -9, Ctrl-C, a time limit that ends the whole group: the run continues bit for bit each time."""
    settings: tuple[object, ...] = (
        *SMALL,
        "--max-steps",
        24,
        "--log-every",
        1,
        "--checkpoint-every",
        4,
        "--max-test-images",
        40,
    )
    settings += ("--no-plots", "--precision", "fp32", "--optimizer", "sgd", "--no-whiten", "--variant", "tutorial")
    folder = RunFolder(command.folder / "runs" / "x")
    process = command.start("train", *settings, "-o", "runs/x")
    while not folder.checkpoints():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    assert not folder.model.exists()

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
        rows = len(folder.rows())
        process = command.start("train", "--resume", "--output", "runs/x")
        while len(folder.rows()) <= rows:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, "Traceback" in err) == (code, False), (out, err)
        assert "train --resume --output runs/x" in out
        assert folder.model.exists()
    # In a process like the others: where there is a compiler, the C max pool adds gradients up in another order
    program = "import sys, googlenet as g; g.train(resume=True, output='runs/x'); g.train(sys.argv[1], output='whole')"
    arguments = [sys.executable, "-c", program, folder.recipe]
    subprocess.run(arguments, cwd=command.folder, env=command.environment, check=True, capture_output=True)
    assert [row["step"] for row in folder.rows() if row["split"] == "train"] == list(range(1, 25))
    expected = load_file(command.folder / "whole" / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(folder.model).items())


def test_a_reader_that_leaves_and_a_full_disk(command: Command) -> None:
    process = command.start("data", "list", "--json")
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")
    with Path("/dev/full").open("w") as full:
        program = [sys.executable, "-m", "googlenet", "data", "list"]
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, env=command.environment)
    assert done.returncode == 1
    assert done.stderr.startswith("googlenet: ") and done.stderr.count("\n") == 1
