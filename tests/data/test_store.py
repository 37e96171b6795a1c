"""Decoded images in the cache folder: built once, complete or not there, and never in the way."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet
from googlenet.data import folder, store
from googlenet.data.store import FileIndex, clear_stores, list_stores
from googlenet.errors import RunError, UserError
from googlenet.files import cache_dir
from tests.conftest import Call, needs_signals


def test_images_are_decoded_once(photos: Path, decoded: list[Path]) -> None:
    first = googlenet.load_dataset(photos, size=16)
    assert len(decoded) == 24
    again = googlenet.load_dataset(photos, size=16, seed=7, splits=("test",))  # another split of the same images
    assert len(decoded) == 24
    assert torch.equal(first.train.images, googlenet.load_dataset(photos, size=16).train.images)
    names = {name: first.train[number][0] for number, name in enumerate(first.train.files)}
    for number, name in enumerate(again.test.files):
        if name in names:
            assert torch.equal(again.test[number][0], names[name])
    googlenet.load_dataset(photos, size=20)
    assert len(decoded) == 48
    assert [info.images for info in list_stores()] == [24, 24]


def test_a_part_is_enough(photos: Path, decoded: list[Path]) -> None:
    test = googlenet.load_dataset(photos, size=16, splits=("test",)).test
    assert len(decoded) == len(test) == 4
    assert {str(path.relative_to(photos)) for path in decoded} == set(test.files)


def test_on_demand_decodes_what_is_used(photos: Path, decoded: list[Path]) -> None:
    dataset = googlenet.load_dataset(photos, size=16, on_demand=True)
    assert not decoded and not list_stores()
    images, _ = dataset.train.__getitems__([3, 5])
    assert images.shape == (2, 1, 16, 16) and len(decoded) == 2
    whole = googlenet.load_dataset(photos, size=16)
    assert torch.equal(images, whole.train.images[[3, 5]])
    for ours, theirs in zip(dataset.train.pixel_statistics(), whole.train.pixel_statistics(), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_statistics_are_those_of_the_pixels(photos: Path) -> None:
    train = googlenet.load_dataset(photos, size=16).train
    pixels = train.images.double() / 255
    mean, std = train.pixel_statistics()
    assert mean[0] == pytest.approx(float(pixels.mean()), abs=1e-4)
    assert std[0] == pytest.approx(float(pixels.std(correction=0)), abs=1e-4)


@pytest.mark.parametrize("file", ["pixels.npy", "digests.npy", "sums.npy", "store.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_store_is_built_again(file: str, damage: str, photos: Path, decoded: list[Path]) -> None:
    before = googlenet.load_dataset(photos, size=16).train.images.clone()
    damaged = list_stores()[0].path / file
    if damage == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert torch.equal(googlenet.load_dataset(photos, size=16).train.images, before)
    assert len(decoded) == 48 and len(list_stores()) == 1


def _write(path: Path, values: Any) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: _write(path / "pixels.npy", np.load(path / "pixels.npy").astype(np.float32)),
        lambda path: _write(path / "pixels.npy", np.load(path / "pixels.npy")[:, :, :8]),
        lambda path: _write(path / "pixels.npy", np.load(path / "pixels.npy")[None]),
        lambda path: _write(path / "digests.npy", np.load(path / "digests.npy").astype(object)),
        lambda path: _write(path / "digests.npy", np.load(path / "digests.npy") ^ 1),
        lambda path: _write(path / "sums.npy", np.load(path / "sums.npy").astype(np.int64)),
        lambda path: _write(path / "sums.npy", np.load(path / "sums.npy")[:-1]),
        lambda path: (path / "sums.npy").write_bytes(b"PK\3\4"),
        lambda path: (path / "store.json").write_text("[" * 100_000),
        lambda path: (path / "store.json").write_text("[]"),
    ],
)
def test_a_store_of_odd_values_is_built_again(damage: Any, photos: Path, decoded: list[Path]) -> None:
    before = googlenet.load_dataset(photos, size=16).train.images.clone()
    damage(list_stores()[0].path)
    assert torch.equal(googlenet.load_dataset(photos, size=16).train.images, before)
    assert len(decoded) == 48 and len(list_stores()) == 1


@needs_signals
def test_a_killed_build_leaves_nothing_that_counts(photos: Path) -> None:
    script = (
        "import os, sys, googlenet\n"
        "from googlenet.data import store\n"
        "original, calls = store.decode_resized, []\n"
        "def decode(*arguments):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 12: os.kill(os.getpid(), 9)\n"
        "    return original(*arguments)\n"
        "store.decode_resized = decode\n"
        "googlenet.load_dataset(sys.argv[1], size=16)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(photos)], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert list((cache_dir() / "pixels").glob(".*.tmp")) and not list_stores()
    googlenet.load_dataset(photos, size=16)
    assert not list((cache_dir() / "pixels").glob(".*.tmp")) and len(list_stores()) == 1


def test_the_least_recently_used_goes_first(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (16, 17, 18):
        googlenet.load_dataset(photos, size=size)
        info = next(info for info in list_stores() if info.decoding.size == size)
        os.utime(info.path, (time.time() - 1000 + size,) * 2)
    googlenet.load_dataset(photos, size=16)  # used now
    limit = sum(info.bytes for info in list_stores()) + 100
    monkeypatch.setenv("GOOGLENET_CACHE_GB", str(limit / 1e9))
    googlenet.load_dataset(photos, size=15)
    assert {info.decoding.size for info in list_stores()} == {15, 16, 18}


@pytest.mark.parametrize("in_memory", [True, False])
def test_without_room_training_goes_on(
    in_memory: bool, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    expected = googlenet.load_dataset(photos, size=16)
    clear_stores()
    monkeypatch.setenv("GOOGLENET_CACHE_GB", "0")
    monkeypatch.setattr(store, "memory_bytes", lambda: 2**34 if in_memory else 0)
    dataset = googlenet.load_dataset(photos, size=16)
    assert dataset.train.is_decoded == in_memory and not list_stores()
    assert "GOOGLENET_CACHE_GB" in caplog.text
    batches = [torch.arange(0, 7), torch.arange(7, 20)]
    images = torch.cat([images for images, _ in dataset.train.batches(batches)])
    assert torch.equal(images, expected.train.images)
    settings = {"image_size": 16, "batch_size": 8, "max_steps": 2, "plots": False, "recipe": "fast", "whiten": False}
    result = googlenet.train(data=photos, output=tmp_path / "run", **settings)
    assert result.metrics["test"]["accuracy"] >= 0


def test_a_cache_folder_that_is_a_file(photos: Path) -> None:
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    cache_dir().write_text("not a folder")
    dataset = googlenet.load_dataset(photos, size=16)
    assert len(dataset.train) == 20 and dataset.train.is_decoded


def test_an_invalid_limit(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLENET_CACHE_GB", "lots")
    with pytest.raises(UserError, match="GOOGLENET_CACHE_GB"):
        googlenet.load_dataset(photos, size=16)


def test_files_that_cannot_be_decoded_are_named_by_every_run(photos: Path) -> None:
    damaged = photos / "boot" / "cut.jpg"
    Image.effect_noise((64, 64), 80).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-400])
    for _ in range(2):  # decoded, and from the store
        with pytest.raises(UserError, match=r"cut\.jpg"):
            googlenet.load_dataset(photos, size=16)
    dataset = googlenet.load_dataset(photos, size=16, skip_unreadable=True)
    assert len(dataset.skipped) == 1 and "cut.jpg" in dataset.skipped[0]
    copy = photos / "boot" / "moved.jpg"
    damaged.rename(copy)
    with pytest.raises(UserError, match=r"moved\.jpg"):
        googlenet.load_dataset(photos, size=16)


def test_an_error_that_has_passed_is_not_remembered(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = photos / "boot" / "large.png"
    Image.effect_noise((300, 300), 80).save(large)
    googlenet.load_dataset(photos, size=20)  # its header is known from now on
    monkeypatch.setenv("GOOGLENET_MAX_PIXELS", "10000")
    with pytest.raises(UserError, match=r"large\.png"):
        googlenet.load_dataset(photos, size=16)
    monkeypatch.delenv("GOOGLENET_MAX_PIXELS")
    dataset = googlenet.load_dataset(photos, size=16)
    assert len(dataset.train) + len(dataset.test) == 25


def test_on_demand_skips_what_cannot_be_decoded(photos: Path) -> None:
    damaged = photos / "boot" / "cut.jpg"
    Image.effect_noise((64, 64), 80).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-400])
    dataset = googlenet.load_dataset(photos, size=16, on_demand=True, skip_unreadable=True)
    assert len(dataset.skipped) == 1 and len(dataset.train.images) == len(dataset.train)


def test_unchanged_files_are_not_read_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_RACY_NS", 0)
    read: list[Path] = []
    original = folder.decode.read_header

    def read_header(path: Any, content: bytes | None = None) -> Any:
        read.append(Path(path))
        return original(path, content)

    monkeypatch.setattr(folder.decode, "read_header", read_header)
    first = googlenet.load_dataset(photos, size=16)
    assert len(read) == 24
    assert googlenet.load_dataset(photos, size=16).digest == first.digest
    assert len(read) == 24
    changed = sorted((photos / "boot").iterdir())[0]
    Image.fromarray(np.full((28, 28), 7, np.uint8)).save(changed)
    assert googlenet.load_dataset(photos, size=16).digest != first.digest
    assert read[24:] == [changed]


def test_a_file_that_just_changed_is_read_again(photos: Path) -> None:
    googlenet.load_dataset(photos, size=16)
    paths = sorted((photos / "boot").iterdir())
    assert not FileIndex().known(paths)  # written within the last two seconds: the clock may not tell a change


def test_a_damaged_index_is_no_obstacle(photos: Path) -> None:
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "files.sqlite").write_bytes(b"not a database" * 100)
    assert len(googlenet.load_dataset(photos, size=16).train) == 20


def test_how_much_room_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "limit_bytes", lambda: 100)
    store._make_room(tmp_path / "new", 100)
    with pytest.raises(RunError, match="GOOGLENET_CACHE_GB"):
        store._make_room(tmp_path / "new", 101)
    for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
        (tmp_path / f".{name}.tmp").mkdir()
        os.utime(tmp_path / f".{name}.tmp", (time.time() - age,) * 2)
    store._make_room(tmp_path, 10)
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [".young.tmp"]


def test_how_much_of_the_disk_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a store").mkdir()
    free = 10**8 * 1.02 + 2**20
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    store._make_room(tmp_path, 10**8)
    assert (tmp_path / "a store").exists()
    free -= 1
    store._make_room(tmp_path, 10**8)  # there is room, but only just
    assert not (tmp_path / "a store").exists()
    free = 10**8
    with pytest.raises(RunError, match="disk"):
        store._make_room(tmp_path, 10**8)


@pytest.mark.parametrize("processes", [1, 2])
def test_how_much_is_kept_in_memory(processes: int, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(photos.rglob("*.png"))
    contents, decoding = [store.Content(b"digest", path)], store.Decoding(1, 16, "stretch")
    monkeypatch.setenv("GOOGLENET_CACHE_GB", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    for spare, is_kept in ((0, True), (-1, False)):
        monkeypatch.setattr(store, "memory_bytes", lambda spare=spare: 16 * 16 * 4 * processes + spare)
        pixels = store.open_store(contents, contents, decoding).pixels
        assert isinstance(pixels, torch.Tensor) == is_kept


def test_a_store_is_built_unless_it_is_refused(photos: Path) -> None:
    path = next(photos.rglob("*.png"))
    contents, decoding = [store.Content(b"digest", path)], store.Decoding(1, 16, "stretch")
    kept = store.open_store(contents, contents, decoding, on_demand=True)
    assert isinstance(kept.pixels, store.PixelsOnDemand) and not list_stores()
    built = store.open_store(contents, contents, decoding)
    assert isinstance(built.pixels, torch.Tensor) and len(list_stores()) == 1
    assert torch.equal(built.pixels[0], kept.pixels[torch.tensor(0)])


def test_odd_values_in_the_index_are_no_obstacle(photos: Path) -> None:
    path = next(photos.rglob("*.png"))
    times = folder.file_times(path)
    assert times is not None
    index = FileIndex()
    index._path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(index._path) as database:
        database.execute("CREATE TABLE files (path, size, modified, changed, digest, mode, width, height, frames)")
        for digest, mode in (("text", "L"), (b"digest", None)):
            row = (os.fsencode(path), *times, digest, mode, 28, 28, 1)
            database.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    assert index.known([path]) == {}


def test_the_command(photos: Path, call: Call) -> None:
    googlenet.load_dataset(photos, size=16)
    assert "24 images 1x16x16" in call("data", "cache")[0]
    listed = json.loads(call("data", "cache", "--json")[0])
    assert [row["images"] for row in listed["stores"]] == [24] and listed["limit_bytes"] == 20e9
    assert json.loads(call("data", "cache", "--clear", "--json")[0])["freed_bytes"] > 24 * 16 * 16
    assert not list_stores()


def test_a_store_that_vanishes_while_it_is_built(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = store._decode_into

    def decode_into(*arguments: Any) -> Any:
        shutil.rmtree(cache_dir() / "pixels", ignore_errors=True)
        return original(*arguments)

    monkeypatch.setattr(store, "_decode_into", decode_into)
    assert len(googlenet.load_dataset(photos, size=16).train) == 20
