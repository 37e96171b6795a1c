"""The folder of `export --to web`: what it replaces, and where its runtime comes from; test_web_page.py opens it."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import googlenet
from googlenet import Exported, RunError, TrainingResult, UserError
from googlenet.inference import web
from googlenet.weights.load import title_of
from tests.conftest import Call
from tests.networks import thin, with_info

FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files named like the runtime's."""
    folder = tmp_path_factory.mktemp("runtime") / "dist"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the export to ONNX was called with; tests/end_to_end/test_web_page.py has the real one."""
    called: dict[str, Any] = {}

    def export(model: object, to: str, file: Path, **options: Any) -> Exported:
        called.update(options, to=to)
        file.write_bytes(b"model")
        return Exported(file, 0, 0, 1)

    monkeypatch.setattr(web, "export", export)
    return called


def test_the_command(call: Call, stand_in: Path, trained: TrainingResult, options: dict[str, Any]) -> None:
    for extra, is_int8 in (((), True), (("--no-int8", "--max-accuracy-drop", 3), False)):
        out, _ = call("export", trained.folder, "--to", "web", "--output", "page", "--runtime", stand_in, *extra)
        assert "page" in out
        assert (options["to"], options["preprocessing"], options["int8"]) == ("onnx", True, is_int8)
    assert options["max_accuracy_drop"] == 3
    assert trained.folder.name in Path("page/index.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("options")
def test_it_replaces_its_own_page_only(stand_in: Path, tmp_path: Path) -> None:
    net, page = with_info(thin(2, 1), ("<b>", "</script>"), 28), tmp_path / "run" / "web"
    write = partial(googlenet.export_web, net, page, runtime=stand_in.parent)
    exported = write()
    written = {file.name: file.read_bytes() for file in page.iterdir()}
    assert set(written) == {"index.html", "model.js", "runtime.js"}
    assert (exported.file, exported.megabytes) == (page, len(written["model.js"]) / 1e6)
    assert written["index.html"].count(b"</script>") == 4
    (page / "model.js").write_bytes(b"damaged")
    write()
    assert {file.name: file.read_bytes() for file in page.iterdir()} == written
    (page / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        write()
    assert list(page.parent.iterdir()) == [page]


@pytest.mark.usefixtures("options")
def test_where_the_page_is_written(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = partial(googlenet.export_web, with_info(thin(2, 1), ("a", "b"), 28), runtime=stand_in)
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(UserError, match=r"mine\.html"):
        write(tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", tmp_path / "link"):
        write(output)
    assert len(list((tmp_path / "here").iterdir())) == 3 and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    "model", ["hf:owner/boots@v1.0", "boots", "boots/../boots/model.safetensors", "./boots.safetensors"]
)
def test_the_title_is_the_name_of_the_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boots").mkdir()
    assert title_of(model) == ("model" if "model" in model else "boots")


def test_a_runtime_without_its_files(tmp_path: Path, call: Call, stand_in: Path) -> None:
    with pytest.raises(UserError, match="onnxruntime-web"):
        web.find_runtime(tmp_path)
    assert "--runtime" in call("export", "run", "--to", "onnx", "--runtime", stand_in, code=2)[1]


def test_the_runtime_is_downloaded_once_and_verified(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GOOGLENET_MIRROR")
    monkeypatch.setattr(web, "_RUNTIME_URL", (tmp_path / "nowhere").as_uri())
    with pytest.raises(RunError, match="--runtime"):
        web.find_runtime()
    monkeypatch.setattr(web, "_RUNTIME_URL", stand_in.as_uri())
    with pytest.raises(RunError):  # other content than the pinned one
        web.find_runtime()
    monkeypatch.setattr(web, "_DIGESTS", {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES})
    folder = web.find_runtime()
    monkeypatch.setattr(web, "_RUNTIME_URL", (tmp_path / "nowhere").as_uri())
    assert web.find_runtime() == folder
    assert {file.name for file in folder.iterdir() if file.suffix != ".lock"} >= set(FILES)


def test_npm_is_the_second_source(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_RUNTIME_URL", (tmp_path / "nowhere").as_uri())
    monkeypatch.setattr(web, "_DIGESTS", {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES})
    (tmp_path / "package").mkdir()
    shutil.copytree(stand_in, tmp_path / "package" / "dist")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ntar czf x.tgz -C '{tmp_path}' package\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    folder = web.find_runtime()
    assert all((folder / name).read_bytes() == name.encode() for name in FILES)
