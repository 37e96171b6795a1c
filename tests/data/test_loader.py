"""Datasets by name or from a folder, from public names, and the tutorial's data loaders."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import googlenet
from googlenet.data import fashion_mnist
from googlenet.data.store import clear_stores
from googlenet.device import available_cores


def test_a_folder_becomes_a_dataset(photos: Path) -> None:
    dataset = googlenet.load_dataset(photos, size=32)
    assert isinstance(dataset, googlenet.ImageDataset) and isinstance(dataset.train, googlenet.ImageSplit)
    assert (dataset.classes, dataset.channels, dataset.source) == (("boot", "trouser"), 1, str(photos))
    assert dataset.train.images.shape == (20, 1, 32, 32)
    assert dataset.class_counts() == {"boot": {"train": 10, "test": 2}, "trouser": {"train": 10, "test": 2}}
    image, label = dataset.test[0]
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((1, 32, 32), torch.uint8, (), torch.int64)
    assert googlenet.load_dataset(f"{photos}/", channels=3, size=32).train.images.shape == (20, 3, 32, 32)
    renamed = googlenet.load_dataset(str(photos), classes=("trouser", "sock", "boot"), size=32)
    assert renamed.class_counts()["sock"] == {"train": 0, "test": 0}
    assert renamed.train.labels.unique().tolist() == [0, 2]


def test_images_are_cropped_or_stretched(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40), np.uint8)
    for shade, name in zip((255, 200, 190, 180), ("a/1.png", "a/2.png", "b/1.png", "b/2.png"), strict=True):
        pixels[:, 10:30] = shade
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    load = {"size": 20, "test_fraction": 0.5}
    assert googlenet.load_dataset(tmp_path, **load).train.images.float().mean() < 130
    cropped = googlenet.load_dataset(tmp_path, resize="crop", **load).train.images
    assert (cropped == cropped[:, :, :1, :1]).all()


@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_only_the_splits_asked_for_are_decoded(split: str, photos: Path, decoded: list[Path]) -> None:
    for name in ("train", "val", "test"):
        (photos.parent / "splits" / name).mkdir(parents=True)
        for folder in photos.iterdir():
            copy = shutil.copytree(folder, photos.parent / "splits" / name / folder.name)
            for file in copy.iterdir():
                file.write_bytes(file.read_bytes() + name.encode())  # other content, the same pixels
    whole = googlenet.load_dataset(photos.parent / "splits", size=16)
    assert len(decoded) == 72
    clear_stores()
    decoded.clear()
    part = googlenet.load_dataset(photos.parent / "splits", size=16, splits=(split,))
    assert {path.relative_to(photos.parent / "splits").parts[0][:3] for path in decoded} == {split[:3]}
    assert len(decoded) == 24
    assert torch.equal(getattr(part, split).images, getattr(whole, split).images)
    assert part.digest == whole.digest
    assert part.channels == whole.channels
    others = {"train", "test", "validation"} - {split}
    assert [len(getattr(part, name) or ()) for name in others] == [0, 0]


def test_the_test_images_do_not_depend_on_the_splits_asked_for(photos: Path) -> None:
    whole = googlenet.load_dataset(photos, size=16, seed=5)
    assert torch.equal(googlenet.load_dataset(photos, size=16, seed=5, splits=["test"]).test.images, whole.test.images)
    everything = googlenet.load_dataset(photos, size=16, test_fraction=1.0)
    assert (len(everything.train), len(everything.test)) == (0, 24)


def test_only_the_files_of_the_splits_asked_for_are_read(small_data: Path, tmp_path: Path) -> None:
    for file in small_data.glob("t10k*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    dataset = googlenet.load_dataset("fashion-mnist", tmp_path, splits=("test",))
    assert (len(dataset.train), len(dataset.test), dataset.channels) == (0, 160, 1)
    assert dataset.digest == googlenet.load_dataset().digest


def test_a_path_is_not_a_name(photos: Path, monkeypatch: pytest.MonkeyPatch, small_data: Path) -> None:
    monkeypatch.chdir(photos.parent)
    photos.rename("fashion-mnist")
    assert googlenet.load_dataset(Path("fashion-mnist"), size=16).classes == ("boot", "trouser")
    assert len(googlenet.load_dataset("fashion-mnist").classes) == 10


def test_a_tilde_is_the_home_folder(photos: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    assert googlenet.load_dataset("~/photos", size=16).source == str(photos)
    monkeypatch.setenv("HOME", str(small_data.parent))
    assert googlenet.load_dataset("fashion-mnist", f"~/{small_data.name}").source == str(small_data)
    monkeypatch.setenv("GOOGLENET_DATA", f"~/{small_data.name}")
    assert fashion_mnist.find() == small_data


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"name_or_folder": "cifar"}, "cifar"),
        ({"name_or_folder": "x" * 300}, "xxx"),
        ({"name_or_folder": "a\0b"}, "dataset"),
        ({"data_dir": "no such folder"}, "no such folder"),
        ({"splits": ("train", "dev")}, "dev"),
        ({"size": 0}, "size"),
        ({"channels": 2}, "channels"),
        ({"resize": "squash"}, "resize"),
        ({"test_fraction": 1.5}, "test_fraction"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], named: str, photos: Path) -> None:
    with pytest.raises(googlenet.UserError, match=named):
        googlenet.load_dataset(**{"name_or_folder": "fashion-mnist" if "data_dir" in wrong else photos, **wrong})


def test_loading_leaves_the_process_as_it_is(photos: Path, small_data: Path) -> None:
    (photos / "boot" / "odd.png").write_bytes(b"")
    torch.manual_seed(3)
    before = (list(warnings.filters), torch.get_rng_state().tolist(), torch.get_num_threads(), dict(os.environ))
    googlenet.load_dataset(photos, size=16, skip_unreadable=True)
    googlenet.load_data(batch_size=8)
    after = (list(warnings.filters), torch.get_rng_state().tolist(), torch.get_num_threads(), dict(os.environ))
    assert after == before


@pytest.mark.parametrize("workers", [0, 2])
def test_the_tutorials_loaders(workers: int, small_data: Path) -> None:
    train_iter, test_iter = googlenet.load_data(batch_size=48, num_workers=workers, resize=56)
    images, labels = next(iter(train_iter))
    assert (images.shape, images.dtype) == ((48, 1, 56, 56), torch.float32)
    assert (labels.shape, labels.dtype) == ((48,), torch.int64)
    assert images.min() >= 0
    assert 0.9 < images.max() <= 1
    tested = [labels for _, labels in test_iter]
    assert [len(labels) for labels in tested] == [48, 48, 48, 16]
    first, second = (torch.cat([labels for _, labels in train_iter]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat(tested), torch.cat([labels for _, labels in test_iter]))


def test_workers_prepare_the_batches(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the calling process would resize if the workers did not."""
    train_iter, _ = googlenet.load_data(batch_size=48, num_workers=1, resize=56)
    caller = os.getpid()

    def prepare(spec: googlenet.InputSpec, images: torch.Tensor) -> torch.Tensor:
        assert os.getpid() != caller
        return torch.full((len(images), 1, spec.size, spec.size), 7.0)

    monkeypatch.setattr(googlenet.InputSpec, "prepare", prepare)
    images, _ = next(iter(train_iter))
    assert (images == 7).all() and images.shape == (48, 1, 56, 56)


