"""googlenet doctor, --version and --install-completion."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import googlenet
from googlenet import device
from googlenet.cli import app, doctor
from googlenet.cli.doctor import Check
from googlenet.kernels import max_pool
from tests.conftest import Call


def checks(call: Call, code: int = 0) -> dict[str, dict[str, str]]:
    report = json.loads(call("doctor", "--json", code=code)[0])
    assert report["healthy"] == (code == 0)
    return {check["name"]: check for check in report["checks"]}


def test_this_machine(call: Call, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ENGINES", ())  # slow to import
    found = checks(call)
    assert torch.__version__ in found["PyTorch"]["found"]
    assert str(small_data) in found["data"]["found"]
    assert {check["status"] for check in found.values()} <= {"ok", "missing"}


def test_the_report_names_each_check_and_its_advice(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Check("a", "ok", "fine"), Check("b c", "problem", "broken", "pip install b")]
    monkeypatch.setattr(doctor, "run_checks", lambda: found)
    lines = call("doctor", code=1)[0].splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["ok", "a", "fine"],
        ["problem", "b", "c", "broken"],
        ["pip", "install", "b"],
    ]


def test_what_to_install_for_what(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "numpy>=2", 'onnx>=1.17; extra == "export"', 'no-such-package>=3; extra == "demo"']
    monkeypatch.setattr(doctor, "requires", lambda _: wanted)
    found = checks(call, code=1)
    assert (found["googlenet"]["status"], found["demo"]["status"]) == ("problem", "missing")
    assert "'torch>=99'" in found["googlenet"]["advice"] and "numpy" not in found["googlenet"]["advice"]
    assert "'no-such-package>=3'" in found["demo"]["advice"]


def test_each_extra_has_a_purpose() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    extras = import_module("tomllib").loads(pyproject.read_text())["project"]["optional-dependencies"]
    assert set(doctor._EXTRAS) == set(extras) - {"dev", "docs", "notebooks"}


def test_what_is_broken_or_not_there(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError(f"lib{name}.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "import_module", fail)
    monkeypatch.setattr(doctor, "requires", lambda _: ['onnxruntime>=1; extra == "export"'])
    monkeypatch.setattr(doctor, "version", lambda _: "1.5")
    monkeypatch.setattr(max_pool, "library", lambda _: None)
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: False)
    monkeypatch.setattr(doctor, "check_writable", _deny)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setenv("GOOGLENET_DATA", "nowhere")
    found = checks(call, code=1)
    assert "libonnxruntime.so.1" in found["export"]["found"]
    assert found["data"]["status"] == "problem" and "GOOGLENET_DATA" in found["data"]["advice"]
    for name in ("export", "compiler", "bf16", "cache", "GPU"):
        assert found[name]["status"] == "missing", name
    assert "XDG_CACHE_HOME" in found["cache"]["advice"]


def _deny(path: Path) -> None:
    raise googlenet.RunError(f"cannot write {path}: no permission")


def test_a_full_disk(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5e6}))
    assert checks(call, code=1)["disk"]["status"] == "problem"


def test_the_version_is_one_line_for_bug_reports(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = call("--version")
    assert out.count("\n") == 1
    for part in (googlenet.__version__, sys.version.split()[0], torch.__version__, "cores"):
        assert part in out
    monkeypatch.setitem(sys.modules, "googlenet.device", None)  # what an import that fails looks like
    assert googlenet.__version__ in call("--version")[0]


def test_completion_is_installed_for_a_shell(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    script = Path(call("--install-completion", "--shell", "bash")[0].partition(": ")[0])
    text = script.read_text()
    assert script.is_relative_to(tmp_path / "home")
    for word in ("evaluate", "--learning-rate", "--backend", "doctor"):
        assert word in text
    if bash := shutil.which("bash"):
        typed = f"source '{script}'; COMP_WORDS=(googlenet sum); COMP_CWORD=1; _googlenet; echo ${{COMPREPLY[@]}}"
        assert subprocess.run([bash, "-c", typed], capture_output=True, text=True).stdout.split() == ["summary"]

    def unknown(*_: Any, **__: Any) -> Path:
        raise import_module("cyclopts.completion.detect").ShellDetectionError

    monkeypatch.setattr(type(app), "install_completion", unknown)
    assert "--shell" in call("--install-completion", code=2)[1]


def test_help_waits_for_nothing_slow() -> None:
    """And the help of the commands that it does not import is that of their docstrings."""
    code = (
        "import sys\nfrom googlenet import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pydantic', 'matplotlib', 'rich.progress'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    for command, function in (("train", "train.train"), ("import", "convert.import_")):
        module, _, name = function.partition(".")
        docstring = getattr(import_module(f"googlenet.cli.{module}"), name).__doc__
        assert app[command].help == docstring
