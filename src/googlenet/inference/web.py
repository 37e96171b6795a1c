"""Export a network as a web page that classifies images in the browser, with ONNX Runtime Web.

The folder needs no server program: it works on any static host, and when `index.html` is opened from disk.
"""

from __future__ import annotations

import base64
import gzip
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from googlenet.data.dataset import ImageDataset, ImageSplit
from googlenet.download import DownloadError, download, mirrored, sha256
from googlenet.errors import RunError, UserError
from googlenet.files import atomic_write, cache_dir, check_writable, disk_errors, expand, printable
from googlenet.inference.export import Exported, export
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load_or_check, output_stem, title_of
from googlenet.weights.model_file import ModelInfo

TOP = 5  # How many classes the page shows
RUNTIME = "onnxruntime-web@1.30.0"
_RUNTIME_URL = f"https://cdn.jsdelivr.net/npm/{RUNTIME}/dist"
_SCRIPT, _LOADER, _WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
_DIGESTS = {
    _SCRIPT: "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    _LOADER: "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    _WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_LICENSE = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED
"AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def export_web(
    model: GoogLeNet | str | Path, output: str | Path | None = None, *, runtime: str | Path | None = None,
    int8: bool = True, calibration_data: str | Path | ImageDataset | ImageSplit | None = None,
    data_dir: str | Path | None = None, skip_unreadable: bool = False, max_accuracy_drop: float = 0.5,
    force: bool = False,
) -> Exported:  # fmt: skip
    """Write a folder with a page that classifies images in the browser: `index.html`, `model.js` and `runtime.js`.

    `model.js` holds what `export` to ONNX writes with `preprocessing`, compared with PyTorch as there.

    Args:
        model: a network from `googlenet.load` or `googlenet.import_weights`, or the path of a model file or run folder.
        output: the folder; an earlier page in it is replaced. Default: `web` in the run folder, next to the model file,
            or here for a network.
        runtime: a folder with the files of the npm package onnxruntime-web. Default: version 1.30.0 from the cache,
            downloaded if it is not there.
        int8: convolutions in 8-bit integers, which makes the model a quarter as large.
        calibration_data, data_dir, skip_unreadable, max_accuracy_drop, force: as in `export`.

    Raises:
        UserError: as `export`; for a `runtime` without the files, or an `output` with other files.
        RunError: as `export`; if the runtime cannot be downloaded.
    """
    if output is not None:
        target = expand(output)
    elif isinstance(model, nn.Module):
        target = Path("web")
    else:
        target = output_stem(model).with_name("web")
    place = target.resolve()
    _check_folder(place)
    _, info = load_or_check(model)
    source = find_runtime(None if runtime is None else expand(runtime))
    with disk_errors(target):
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as temporary:
            file, folder = Path(temporary) / "model.onnx", Path(temporary) / "page"
            exported = export(
                model, "onnx", file, int8=int8, preprocessing=True, calibration_data=calibration_data,
                data_dir=data_dir, skip_unreadable=skip_unreadable, max_accuracy_drop=max_accuracy_drop, force=force,
            )  # fmt: skip
            folder.mkdir()
            title = place.name if isinstance(model, nn.Module) else title_of(model)
            (folder / "index.html").write_text(_page(info, title), encoding="utf-8")
            (folder / "model.js").write_text(f'window.MODEL = "{_packed(file)}";\n', encoding="ascii")
            (folder / "runtime.js").write_text(_runtime_script(source), encoding="utf-8")
            place.mkdir(exist_ok=True)
            for written in folder.iterdir():  # not the folder itself, which may be the current one
                written.replace(place / written.name)
    return replace(exported, file=target, megabytes=(target / "model.js").stat().st_size / 1e6)


def find_runtime(folder: Path | None = None) -> Path:
    """The folder with the files of ONNX Runtime Web: the one given, or the verified one in the cache, downloaded if it
    is not there: from a CDN, or with npm if that fails.

    Raises:
        UserError: if `folder` does not have the files.
        RunError: if they cannot be downloaded.
    """
    if folder is not None:
        for place in (folder, folder / "dist", folder / "package" / "dist"):
            if all((place / name).is_file() for name in _DIGESTS):
                return place
        raise UserError(f"--runtime {folder} does not have {', '.join(_DIGESTS)} of the npm package onnxruntime-web")
    cached = cache_dir() / RUNTIME
    try:
        for name in _DIGESTS:
            download(mirrored(f"{_RUNTIME_URL}/{name}"), cached / name, partial(_verify, name=name))
    except DownloadError as error:
        if not _fetch_with_npm(cached):
            raise RunError(
                f"ONNX Runtime Web cannot be downloaded ({error}): on a machine with a network, run "
                f"npm pack {RUNTIME}, unpack the file, and use --runtime FOLDER"
            ) from error
    return cached


def _fetch_with_npm(target: Path) -> bool:
    """Whether npm, which knows the mirrors and proxies that its user has set up, could download the files."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", RUNTIME, "--silent", "--fetch-retries=0"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as files:
                for name in _DIGESTS:
                    files.extract(f"package/dist/{name}", folder, filter="data")
                    _verify(Path(folder) / "package" / "dist" / name, name)
            target.mkdir(parents=True, exist_ok=True)
            for name in _DIGESTS:
                with atomic_write(target / name) as temporary:
                    shutil.copyfile(Path(folder) / "package" / "dist" / name, temporary)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError, tarfile.TarError):
            return False
    return True


def _verify(file: Path, name: str) -> None:
    if sha256(file.read_bytes()) != _DIGESTS[name]:
        raise UserError(f"{name} is not the file of {RUNTIME}: unpack what npm pack {RUNTIME} fetches")


def _check_folder(target: Path) -> None:
    """Raises an error unless a folder can be written there, and what it replaces is an earlier page."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: the page is a folder; use another --output")
    if target.is_dir():
        others = {file.name for file in target.iterdir()} - {"index.html", "model.js", "runtime.js"}
        if others:
            raise UserError(f"{target} has other files ({printable(min(others))}): use another --output")
    else:
        check_writable(target)


def _page(info: ModelInfo, title: str) -> str:
    environment = Environment(
        loader=PackageLoader("googlenet", "inference"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("web.html.j2").render(
        title=title, classes=info.classes, top=TOP, channels=info.input.channels, decoded_size=info.input.decoded_size,
        threshold=None if info.known is None else info.known.threshold,
    )  # fmt: skip


def _packed(file: Path) -> str:
    """The content of a file, compressed, as base64: scripts may hold it, and many hosts do not compress such files."""
    return base64.b64encode(gzip.compress(file.read_bytes(), mtime=0)).decode()


def _runtime_script(folder: Path) -> str:
    script = (folder / _SCRIPT).read_text(encoding="utf-8").partition("\n//# sourceMappingURL")[0]
    parts = f'window.RUNTIME = {{loader: "{_packed(folder / _LOADER)}", wasm: "{_packed(folder / _WASM)}"}};'
    return f"{script}\n/*\n{_LICENSE}\n*/\n{parts}\n"
