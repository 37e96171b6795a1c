"""googlenet doctor, --version and --install-completion."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from cyclopts import Parameter

from googlenet.cli import options
from googlenet.errors import RunError, UserError, reason_of
from googlenet.files import cache_dir, check_writable

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Status = Literal["ok", "missing", "problem"]
"""missing: googlenet works without it. problem: something that it needs."""

_MIN_FREE = 1e9  # Bytes: decoded images and checkpoints of a small data set

_EXTRAS = {
    "check": "finding near duplicates and wrong labels (data check)",
    "demo": "the page of googlenet demo",
    "export": "ONNX files (export, predict)",
    "heic": "HEIC images",
    "hub": "the Hugging Face Hub (push, hf:owner/name)",
    "openvino": "OpenVINO files and int8 (export, predict)",
    "parquet": "Parquet files",
    "stream": "shards on a web server or the Hugging Face Hub (train --data)",
    "tensorboard": "train --tracker tensorboard",
}
"""What each extra of pyproject.toml is for."""

_ENGINES = ("onnxruntime", "openvino")  # They have parts in C++, which may fail to load


class Check(NamedTuple):
    """One line of the report."""

    name: str
    status: Status
    found: str
    advice: str = ""


@options.app.command
def doctor(*, json: options.Json = False) -> int:
    """Check this machine: PyTorch, GPU, compiler, data, cache, disk, optional packages; says what to install for what.

    The exit code is 1 if something is missing that googlenet needs.
    """
    checks = list(run_checks())
    is_healthy = all(check.status != "problem" for check in checks)
    if json:
        options.print_json({"healthy": is_healthy, "checks": [check._asdict() for check in checks]})
        return 0 if is_healthy else 1
    for check in checks:
        print(f"{check.status:<7}  {check.name:<11}  {check.found}")
        if check.advice:
            print(f"{'':22}{check.advice}")
    print("ready to train" if is_healthy else "not ready: solve what is marked as a problem")
    return 0 if is_healthy else 1


@options.app.command(name="--install-completion")
def install_completion(
    *,
    shell: Annotated[
        Literal["bash", "zsh", "fish"] | None, Parameter(help="Default: the shell that runs this command.")
    ] = None,
) -> int:
    """Install completion for this shell: Tab completes commands, options and their values."""
    from cyclopts.completion.detect import ShellDetectionError

    try:
        path = options.app.install_completion(shell=shell)
    except ShellDetectionError as error:
        raise UserError("cannot tell which shell this is: add --shell bash, zsh or fish") from error
    print(f"{path}: open another shell to use it")
    return 0


@options.app.command(name="--version")
def print_version() -> int:
    """Print versions, system and device in one line, for bug reports."""
    print(version_line())
    return 0


def version_line() -> str:
    """googlenet, Python, PyTorch, system and device."""
    parts = [f"googlenet {_version('googlenet')}", f"Python {platform.python_version()}"]
    try:
        from googlenet.device import describe, resolve_device
    except Exception as error:  # whatever a broken installation of PyTorch raises
        return ", ".join([*parts, f"PyTorch cannot be imported: {reason_of(error)}"])
    import torch

    facts = describe(resolve_device("auto"))
    gpu = [facts["device_name"]] if facts["device"] != "cpu" else []
    bf16 = "bf16" if facts["native_bf16"] else "no bf16"
    processor = f"{facts['processor']}, {facts['cores']} cores, {bf16}"
    return ", ".join([*parts, f"PyTorch {torch.__version__}", facts["system"], processor, *gpu])


def run_checks() -> Iterator[Check]:
    """Every check, in the order of the report."""
    yield _python_packages()
    torch_check = _torch()
    yield torch_check
    if torch_check.status != "problem":
        yield from _device()
        yield _compiler()
        yield _data()
    yield _cache()
    yield _disk()
    yield from _extras()


def _python_packages() -> Check:
    """The packages that googlenet requires, at the versions that it requires."""
    missing = _missing(_requirements())
    found = f"{_version('googlenet')} on Python {platform.python_version()} ({sys.executable})"
    if not missing:
        return Check("googlenet", "ok", found)
    return Check("googlenet", "problem", f"{found} lacks {', '.join(missing)}", _pip(missing))


def _torch() -> Check:
    try:
        import torch
    except Exception as error:  # whatever a broken installation raises
        found = f"cannot be imported: {reason_of(error)}"
        return Check("PyTorch", "problem", found, "pip install --force-reinstall torch")
    return Check("PyTorch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _device() -> Iterator[Check]:
    from googlenet.device import describe, resolve_device, resolve_precision

    device = resolve_device("auto")
    facts = describe(device)
    yield Check("processor", "ok", f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB")
    if device.type != "cpu":
        yield Check("GPU", "ok", facts["device_name"])
    elif shutil.which("nvidia-smi"):
        advice = "this PyTorch is for CPUs, or for another driver: see https://pytorch.org/get-started/locally"
        yield Check("GPU", "missing", "there is an NVIDIA driver, but PyTorch cannot use it", advice)
    else:
        yield Check("GPU", "missing", "none; a small network trains on the CPU")
    precision = resolve_precision("auto", device)
    if precision == "fp32":
        yield Check("bf16", "missing", "this processor has none: training in fp32 is slower")
    else:
        yield Check("bf16" if precision == "bf16" else "fp16", "ok", f"{device.type} computes in it")


def _compiler() -> Check:
    from googlenet.kernels.max_pool import library

    if library("FLOAT32") is not None:
        return Check("compiler", "ok", "the C max pool is compiled: faster training on the CPU, in less memory")
    if not sys.platform.startswith("linux"):
        return Check("compiler", "missing", "the C max pool is for Linux; PyTorch's is used")
    found = "no C compiler, or no OpenMP for it: PyTorch's max pool is used, which is slower"
    return Check("compiler", "missing", found, "apt-get install gcc, dnf install gcc or conda install gcc")


def _data() -> Check:
    from googlenet.data.fashion_mnist import find

    try:
        folder = find()
    except UserError as error:
        return Check("data", "problem", str(error), "correct the variable GOOGLENET_DATA, or unset it")
    if folder is not None:
        return Check("data", "ok", f"Fashion-MNIST in {folder}")
    found = "Fashion-MNIST is downloaded at the first use; without a network a sixth of it is used"
    return Check("data", "missing", found, "googlenet data fetch fashion-mnist")


def _cache() -> Check:
    folder = cache_dir()
    try:
        check_writable(folder / "pixels" / "x")
    except RunError as error:
        return Check(
            "cache",
            "missing",
            f"{error}: every run decodes images again",
            "set the variable XDG_CACHE_HOME to a folder of yours",
        )
    return Check("cache", "ok", str(folder))


def _disk() -> Check:
    places = {"here": Path.cwd(), "in the cache": next(p for p in (cache_dir(), *cache_dir().parents) if p.exists())}
    free = {name: shutil.disk_usage(place).free for name, place in places.items()}
    found = ", ".join(f"{size / 1e9:,.1f} GB free {name}" for name, size in free.items())
    if min(free.values()) < _MIN_FREE:
        return Check("disk", "problem", found, "googlenet data cache --clear frees what decoded images take")
    return Check("disk", "ok", found)


def _extras() -> Iterator[Check]:
    for extra, purpose in _EXTRAS.items():
        wanted = _requirements(extra)
        names = [requirement.name for requirement in wanted]
        errors = {name: error for name in names if name in _ENGINES and (error := _import_error(name))}
        if missing := _missing(wanted):
            yield Check(extra, "missing", purpose, _pip(missing))
        elif errors:
            found = ", ".join(f"{name} cannot be imported: {error}" for name, error in errors.items())
            yield Check(extra, "missing", found, f"pip install --force-reinstall {' '.join(errors)}")
        else:
            yield Check(extra, "ok", ", ".join(f"{name} {_version(name)}" for name in names))


def _requirements(extra: str = "") -> list[Requirement]:
    """What pyproject.toml requires: always, or for an extra."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("googlenet") or ()]
    if not extra:
        return [requirement for requirement in wanted if requirement.marker is None]
    return [r for r in wanted if r.marker is not None and r.marker.evaluate({"extra": extra})]


def _missing(requirements: list[Requirement]) -> list[str]:
    """Those that are not installed, or in a version that does not fit."""
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in requirements
        if not requirement.specifier.contains(_version(requirement.name) or "0", prereleases=True)
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _import_error(name: str) -> str:
    try:
        import_module(name)
    except Exception as error:  # whatever a broken installation raises
        return reason_of(error)
    return ""


def _pip(requirements: list[str]) -> str:
    return "pip install " + " ".join(f"'{requirement}'" for requirement in requirements)
