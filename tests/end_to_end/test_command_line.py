"""The command as a user runs it: processes, exit codes, files, and users without a home folder."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

import googlenet
from googlenet import RunFolder
from tests.conftest import write_photos
from tests.end_to_end.conftest import SMALL, Command


def test_from_a_folder_to_predictions(command: Command, images: Path) -> None:
    write_photos(command.folder / "photos", of_each=20)
    options = ("--image-size", 28, "--epochs", 1, "--batch-size", 8)
    out, err = command("train", "--data", "photos", *options, "--output", "runs/first")
    assert "next: " in out and "predict runs/first/model.safetensors" in out and err == ""
    last = RunFolder(command.folder / "runs" / "first").rows()[-1]
    assert (last["split"], last["step"]) == ("test", 4)
    evaluation = googlenet.evaluate(command.folder / "runs" / "first", command.folder / "photos")
    assert len(evaluation.labels) == 8
    assert evaluation.accuracy == pytest.approx(last["accuracy"], abs=0.002)
    out, err = command("predict", "runs/first", images, "--format", "csv", code=1)
    rows = list(csv.DictReader(StringIO(out)))
    assert len({row["file"] for row in rows if not row["error"]}) == 5
    assert {Path(row["file"]).name for row in rows if row["error"]} == {"broken.png"}
    assert "broken.png" in err


def test_help_and_version(command: Command) -> None:
    out, _ = command("--help")
    for name in ("train", "evaluate", "predict", "export", "import", "summary", "explain", "ablate", "draw", "data"):
        assert f" {name} " in out
    assert command("--version")[0].startswith(f"googlenet {googlenet.__version__}, ")
    assert command()[0] == out
    program = "import sys, googlenet.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_usage_error_is_exit_code_2_and_leaves_nothing(command: Command) -> None:
    _, err = command("train", "--optimizer", "sdg", code=2)
    assert "--optimizer" in err
    assert list(command.folder.iterdir()) == []


_TRAIN = ("train", *map(str, SMALL), "--max-steps", "1", "--max-test-images", "20")
COMMANDS = (
    ("--help",),
    ("summary", "bn"),
    ("data", "list"),
    (*_TRAIN, "--output", "run"),
    (*_TRAIN, "--no-plots", "--output", "~/run"),
)
SCRIPT = """
import json, os, pwd, sys
import torch._dynamo  # which takes longest, and knows nothing of folders; each user is a process of its own
def without_entry(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
def run(folder, home, has_entry, commands):
    os.chdir(folder)
    if home is not None:
        os.environ["HOME"] = home
    if home == "":
        os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "cache")  # else it would be /.cache
    if not has_entry:
        pwd.getpwuid = without_entry
    from googlenet.cli import main
    for command in commands:
        try:
            main(command)
        except SystemExit as exit:
            print("exit code", exit.code, flush=True)
for case in json.loads(sys.argv[1]):
    if os.fork() == 0:
        run(*case)
        sys.exit()
    os.wait()
"""


def test_users_without_a_home_folder(command: Command) -> None:
    """As in containers that run with any user number, and in some services."""
    few = COMMANDS[1:4:2]
    users = {
        "no entry in passwd": (None, False, COMMANDS),
        "empty HOME": ("", True, few),
        "relative HOME": ("relative", True, few),
    }
    for name in users:
        (command.folder / name).mkdir()
    cases = json.dumps([(str(command.folder / name), *user) for name, user in users.items()], default=str)
    shared = ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    environment = {name: value for name, value in command.environment.items() if name not in shared}
    program = [sys.executable, "-c", SCRIPT, cases]
    done = subprocess.run(program, cwd=command.folder, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.returncode == 0, (done.stdout, done.stderr)
    codes = [line.rpartition(" ")[2] for line in done.stdout.splitlines() if line.startswith("exit code")]
    assert codes == ["0"] * (len(COMMANDS) + 2 * len(few)), (done.stdout, done.stderr)
    for name in users:
        assert RunFolder(command.folder / name / "run").model.exists()
