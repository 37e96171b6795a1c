"""Packing a folder into shards, and reading shards from a folder, a web server and the Hub."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import Tensor

import googlenet
from googlenet import ImageDataset, InputSpec, ModelInfo, RunError, UserError, create_model, load_dataset
from googlenet.data import hub_data, pack as packing, sharded, storage
from googlenet.data.pack import SUMS, pack
from googlenet.data.shard_scan import find_splits
from googlenet.data.shards import INDEX, ShardIndex
from googlenet.evaluation.report import load_eval_data
from tests.conftest import Call, write_photos
from tests.servers import Hub, Mirror, serving

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def shards(packed: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(packed[1], tmp_path / "copy")


@pytest.fixture
def mirror(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(storage, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(sharded, "COPIED_BYTES", 0)
    with serving(Mirror(shards.parent)) as server:
        yield server


def read_test_images(dataset: ImageDataset) -> Tensor:
    return dataset.test.images


def assert_same_test_images(one: ImageDataset, other: ImageDataset) -> None:
    """By their names, in any order."""
    places = {Path(name).name: place for place, name in enumerate(other.test.files)}
    order = torch.tensor([places[Path(name).name] for name in one.test.files])
    assert len(one.test) == len(other.test)
    assert torch.equal(one.test.labels, other.test.labels[order])
    assert torch.equal(one.test.images, other.test.images[order])


def test_shards_have_the_images_and_splits_of_the_folder(packed: tuple[Path, Path]) -> None:
    folder, sharded = load_dataset(packed[0], size=28), load_dataset(packed[1], size=28)
    assert (sharded.classes, sharded.channels) == (folder.classes, 1)
    assert sharded.train.image_shape == (1, 28, 28) and not sharded.train.is_decoded
    assert_same_test_images(sharded, folder)
    assert sorted(sharded.train.labels.tolist()) == sorted(folder.train.labels.tolist())
    sums = [sorted(split.images.sum((1, 2, 3)).tolist()) for split in (sharded.train, folder.train)]
    assert sums[0] == sums[1]
    assert sharded.train.labels.tolist() != sorted(sharded.train.labels.tolist())  # mixed when they were packed
    found, expected = (torch.tensor(dataset.train.pixel_statistics()) for dataset in (sharded, folder))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_files_are_those_of_the_sums(packed: tuple[Path, Path]) -> None:
    lines = (packed[1] / SUMS).read_text().splitlines()
    files = sorted(packed[1].glob("*.parquet"))
    assert len(files) > 2 and files[0].name.endswith(f"of-{1:05}.parquet")
    assert lines.sort() or {line.split()[1] for line in lines} == {file.name for file in files}
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((packed[1] / name).read_bytes()).hexdigest() == digest


def test_hugging_face_datasets_reads_shards(packed: tuple[Path, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(str(packed[1]), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in found.items()} == {"train": 72, "test": 18}
    assert found["train"].features["label"].names == ["boot", "trouser"]
    row = found["test"][0]
    assert row["image"].size == (28, 28) and row["label"] == 0


def test_shards_of_datasets_are_read(tmp_path: Path, packed: tuple[Path, Path]) -> None:
    """Without our index: labels, classes and splits come from the Parquet files, and are remembered."""
    for file in packed[1].glob("*.parquet"):
        shutil.copy(file, tmp_path)
    dataset = load_dataset(tmp_path, size=28)
    assert_same_test_images(dataset, load_dataset(packed[1], size=28))
    assert dataset.classes == ("boot", "trouser")
    assert load_dataset(tmp_path, size=28).digest == dataset.digest


def test_each_split_may_have_a_folder(tmp_path: Path, packed: tuple[Path, Path]) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for number, file in enumerate(sorted(packed[1].glob(f"{split}-*.parquet"))):
            shutil.copy(file, tmp_path / split / f"{number:04}.parquet")
    assert_same_test_images(load_dataset(tmp_path, size=28), load_dataset(packed[1], size=28))


def test_a_table_keeps_its_columns_groups_and_splits(packed: tuple[Path, Path], tmp_path: Path) -> None:
    files, splits = sorted(packed[0].rglob("*.png")), ("validation", "test", "train")
    rows = [
        f"{file},{file.parent.name},{splits[min(n % 5, 2)]},{'left' if n % 2 else 'right'}"
        for n, file in enumerate(files)
    ]
    table = tmp_path / "table.csv"
    table.write_text("file,class,split,camera\n" + "\n".join(rows))
    packed_table = pack(table, tmp_path / "shards")
    dataset = load_dataset(tmp_path / "shards", size=28)
    assert packed_table.images == {"train": 54, "validation": 18, "test": 18}
    assert dataset.validation is not None and len(dataset.validation) == 18
    assert set(dataset.test.columns["camera"]) == {"left", "right"}
    expected = load_dataset(table, size=28)
    assert dict(zip(dataset.test.files, dataset.test.columns["camera"], strict=True)) == dict(
        zip(expected.test.files, expected.test.columns["camera"], strict=True)
    )


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def samples(folder: Path, label: Callable[[str], str]) -> list[tuple[str, bytes]]:
    return [
        entry
        for file in sorted(folder.rglob("*.png"))
        for entry in (
            (f"{file.parent.name}-{file.stem}.png", file.read_bytes()),
            (f"{file.parent.name}-{file.stem}.cls", label(file.parent.name).encode()),
        )
    ]


@pytest.mark.parametrize("is_number", [True, False])
def test_web_dataset_shards_are_read(packed: tuple[Path, Path], tmp_path: Path, is_number: bool) -> None:
    everything = samples(packed[0], lambda name: str(int(name == "trouser")) if is_number else name)
    write_tar(tmp_path / "pets-train-000000.tar", everything[:60])
    write_tar(tmp_path / "pets-train-000001.tar", everything[60:140])
    write_tar(tmp_path / "pets-val-000000.tar", everything[140:])
    dataset = load_dataset(tmp_path, size=28)
    assert dataset.classes == (("0", "1") if is_number else ("boot", "trouser"))
    assert (len(dataset.train), len(dataset.test)) == (70, 20)  # validation is the test split if there is no other
    image = Image.open(packed[0] / "trouser" / dataset.test.files[-1].removeprefix("trouser-"))
    assert torch.equal(dataset.test[19][0][0], torch.tensor(np.array(image)))
    assert sorted(dataset.train.files)[0].startswith("pets-train-000000.tar:")


def test_a_changed_label_is_seen(photos: Path, tmp_path: Path) -> None:
    """Also if no size changes."""
    (folder := tmp_path / "shards").mkdir()
    labels = []
    for second, names in enumerate(({"boot": "a", "trouser": "b"}, {"boot": "b", "trouser": "a"}), start=1):
        write_tar(folder / "train-0.tar", samples(photos, names.__getitem__))
        os.utime(folder / "train-0.tar", (second, second))
        labels.append(load_dataset(folder, size=16, test_fraction=1.0).test.labels)
    assert torch.equal(labels[1], 1 - labels[0])


@pytest.mark.parametrize("what", ["mixed", "two images", "dots", "classes"])
def test_shards_that_would_be_misread(what: str, packed: tuple[Path, Path], photos: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "shards").mkdir()
    files, named = samples(photos, lambda name: name), "train-0.tar"
    image = next(content for name, content in files if name.endswith(".png"))
    match what:
        case "mixed":
            shutil.copy(next(packed[1].glob("train-*.parquet")), folder / "train-1.parquet")
            named = "Parquet"
        case "two images":
            files += [(f"{files[0][0].partition('.')[0]}.jpg", image)]
        case "dots":
            files += [("2024.01.02.png", image), ("2024.01.02.cls", b"boot")]
            named = "2024.01.02.png"
        case "classes":
            for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
                label = {"_type": "ClassLabel", "names": names}
                about = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
                table = pyarrow.table({"image": [{"bytes": image, "path": None}] * 2, "label": [0, 1]})
                table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
                parquet.write_table(table, folder / f"{split}-0.parquet")
            named = "test-0.parquet"
    if what != "classes":
        write_tar(folder / "train-0.tar", files)
    with pytest.raises(UserError, match=named):
        load_dataset(folder, size=16)


def test_the_held_out_part_stays_the_same_by_any_path(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the training images would be tested on."""
    (folder := tmp_path / "shards").mkdir()
    write_tar(folder / "train-0.tar", samples(photos, lambda name: name))
    data = load_dataset(folder, size=16)
    net = create_model("bn", num_classes=len(data.classes), in_channels=data.channels)
    spec = InputSpec(data.channels, 16, (0.5,) * data.channels, (0.5,) * data.channels)
    recipe = {"data": str(folder), "seed": 0}
    info = ModelInfo(net.architecture, data.classes, spec, recipe=recipe, data_digest=data.digest)
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    for name in (None, str(folder), "shards", f"{folder}/", "copy"):
        assert len(load_eval_data(info, name).test) == len(data.test) < len(data.train)


