"""The C beside this file as functions: compiled once by the machine's own compiler, kept in the cache folder.

Where there is no compiler, or it does not manage, there is no function, and whoever asks does without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import platformdirs
import torch

_COMPILE_SECONDS = 60


@functools.cache
def compiled(source: str, definition: str) -> ctypes.CDLL | None:
    """The shared library of one C file, compiled with `-D definition`; None where it cannot be had."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    text = resources.files("googlenet.native").joinpath(source).read_text(encoding="utf-8")
    # A cache folder may be shared by machines with other processors, and outlive this installation of torch
    made_for = (
        text,
        definition,
        compiler,
        torch.__version__,
        str(_openmp()),
        sorted(torch.cpu.get_capabilities().items()),
    )
    digest = hashlib.sha256(repr(made_for).encode()).hexdigest()[:16]
    target = Path(platformdirs.user_cache_dir("googlenet", appauthor=False)) / "native" / f"{definition}-{digest}.so"
    try:
        if not target.exists():
            _compile(compiler, text, definition, target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, text: str, definition: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        source, unit, library = (Path(scratch) / f"native.{suffix}" for suffix in ("c", "o", "so"))
        source.write_text(text, encoding="utf-8")
        flags = ("-O3", "-march=native", "-fPIC", "-fopenmp", f"-D{definition}")
        run = functools.partial(subprocess.run, check=True, capture_output=True, timeout=_COMPILE_SECONDS)
        run((compiler, *flags, "-c", str(source), "-o", str(unit)))
        # Linked to the OpenMP that torch brings, so that both share one set of threads instead of fighting over cores
        openmp = _openmp()
        run((compiler, "-shared", str(unit), "-o", str(library), str(openmp) if openmp else "-fopenmp"))
        library.replace(target)


def _openmp() -> Path | None:
    folder = Path(torch.__file__).parent
    bundled = [*folder.glob("lib/libgomp*.so*"), *folder.with_name("torch.libs").glob("libgomp*.so*")]
    return bundled[0] if bundled else None
