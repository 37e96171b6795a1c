"""Where the dataset is found, how it is downloaded, and what happens to a damaged copy."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from googlenet import UserError, download
from googlenet.data import fashion_mnist
from googlenet.data.dataset import load_dataset
from googlenet.download import DownloadError
from tests.conftest import SMALL
from tests.servers import Mirror, serving


@pytest.fixture
def mirror(
    tmp_path: Path, small_files: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mirror]:
    """A mirror of the small dataset, which the package takes for all of it."""
    folder, digests = small_files
    served = tmp_path / "served"
    served.mkdir()
    for file in folder.iterdir():
        (served / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(fashion_mnist, "DIGESTS", digests)
    with serving(Mirror(served)) as server:
        monkeypatch.setenv("GOOGLENET_MIRROR", f"{server.url}/")
        yield server


def test_the_bundled_part_is_the_last_location() -> None:
    data = load_dataset("fashion-mnist")
    assert (len(data.train), len(data.test)) == (10_000, 10_000)
    assert data.train.images.shape[1:] == (1, 28, 28)
    assert torch.bincount(data.train.labels).tolist() == [1000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.source == "bundled with googlenet"
    assert "googlenet data fetch" in data.note


def test_the_bundled_part_by_its_name(small_data: Path) -> None:
    data = load_dataset("fashion-mnist", "bundled", splits=("test",))
    assert (len(data.train), len(data.test)) == (0, 10_000)
    assert fashion_mnist.read("bundled", splits=("test",)).train[0].shape == (0, 1, 28, 28)
    assert data.note and "fetch" not in data.note


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.exists(), reason="needs the Debian package dataset-fashion-mnist")
def test_debians_package_is_the_complete_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", Path("/usr/share/datasets/fashion-mnist"))
    data = load_dataset("fashion-mnist")
    assert (len(data.train), len(data.test), data.note) == (60_000, 10_000, "")
    mean, std = data.train.pixel_statistics()
    assert (mean[0], std[0]) == pytest.approx((0.2860, 0.3530), abs=1e-4)


def test_the_order_of_the_locations(
    tmp_path: Path, small_files: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digests = small_files
    monkeypatch.setattr(fashion_mnist, "DIGESTS", digests)

    def copy_to(target: Path) -> Path:
        target.mkdir(parents=True)
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        return target

    locations = [copy_to(tmp_path / "debian")]
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", locations[0])
    assert load_dataset("fashion-mnist").source == str(locations[0])
    locations.append(copy_to(fashion_mnist.cache_folder()))
    assert load_dataset("fashion-mnist").source == str(locations[1])
    monkeypatch.setenv("GOOGLENET_DATA", str(tmp_path / "variable"))
    nested = copy_to(tmp_path / "variable" / "fashion-mnist")
    assert load_dataset("fashion-mnist").source == str(nested)
    named = copy_to(tmp_path / "named")
    (named / "t10k-labels-idx1-ubyte").write_bytes(gzip.decompress((named / "t10k-labels-idx1-ubyte.gz").read_bytes()))
    (named / "t10k-labels-idx1-ubyte.gz").unlink()
    assert load_dataset("fashion-mnist", named).source == str(named)


def test_a_named_folder_without_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=tmp_path.name):
        load_dataset("fashion-mnist", tmp_path)
    with pytest.raises(UserError, match="cifar"):
        load_dataset("cifar")


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "magic", "other"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_of_the_dataset_is_named_and_never_used(
    damage: str, name: str, small_data: Path, tmp_path: Path
) -> None:
    for file in small_data.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / f"{name}.gz"
    content = gzip.decompress(path.read_bytes())
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "magic":
            path.write_bytes(gzip.compress(b"\x01" + content[1:]))
        case "other":
            path.write_bytes(gzip.compress(content[:-1] + bytes([content[-1] ^ 1])))
    with pytest.raises(UserError) as raised:
        load_dataset("fashion-mnist", tmp_path)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_fetching_from_a_mirror_fills_the_cache_once(mirror: Mirror) -> None:
    folder = fashion_mnist.fetch()
    assert folder == fashion_mnist.cache_folder()
    assert len(mirror.requests) == 4
    data = load_dataset("fashion-mnist")
    assert (len(data.train), len(data.test)) == (SMALL["train"], SMALL["t10k"])
    fashion_mnist.fetch()
    assert len(mirror.requests) == 4
    assert all(file.suffix == ".gz" for file in folder.iterdir())


def test_simultaneous_downloads_wait_for_each_other(mirror: Mirror) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: fashion_mnist.fetch(), range(4)))) == 1
    assert len(mirror.requests) == 4
    assert len(load_dataset("fashion-mnist").train) == SMALL["train"]


def test_a_file_system_without_locks(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.FileLock, "acquire", Mock(side_effect=OSError(37, "No locks available")))
    assert sorted(path.suffix for path in fashion_mnist.fetch().iterdir()) == [".gz"] * 4


@pytest.mark.parametrize("ignore_ranges", [False, True])
def test_a_broken_transfer_is_resumed(mirror: Mirror, ignore_ranges: bool) -> None:
    mirror.break_after = 1000
    mirror.ignore_ranges = ignore_ranges
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1"):
        fashion_mnist.fetch()
    part = fashion_mnist.cache_folder() / "train-images-idx3-ubyte.part.gz"
    assert part.stat().st_size == 1000
    assert load_dataset("fashion-mnist").note
    mirror.break_after = None
    fashion_mnist.fetch()
    assert any(wanted == "bytes=1000-" for _, wanted in mirror.requests)
    assert len(load_dataset("fashion-mnist").train) == SMALL["train"]


def test_a_wrong_file_from_a_mirror_is_not_kept(mirror: Mirror) -> None:
    (mirror.folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DownloadError, match="SHA-256"):
        fashion_mnist.fetch()
    assert list(fashion_mnist.cache_folder().iterdir()) == []
    assert load_dataset("fashion-mnist").note


@pytest.mark.parametrize("address", ["", "no scheme", "http://127.0.0.1:9", "the mirror without files"])
def test_no_address_answers(address: str, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    if not address.endswith("files"):
        monkeypatch.setenv("GOOGLENET_MIRROR", address)
    for file in mirror.folder.iterdir():
        file.unlink()
    with pytest.raises(DownloadError) as raised:
        fashion_mnist.fetch()
    assert "\n" not in str(raised.value)


def test_a_cache_that_cannot_be_written(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError):
        fashion_mnist.fetch()
    assert load_dataset("fashion-mnist").note


FAKE_APT = """#!/bin/sh
case "$*" in *download*) touch dataset-fashion-mnist_1_all.deb;; esac
"""
FAKE_DPKG = """#!/bin/sh
mkdir -p "$3/usr/share/datasets/fashion-mnist" && cp "$SERVED"/*.gz "$3/usr/share/datasets/fashion-mnist"
"""


@pytest.mark.parametrize("works", [True, False])
def test_debians_package_is_downloaded_if_no_address_answers(
    works: bool, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, real_apt: None
) -> None:
    for name, script in (("apt-get", FAKE_APT if works else "#!/bin/sh\nexit 100"), ("dpkg-deb", FAKE_DPKG)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SERVED", str(mirror.folder))
    monkeypatch.setenv("GOOGLENET_MIRROR", "http://127.0.0.1:9")
    if works:
        fashion_mnist.fetch()
        assert len(load_dataset("fashion-mnist").train) == SMALL["train"]
        assert sorted(path.name for path in fashion_mnist.cache_folder().iterdir()) == sorted(
            f"{name}.gz" for name in fashion_mnist.DIGESTS
        )
    else:
        with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9"):
            fashion_mnist.fetch()


def test_a_package_with_other_files_is_not_used(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, real_apt: None
) -> None:
    for name, script in (("apt-get", FAKE_APT), ("dpkg-deb", FAKE_DPKG)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    other = tmp_path / "other"
    other.mkdir()
    for name in fashion_mnist.DIGESTS:
        content = gzip.decompress((mirror.folder / f"{name}.gz").read_bytes())
        (other / f"{name}.gz").write_bytes(gzip.compress(content[:-1] + bytes((content[-1] ^ 1,))))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SERVED", str(other))
    monkeypatch.setenv("GOOGLENET_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DownloadError):
        fashion_mnist.fetch()
    assert not list(fashion_mnist.cache_folder().glob("*.gz"))


def test_a_complete_part_is_used(mirror: Mirror) -> None:
    whole = (mirror.folder / "t10k-labels-idx1-ubyte.gz").read_bytes()
    target = fashion_mnist.cache_folder() / "t10k-labels-idx1-ubyte.gz"
    target.parent.mkdir(parents=True)
    target.with_stem(f"{target.stem}.part").write_bytes(whole)
    url = f"{mirror.url}/{target.name}"
    download.download(url, target, lambda file: None)
    assert target.read_bytes() == whole


IMAGES = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 5)).flatmap(lambda s: arrays(np.uint8, s))


@given(IMAGES)
def test_idx_files_survive_a_round_trip(values: np.ndarray) -> None:
    np.testing.assert_array_equal(fashion_mnist.parse_idx(fashion_mnist.dump_idx(values), 3, "x"), values)


@given(st.binary(max_size=40), st.sampled_from([1, 3]))
def test_any_bytes_are_an_idx_array_or_a_clear_error(content: bytes, dimensions: int) -> None:
    try:
        values = fashion_mnist.parse_idx(content, dimensions, "some file")
    except UserError as error:
        assert "some file" in str(error)
        assert "\n" not in str(error)
    else:
        assert fashion_mnist.dump_idx(values) == content


@given(IMAGES, st.data())
def test_a_truncated_idx_file_is_an_error(values: np.ndarray, data: st.DataObject) -> None:
    content = fashion_mnist.dump_idx(values)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UserError):
        fashion_mnist.parse_idx(content[:cut], 3, "x")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_unpacks_to_too_much_is_not_unpacked(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "_MAX_BYTES", 1000)
    path = tmp_path / f"images{suffix}"
    for size in (1000, 1001, 10**8):
        content = bytes(size)
        path.write_bytes(gzip.compress(content[: 2**20], 1) * -(-size // 2**20) if suffix and size > 2000 else
                         gzip.compress(content) if suffix else content)  # fmt: skip
        if size == 1000:
            assert fashion_mnist.read_unpacked(path) == content
        else:
            with pytest.raises(UserError, match="larger"):
                fashion_mnist.read_unpacked(path)


def test_a_server_that_sends_without_end(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("googlenet.download._MAX_BYTES", 1000)
    with pytest.raises(DownloadError, match="more than 1,000 bytes"):
        fashion_mnist.fetch()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    with pytest.raises(UserError, match=r"labels\.gz"):
        fashion_mnist.read_unpacked(path)
    whole = gzip.compress(np.random.default_rng(0).bytes(1000))
    for content in (b"", whole[:-9], whole[:20], b"plain", whole[:30] + b"\x00" + whole[31:]):
        path.write_bytes(content)
        if content == b"":
            assert fashion_mnist.read_unpacked(path) == b""
            continue
        with pytest.raises(UserError, match=r"labels\.gz"):
            fashion_mnist.read_unpacked(path)
