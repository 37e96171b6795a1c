"""Weights by name: downloaded once, verified, used offline, and wherever a model is taken."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

import googlenet
from googlenet import GoogLeNet, Predictor, RunError, UserError, create_model
from googlenet.data.imagenet import imagenet_classes
from googlenet.download import DownloadError, download, mirrored, sha256
from googlenet.model.architecture import VARIANTS
from googlenet.weights import load
from googlenet.weights.catalog import CATALOG
from tests.conftest import TINY, Call, write_photos
from tests.servers import Mirror, serving

FILE = "googlenet-1378be20.pth"


@pytest.fixture(scope="module")
def network() -> GoogLeNet:
    torch.manual_seed(0)
    return GoogLeNet(dataclasses.replace(VARIANTS["torchvision"], auxiliary=False, initialization="he")).eval()


@pytest.fixture(scope="module")
def published(network: GoogLeNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of torchvision's shape."""
    folder = tmp_path_factory.mktemp("published")
    torch.save(network.state_dict(), folder / FILE)
    return folder


@pytest.fixture
def mirror(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror of that file, which the package takes for torchvision's."""
    served = tmp_path / "served"
    served.mkdir()
    (served / FILE).hardlink_to(published / FILE)
    digest = sha256((published / FILE).read_bytes())
    monkeypatch.setitem(CATALOG, "imagenet", dataclasses.replace(CATALOG["imagenet"], sha256=digest[:8]))
    with serving(Mirror(served)) as server:
        monkeypatch.setenv("GOOGLENET_MIRROR", server.url)
        yield server


@pytest.fixture
def cached(published: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in the cache, and no network."""
    path = CATALOG["imagenet"].path
    path.parent.mkdir(parents=True)
    path.hardlink_to(published / FILE)
    monkeypatch.setenv("GOOGLENET_MIRROR", "http://127.0.0.1:9")
    return path


def replace(path: Path, content: bytes) -> None:
    """Not by writing into the file, which has links elsewhere."""
    path.unlink()
    path.write_bytes(content)


def test_classes_of_imagenet() -> None:
    classes = imagenet_classes()
    assert len(classes) == len({name.casefold() for name in classes}) == 1000
    # Places in torchvision's list
    known = {0: "tench", 151: "Chihuahua", 281: "tabby", 504: "coffee mug", 817: "sports car", 999: "toilet tissue"}
    assert {number: classes[number] for number in known} == known
    cranes = [number for number, name in enumerate(classes) if name.startswith("crane")]
    assert cranes == [134, 517]


def test_a_download_is_verified_and_used_offline(
    mirror: Mirror, network: GoogLeNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLENET_MIRROR", f"{mirror.url}/moved")  # which redirects
    net = googlenet.load("imagenet")
    assert net.info.classes == imagenet_classes()
    assert torch.equal(net.fc.weight, network.fc.weight)
    requests = len(mirror.requests)
    monkeypatch.setenv("GOOGLENET_MIRROR", "http://127.0.0.1:9")
    assert torch.equal(googlenet.load("imagenet").fc.weight, network.fc.weight)
    assert len(mirror.requests) == requests
    assert [path.name for path in CATALOG["imagenet"].path.parent.iterdir()] == [FILE]


def test_a_transfer_that_breaks_off_continues(mirror: Mirror) -> None:
    mirror.break_after = 10_000
    for _ in range(2):
        with pytest.raises(DownloadError, match="broke off"):
            CATALOG["imagenet"].fetch()
    mirror.break_after = None
    CATALOG["imagenet"].fetch()
    assert [wanted for _, wanted in mirror.requests] == [None, "bytes=10000-", "bytes=20000-"]


@pytest.mark.parametrize("what", ["web page", "page named as a file", "other bytes", "truncated", "code"])
def test_a_wrong_file_is_never_cached(what: str, mirror: Mirror) -> None:
    path = mirror.folder / FILE
    content = path.read_bytes()
    if what == "web page":
        mirror.content_type = "text/html; charset=utf-8"
    page = b"<!doctype html><title>Sign in</title>"
    wrong = {"other bytes": content[:-1] + b"x", "truncated": content[:-1], "code": pickle.dumps(print)}
    replace(path, wrong.get(what, page))
    with pytest.raises(DownloadError) as raised:
        googlenet.load("imagenet")
    assert FILE in str(raised.value) and "\n" not in str(raised.value)
    assert list(CATALOG["imagenet"].path.parent.iterdir()) == []


def test_the_part_of_another_file_is_replaced(mirror: Mirror) -> None:
    path = CATALOG["imagenet"].path
    path.parent.mkdir(parents=True)
    path.with_stem(f"{path.stem}.part").write_bytes(b"of a web page")
    assert CATALOG["imagenet"].fetch().read_bytes() == (mirror.folder / FILE).read_bytes()


def test_a_damaged_file_in_the_cache(mirror: Mirror, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(cached, cached.read_bytes()[:-1])
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9"):
        googlenet.load("imagenet")
    assert cached.exists()  # until there is a better one
    monkeypatch.setenv("GOOGLENET_MIRROR", mirror.url)
    assert googlenet.load("imagenet").info.classes[281] == "tabby"


def test_a_file_that_another_process_downloaded_meanwhile_is_used(mirror: Mirror, cached: Path) -> None:
    download(f"{mirror.url}/{FILE}", cached, CATALOG["imagenet"].verify)
    assert mirror.requests == []
    replace(cached, b"damaged")
    download(f"{mirror.url}/{FILE}", cached, CATALOG["imagenet"].verify)
    assert len(mirror.requests) == 1 and cached.stat().st_size > 10_000


def test_a_folder_as_mirror(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLENET_MIRROR", str(mirror.folder))
    assert CATALOG["imagenet"].fetch() == CATALOG["imagenet"].path
    assert mirror.requests == []
    monkeypatch.setenv("GOOGLENET_MIRROR", "")
    assert mirrored(CATALOG["imagenet"].url) == CATALOG["imagenet"].url


def test_without_a_network(call: Call) -> None:
    _, err = call("weights", "fetch", "bvlc", code=1)
    assert err.count("\n") == 1
    assert "inception-v1-9.onnx" in err and str(CATALOG["bvlc"].path.parent) in err
    assert "bvlc" in call("weights", "fetch", "alexnet", code=2)[1]
    assert "imagenet" in call("predict", "imagnet", "x.png", code=2)[1]
    for wrong in ("imagnet", "imagnet.pth", "imagnet.safetensors"):
        with pytest.raises(UserError, match="hf:owner/name"):
            create_model(weights=wrong)


def test_a_predictor_looks_for_its_file_once(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a named model could be another one for its digest than for its network."""
    found = Mock(wraps=load.find_model)
    monkeypatch.setattr(load, "find_model", found)
    assert Predictor("imagenet").digest == sha256(cached.read_bytes())
    assert found.call_count == 1


def test_every_command_takes_a_name(cached: Path, images: Path, call: Call) -> None:
    listed = {row["name"]: row for row in json.loads(call("weights", "list", "--json")[0])}
    assert listed["imagenet"]["cached"] == str(cached) and listed["bvlc"]["cached"] is None
    assert str(cached) in call("weights", "list")[0]
    assert call("weights", "fetch", "imagenet")[0].strip() == str(cached)
    (prediction,) = json.loads(call("predict", "imagenet", images / "0.png", "--json")[0])
    assert set(prediction["classes"]) <= set(imagenet_classes())
    assert json.loads(call("summary", "imagenet", "--json")[0])["parameters"] == 6_624_904
    assert "--data" in call("evaluate", "imagenet", code=2)[1]


def test_other_peoples_safetensors_are_weights_too(network: GoogLeNet, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "torchvision.safetensors")
    assert torch.equal(create_model(weights=tmp_path / "torchvision.safetensors").fc.weight, network.fc.weight)


def test_a_local_model_has_priority_over_a_name(cached: Path, call: Call) -> None:
    write_photos(Path("imagenet"), of_each=1)  # not a model
    assert googlenet.load("imagenet").architecture.num_classes == 1000
    net = create_model("bn", num_classes=2)
    info = googlenet.ModelInfo(net.architecture, ("a", "b"), googlenet.InputSpec(3, 28, (0.0,) * 3, (1.0,) * 3))
    googlenet.save(net, info, "imagenet/model.safetensors")
    assert googlenet.load("imagenet").info.classes == ("a", "b")
    assert call("weights", "fetch", "imagenet")[0].strip() == str(cached)


def test_create_model_with_weights(cached: Path, network: GoogLeNet) -> None:
    same = create_model(weights="imagenet")
    assert same.training and same.info.classes == imagenet_classes()
    assert torch.equal(same.fc.weight, network.fc.weight)
    net = create_model("torchvision", weights="imagenet", num_classes=10, in_channels=1, dropout=0.5)
    assert (net.architecture.num_classes, net.architecture.dropout, net.info.input.mean) == (10, 0.5, (0.5,))
    torch.testing.assert_close(net.conv1.conv.weight[:, 0], network.conv1.conv.weight.sum(dim=1))
    assert torch.equal(net.conv2.conv.weight, network.conv2.conv.weight)
    assert net.info.classes == tuple("0123456789")
    assert create_model(weights=str(cached), num_classes=0).fc(torch.ones(1)) == 1  # no classifier
    for changes in (
        {"variant": "bn"},
        {"stem_stride": 1},
        {"auxiliary": True},
        {"in_channels": 0},
        {"num_classes": -1},
        {"num_classes": "ab"},
    ):
        with pytest.raises(UserError):
            create_model(weights="imagenet", **changes)


def test_only_new_classifiers_are_drawn(cached: Path) -> None:
    torch.manual_seed(1)
    create_model(weights="imagenet")
    first = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(first, torch.rand(1))


def test_fine_tuning_by_name(cached: Path, small_data: Path, tmp_path: Path, network: GoogLeNet) -> None:
    settings = {key: value for key, value in TINY.items() if key != "stem_stride"}
    settings |= {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-9}
    result = googlenet.train("fast", weights="imagenet", output=tmp_path / "run", **settings)
    assert googlenet.load(result.folder).info.recipe["weights"] == "imagenet"
    torch.testing.assert_close(googlenet.load(result.folder).conv1.conv.weight[:, 0], network.conv1.conv.weight.sum(1))
    with pytest.raises(RunError, match="inception-v1-9"):
        googlenet.train("fast", weights="bvlc", output=tmp_path / "other", **settings)
    assert not (tmp_path / "other").exists()