def test_shards_on_a_web_server(mirror: Mirror, packed: tuple[Path, Path]) -> None:
    local, remote = (load_dataset(source, size=28) for source in (packed[1], f"{mirror.url}/copy/"))
    assert remote.digest == local.digest
    mirror.fails = 2  # a server that restarts
    assert torch.equal(remote.test.images, local.test.images)
    whole = {file.name: file.stat().st_size for file in packed[1].iterdir()}
    asked = [(path.split("/")[-1], part) for path, part in mirror.requests if part]
    assert asked and all(
        int(part.split("-")[1]) - int(part[6:].split("-")[0]) + 1 <= whole[name] for name, part in asked
    )


def test_small_shards_are_copied_once(
    mirror: Mirror, packed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr(sharded, "COPIED_BYTES", 10**6)
    for _ in range(2):
        dataset = load_dataset(f"{mirror.url}/copy", size=28)
        assert_same_test_images(dataset, load_dataset(packed[1], size=28))
        names = [path for path, _ in mirror.requests if path.endswith(".parquet")]
        assert len(names) == len(set(names)) == len(list(packed[1].glob("*.parquet")))
    assert json.loads(call("data", "cache", "--clear", "--json")[0])["freed_bytes"] > 30_000
    monkeypatch.setenv("GOOGLENET_CACHE_GB", "0")
    assert_same_test_images(load_dataset(f"{mirror.url}/copy", size=28), load_dataset(packed[1], size=28))
    assert json.loads(call("data", "cache", "--clear", "--json")[0])["freed_bytes"] == 0


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, packed: tuple[Path, Path]) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(storage, "_PAUSES", (0.01,))
    with serving(Hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.TOKEN)
        server.datasets["me/pets"] = {f"data/{file.name}": file.read_bytes() for file in packed[1].glob("*.parquet")}
        yield server


