"""What many tests need: a small real data set, a trained run, and no network."""

from __future__ import annotations

import gzip
import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

# Before torch is imported: several test processes share the cores, and threads that wait for each other take longest.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import googlenet
from googlenet import cli
from googlenet.data import fashion_mnist, pack

# Before a test has a cache of its own: to list this machine's fonts again takes seconds.
os.environ.setdefault("MPLCONFIGDIR", matplotlib.get_cachedir())

SMALL = {"train": 320, "t10k": 160}
_numbers = itertools.count()
Result = TypeVar("Result")


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Result]) -> Result:
    """What `build` returns for a new folder, built by the first of the test processes that needs it. It is pickled."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    kept = root / f"{name}.pickle"
    with FileLock(root / f"{name}.lock"):
        if not kept.exists():
            folder = root / name
            folder.mkdir()
            result = build(folder)
            kept.write_bytes(pickle.dumps(result))
        return cast(Result, pickle.loads(kept.read_bytes()))


needs_signals = pytest.mark.skipif(os.name == "nt", reason="on Windows, os.kill ends the process")


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test looks into this machine's data folders or at its network."""
    nowhere = tmp_path_factory.getbasetemp() / "isolated" / str(next(_numbers))  # `mktemp` would list all earlier ones
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "cache"))
    monkeypatch.setenv("GOOGLENET_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.delenv("GOOGLENET_DATA", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", nowhere / "no-debian-package")
    monkeypatch.setattr(fashion_mnist, "_fetch_through_apt", _no_apt)
    yield
    torch.set_default_dtype(torch.float32)


_fetch_through_apt = fashion_mnist._fetch_through_apt


def _no_apt(folder: Path) -> None:
    raise OSError("no apt in tests")


@pytest.fixture
def real_apt(isolated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that replace `apt-get` itself."""
    monkeypatch.setattr(fashion_mnist, "_fetch_through_apt", _fetch_through_apt)


def bundled(name: str) -> np.ndarray:
    """A bundled file's array: real Fashion-MNIST."""
    content = (resources.files("googlenet.data") / "bundled" / f"{name}.gz").read_bytes()
    return fashion_mnist.parse_idx(gzip.decompress(content), 3 if "images" in name else 1, name)


def write_small_fashion_mnist(folder: Path) -> dict[str, str]:
    """The first few real images of each split as IDX files; returns their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name in fashion_mnist.DIGESTS:
        content = fashion_mnist.dump_idx(bundled(name)[: SMALL[name.partition("-")[0]]])
        digests[name] = fashion_mnist.sha256(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    return digests


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("small-fashion-mnist")
    return folder, write_small_fashion_mnist(folder)


@pytest.fixture
def small_data(small_files: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 320 training and 160 test images, which the package takes for the whole of Fashion-MNIST."""
    folder, digests = small_files
    monkeypatch.setattr(fashion_mnist, "DIGESTS", digests)
    monkeypatch.setenv("GOOGLENET_DATA", str(folder))
    return folder


QUICK: dict[str, Any] = {
    "image_size": 28,
    "stem_stride": 2,
    "batch_size": 32,
    "epochs": 2,
    "precision": "fp32",
    "optimizer": "adamw",
    "learning_rate": 0.004,
    "warmup": 0.25,
    "hflip": True,
    "dropout": 0.2,
    "plots": False,
}
"""Settings with which a run on the small data takes a few seconds. Plots would take as long as training."""

TINY: dict[str, Any] = {**QUICK, "image_size": 16, "epochs": 1, "max_test_images": 40}
"""As quick as it gets: half a second, and learns little."""


@pytest.fixture(scope="session")
def trained(
    small_files: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> googlenet.TrainingResult:
    """A finished run on the small data. It is shared: tests must not change it."""
    folder, digests = small_files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "DIGESTS", digests)
        settings = {**QUICK, "plots": True}
        return googlenet.train(output=tmp_path_factory.mktemp("run") / "shared", data_dir=str(folder), **settings)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images of Fashion-MNIST, and a file that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(bundled("t10k-images-idx3-ubyte")[:5]):
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", of_each=12)
    return tmp_path / "photos"


def write_photos(folder: Path, *, of_each: int) -> None:
    """Real images of boots and trousers, in a folder for each class."""
    images, labels = bundled("t10k-images-idx3-ubyte"), bundled("t10k-labels-idx1-ubyte")
    for name, label in (("boot", 9), ("trouser", 1)):
        (folder / name).mkdir(parents=True)
        for number in (labels == label).nonzero()[0][:of_each]:
            Image.fromarray(images[number]).save(folder / name / f"{number}.png")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 90 boots and trousers, and its shards: 72 training images in blocks of 5. Tests must not change
    them."""
    folder = tmp_path_factory.mktemp("packed")
    write_photos(folder / "photos", of_each=45)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(pack, "BLOCK_IMAGES", 5)
        pack.pack(folder / "photos", folder / "shards", shard_bytes=8000)
    return folder / "photos", folder / "shards"


class Call:
    """Calls a command in this process, in an empty folder: its standard output and standard error.

    With exit code 2, standard error must be one line.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        self.capsys.readouterr()  # what an earlier `train` of the same test printed
        with pytest.raises(SystemExit) as exit:
            cli.main(list(map(str, arguments)))
        out, err = self.capsys.readouterr()
        assert exit.value.code == code, (arguments, out, err)
        if code == 2:
            assert_one_line(err)
        return out, err


def assert_one_line(err: str) -> None:
    assert err.startswith("googlenet: ") and err.count("\n") == 1, err


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Call(capsys)