def test_more_workers_than_cores_are_not_started(small_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_iter, _ = googlenet.load_data(batch_size=48, num_workers=1000)
    assert train_iter.num_workers == available_cores()


def test_the_tutorials_loaders_take_a_folder(photos: Path) -> None:
    train_iter, test_iter = googlenet.load_data(batch_size=8, resize=40, data=photos)
    assert next(iter(train_iter))[0].shape == (8, 1, 40, 40)
    assert sum(len(labels) for _, labels in test_iter) == 4
    assert next(iter(googlenet.load_data(batch_size=8, data=str(photos))[1]))[0].shape == (4, 1, 224, 224)


def test_the_tutorials_loop_runs(small_data: Path) -> None:
    """Its hand-written training, a few batches of it, with our network and loaders."""
    train_iter, _ = googlenet.load_data(batch_size=16, num_workers=0, resize=56)
    net = googlenet.create_model("tutorial", num_classes=10, in_channels=1)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for (images, labels), _ in zip(train_iter, range(3), strict=False):
        loss = criterion(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"resize": 0}, {"num_workers": -1}])
def test_loaders_name_a_number_that_is_too_small(wrong: dict[str, int]) -> None:
    with pytest.raises(googlenet.UserError, match=next(iter(wrong))):
        googlenet.load_data(**{"batch_size": 4, **wrong})


def test_the_bundled_part_is_announced(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("googlenet.console.log.propagate", True)
    train_iter, _ = googlenet.load_data(batch_size=100)
    assert len(train_iter) == 100
    assert "googlenet data fetch" in caplog.text


def test_too_little_shared_memory_for_workers(
    small_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's workers would fail, and the process would hang."""
    monkeypatch.setattr("googlenet.data.loader._shared_memory", lambda: 1e6)
    train_iter, _ = googlenet.load_data(batch_size=64, num_workers=2, resize=224)
    assert train_iter.num_workers == 0
    assert "num_workers" in capsys.readouterr().out
    assert googlenet.load_data(batch_size=4, num_workers=1, resize=28)[0].num_workers == 1


def test_a_worker_that_dies(small_data: Path) -> None:
    train_iter, _ = googlenet.load_data(batch_size=4, num_workers=1, resize=28)
    with pytest.raises(googlenet.RunError, match="num_workers"):
        for _ in train_iter:
            for child in multiprocessing.active_children():
                child.kill()