def test_a_dataset_of_the_hub_by_name(hub: Hub, packed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("hf:me/pets", size=28)
    assert_same_test_images(dataset, load_dataset(packed[1], size=28))
    monkeypatch.setitem(hub_data.KNOWN, "pets", hub_data.Known("me/pets", "boots and trousers"))
    assert load_dataset("hf:pets", size=28).digest == dataset.digest


def test_the_readme_of_a_dataset_says_which_files_belong_to_a_split(hub: Hub) -> None:
    files = hub.datasets["me/pets"]
    train, test = (next(name for name in files if split in name) for split in ("train", "test"))
    hub.datasets["me/pets"] = {"a/one.parquet": files[train], "b/two.parquet": files[test], "c/x.parquet": b""}
    hub.cards["me/pets"] = {
        "configs": [
            {"config_name": "other", "data_files": [{"split": "train", "path": "c/*"}]},
            {
                "config_name": "mine",
                "default": True,
                "data_files": [{"split": "train", "path": "a/*"}, {"split": "valid", "path": ["b/*"]}],
            },
        ]
    }
    dataset = load_dataset("hf:me/pets", size=28)
    assert len(dataset.test) == 18 and dataset.test.files[0].startswith("boot/")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], {"train": 1, "test": 1}),
        (["default/train/0000.parquet", "default/train/0001.parquet"], {"train": 2}),
        (["imagenet1k-validation-00.tar", "imagenet1k-train-0000.tar"], {"train": 1, "validation": 1}),
        (["00000.tar", "00001.tar"], {"train": 2}),
        (["contest/train.parquet"], {"train": 1}),
        (["default/partial-train/0000.parquet", "default/partial-test/0000.parquet"], {"train": 1, "test": 1}),
        (["my-test-set-train-00000-of-00001.parquet"], {"train": 1}),
    ],
)
def test_splits_by_name(names: list[str], expected: dict[str, int]) -> None:
    assert {split: len(found) for split, found in find_splits(names).items()} == expected


def damage(content: bytes) -> bytes:
    return content[: len(content) // 2]


def other_columns(file: Path) -> None:
    parquet.write_table(pyarrow.table({"picture": [b"x"], "label": [0]}), file)


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("what", ["missing", "cut", "empty", "columns"])
def test_a_bad_shard_is_named(shards: Path, what: str, with_index: bool) -> None:
    file = sorted(shards.glob("train-*.parquet"))[1]
    if not with_index:
        (shards / INDEX).unlink()
    if what == "missing":
        if not with_index:
            pytest.skip("without an index, nothing says how many there are")
        file.unlink()
    elif what == "columns":
        other_columns(file)
    else:
        file.write_bytes(damage(file.read_bytes()) if what == "cut" else b"")
    with pytest.raises(UserError, match=file.name) as caught:
        load_dataset(shards, size=28)
    assert "\n" not in str(caught.value)


def test_a_bad_shard_on_a_server_is_named_when_it_is_read(mirror: Mirror, shards: Path) -> None:
    file = next(shards.glob("test-*.parquet"))
    content = file.read_bytes()
    for damaged in (None, content[: len(content) // 2], b"x" * len(content)):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises((UserError, RunError), match=file.name):
            read_test_images(load_dataset(f"{mirror.url}/copy", size=28))
    other_columns(file)
    content = file.read_bytes()
    index = ShardIndex.from_bytes((shards / INDEX).read_bytes(), "")
    test = index.splits["test"]
    shard = test.shards[0]._replace(bytes=len(content), blocks=(18,))
    splits = {**index.splits, "test": googlenet.data.shards.ShardSplit((shard,), test.labels)}
    (shards / INDEX).write_bytes(ShardIndex(index.classes, 1, 28, "x", splits).to_bytes())
    with pytest.raises(UserError, match="picture"):
        read_test_images(load_dataset(f"{mirror.url}/copy", size=28))
    mirror.ignore_ranges = True
    with pytest.raises(UserError, match="ranges"):
        load_dataset(f"{mirror.url}/copy", size=28).train[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://127.0.0.1:9/shards", "127.0.0.1:9"),
        ("hf:absent", "hf:mnist"),
        ("hf:me/absent", "me/absent"),
        ("hf:me/pets@v9", "revision"),
        ("hf:me/text", "Parquet or tar"),
        ("nowhere://x", "nowhere"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line(hub: Hub, source: str, message: str) -> None:
    hub.datasets["me/text"] = {"README.md": b""}
    with pytest.raises((UserError, RunError), match=message) as caught:
        load_dataset(source)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, packed: tuple[Path, Path]) -> None:
    monkeypatch.setattr("googlenet.device.find_spec", lambda name: None)
    for source, package in (("s3://bucket/shards", "fsspec"), ("hf:mnist", "huggingface_hub"), (packed[1], "pyarrow")):
        with pytest.raises(UserError, match=f"pip install {package}"):
            read_test_images(load_dataset(source, size=8))


def test_a_changed_bit_is_found(shards: Path) -> None:
    file = next(shards.glob("train-*.parquet"))
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file.name} is damaged"):  # by the block's checksum, not by the image's
        load_dataset(shards, size=28).train.pixel_statistics()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_index_is_read_or_refused(packed: tuple[Path, Path], data: st.DataObject) -> None:
    content = bytearray((packed[1] / INDEX).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        index = ShardIndex.from_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]), "index")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert index.to_bytes() == (packed[1] / INDEX).read_bytes()


@pytest.mark.parametrize(
    "name", ["../secret.parquet", "/etc/x.parquet", "http://x/y.parquet", "a/../../b.tar", "x.png"]
)
def test_an_index_cannot_lead_out_of_its_folder(packed: tuple[Path, Path], name: str) -> None:
    index = ShardIndex.from_bytes((packed[1] / INDEX).read_bytes(), "")
    train = index.splits["train"]
    shards = (train.shards[0]._replace(file=name), *train.shards[1:])
    splits = {**index.splits, "train": googlenet.data.shards.ShardSplit(shards, train.labels)}
    with pytest.raises(UserError):
        ShardIndex.from_bytes(ShardIndex(index.classes, 1, 28, "x", splits).to_bytes(), "index")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=30))
def test_any_tar_file_is_read_or_refused(
    packed: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, place: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    write_tar(folder / "train-0.tar", samples(packed[0] / "boot", lambda _: "0")[:6])
    content = bytearray((folder / "train-0.tar").read_bytes())
    place %= 3 * 1024
    content[place : place + len(noise)] = noise
    (folder / "train-0.tar").write_bytes(content)
    try:
        read_test_images(load_dataset(folder, size=8, test_fraction=1.0))
    except (UserError, RunError) as error:
        assert "\n" not in str(error)


def test_pack_reports_and_refuses_to_overwrite(call: Call, photos: Path, tmp_path: Path) -> None:
    out, _ = call("data", "pack", photos, "--to", tmp_path / "shards", "--json")
    result = json.loads(out)
    assert result["images"] == {"train": 20, "test": 4} and result["images_per_second"] > 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "shards").iterdir()}
    _, err = call("data", "pack", photos, "--to", tmp_path / "shards", code=2)
    assert "--to" in err
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "shards").iterdir()}
    out, _ = call("data", "pack", photos, "--to", tmp_path / "again")
    assert "images/s" in out and {file.name for file in (tmp_path / "again").iterdir()} == set(before)
    assert call("data", "pack", photos, "--to", tmp_path / "x", "--test-fraction", "2", code=2)
    assert call("data", "pack", photos, "--to", tmp_path / "x", "--shard-mb", "0", code=2)


def test_pack_leaves_nothing_half_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "boot" / "broken.png").write_bytes((photos / "boot").glob("*.png").__next__().read_bytes()[:-60])
    with pytest.raises(UserError, match=r"broken\.png"):
        pack(photos, tmp_path / "shards")
    packed = pack(photos, tmp_path / "less", skip_unreadable=True)
    assert sum(packed.images.values()) == 24 and "broken.png" in packed.skipped[0]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packing._SplitWriter, "_write_block", full)
        with pytest.raises(RunError, match="No space"):
            pack(photos, tmp_path / "shards", skip_unreadable=True)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "less"}


def test_what_shards_cannot_do_is_said(packed: tuple[Path, Path], tmp_path: Path) -> None:
    for settings_ in ({"balance": "sampling"}, {"also": "fashion-mnist", "data_dir": "bundled"}):
        with pytest.raises(UserError, match="shards"):
            googlenet.train("fast", data=packed[1], output=tmp_path / "run", batch_size=8, **settings_)
    with pytest.raises(UserError):
        load_dataset(packed[1], skip_unreadable=True)


def test_a_folder_with_classes_and_a_table_is_not_shards(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", of_each=5)
    parquet.write_table(pyarrow.table({"file": ["x"], "class": ["y"]}), tmp_path / "photos" / "labels.parquet")
    assert load_dataset(tmp_path / "photos", size=8).folder is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_the_tutorials_loaders_read_shards(packed: tuple[Path, Path], workers: int) -> None:
    """Each worker its own part: together every image once, in another order in each pass."""
    train, test = googlenet.load_data(7, workers, 28, data=packed[1])
    expected = load_dataset(packed[1], size=28)
    passes = [list(train) for _ in range(2)]
    for batches, split in ((passes[0], expected.train), (passes[1], expected.train), (list(test), expected.test)):
        images = torch.cat([images for images, _ in batches])
        assert sorted(images.sum((1, 2, 3)).tolist()) == pytest.approx(
            sorted((split.images / 255).sum((1, 2, 3)).tolist()), rel=1e-4
        )
    assert len(passes[0]) == len(train) and len(list(test)) == len(test)
    assert (
        torch.cat([labels for _, labels in passes[0]]).tolist()
        != torch.cat([labels for _, labels in passes[1]]).tolist()
    )
