"""Uploads to the Hugging Face Hub and downloads from it, with a stand-in for the Hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import googlenet
from googlenet import InputSpec, KnownRule, ModelInfo, RunError, TrainingResult, UserError, create_model, save
from googlenet.evaluation.card import model_card, package_model
from tests.conftest import Call
from tests.servers import Hub, serving

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serving(Hub()) as server:
        # What huggingface_hub takes from HF_ENDPOINT when it is imported
        monkeypatch.setattr(constants, "HF_URL_HOSTS", constants.HF_URL_HOSTS | {"127.0.0.1"})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", server.TOKEN)
        yield server


def header_of(card: str) -> dict[str, object]:
    from huggingface_hub import ModelCard

    return ModelCard(card).data.to_dict()


def test_a_run_is_pushed_and_used_by_name(
    hub: Hub, trained: TrainingResult, images: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = call("push", trained.folder, "me/boots", "--license", "apache-2.0", "--json")
    files = hub.repositories["me/boots"]
    assert json.loads(out)["address"] == f"{hub.url}/me/boots"
    assert set(files) == {"model.safetensors", "README.md", "curves.png", "confusion_matrix.png"}
    assert str(trained.folder.parent).encode() not in files["model.safetensors"]  # private paths stay here

    local = call("predict", trained.folder, images / "0.png", "--json")[0]
    assert call("predict", "hf:me/boots", images / "0.png", "--json")[0] == local
    net = googlenet.load("hf:me/boots@main")
    assert torch.equal(net.fc.weight, googlenet.load(trained.folder).fc.weight)

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # without a network, the copy in the cache
    out, err = call("predict", "hf:me/boots", images / "0.png", "--json")
    assert out == local and "127.0.0.1:9" in err and "cache" in err
    for command in ("summary", "weights fetch"):
        assert json.loads(call(*command.split(), "hf:me/boots", "--json")[0])
    started = create_model(weights="hf:me/boots", num_classes=3)
    assert torch.equal(started.conv1.conv.weight, net.conv1.conv.weight)


def test_the_card_states_the_figures_of_the_run(hub: Hub, trained: TrainingResult, call: Call) -> None:
    card, _ = call("push", trained.folder, "me/boots", "--dry-run")
    assert hub.repositories == {}
    accuracy = trained.metrics["test"]["accuracy"]
    header = header_of(card)
    assert header["library_name"] == "googlenet"
    (result,) = header["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == accuracy
    interval = json.loads((trained.folder / "evaluation.json").read_text())["accuracy_interval"]
    assert f"| 160 | {accuracy:.2%} | {interval[0]:.1%} to {interval[1]:.1%} |" in card
    assert "Ankle boot" in card and 'Predictor("hf:me/boots")' in card


def test_nothing_that_is_uploaded_names_folders_of_this_machine(tmp_path: Path) -> None:
    net = create_model("bn", num_classes=2)
    private = tmp_path / "secret"
    recipe = {key: str(private / key) for key in ("data", "also", "data_dir", "weights")} | {"seed": 3}
    known = KnownRule(1.5, str(private / "held-out"), 40, "0" * 64)
    spec = InputSpec(3, 32, (0.5,) * 3, (0.5,) * 3)
    info = ModelInfo(net.architecture, ("a", "b"), spec, recipe, known=known)
    save(net, info, tmp_path / "model.safetensors")
    with package_model(tmp_path / "model.safetensors", "me/x") as files:
        card, uploaded = files["README.md"].read_text(), googlenet.load(files["model.safetensors"]).info
        assert all(b"secret" not in path.read_bytes() for path in files.values())
    assert uploaded.recipe == {"data": "data", "also": "also", "data_dir": "data_dir", "weights": "weights", "seed": 3}
    assert "data and also" in card and "40 held-out images" in card


def test_the_card_of_weights_without_a_history(tmp_path: Path) -> None:
    net = create_model("tutorial", num_classes=2, in_channels=1)
    net.info = ModelInfo(net.architecture, ("a|b", "c\nd"), InputSpec(1, 28, (0.5,), (0.5,)))
    card = model_card(net, "me/x")
    assert "model-index" not in header_of(card)
    assert r"a\|b, c\\x0ad" in card


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf:me/absent", "me/absent"),
        ("hf:me/secret", "HF_TOKEN"),
        ("hf:me/plain", "googlenet import"),
        ("hf:me/empty", "model.safetensors"),
        ("hf:me/empty@v9", "revision"),
        ("hf:boots", "owner/name"),
        ("hf:me/boots@", "owner/name"),
    ],
)
def test_repositories_that_cannot_be_used(
    name: str, reason: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    hub.repositories |= {"me/plain": {"model.safetensors": (tmp_path / "plain.safetensors").read_bytes()}}
    hub.repositories |= {"me/empty": {}, "me/secret": {}}
    hub.private.add("me/secret")
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError, match=reason) as raised:
        googlenet.load(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("status", [403, 418])
def test_a_hub_that_refuses(status: int, hub: Hub, trained: TrainingResult) -> None:
    hub.refuses_with = status
    with pytest.raises((UserError, RunError), match=str(status)):
        googlenet.load("hf:me/boots")


def test_pushes_that_fail(hub: Hub, trained: TrainingResult, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["me/public"] = {}
    push = ("push", trained.model)
    assert "--private" in call(*push, "me/public", "--private", code=2)[1]
    assert "license" in call(*push, "me/new", "--license", "mine", code=2)[1]
    assert "owner/name" in call(*push, "boots", code=2)[1]
    assert "nowhere" in call("push", "nowhere", "me/boots", code=2)[1]
    hub.refuses_with = 403
    assert "403" in call(*push, "me/boots", code=2)[1]
    monkeypatch.setenv("HF_TOKEN", "")
    assert "HF_TOKEN" in call(*push, "me/boots", code=2)[1]
    monkeypatch.setenv("HF_TOKEN", Hub.TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in call(*push, "me/boots", code=1)[1]
    assert not hub.repositories["me/public"]


def test_a_private_repository_stays_private(hub: Hub, trained: TrainingResult, call: Call) -> None:
    call("push", trained.model, "me/secret", "--private")
    assert hub.private == {"me/secret"}
    assert googlenet.load("hf:me/secret").info.classes == googlenet.load(trained.model).info.classes


def test_no_hub_and_nothing_in_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"127\.0\.0\.1:9"):
        googlenet.load("hf:me/boots")


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("a file")
    hub.repositories["me/boots"] = {"model.safetensors": b"a model"}
    with pytest.raises(RunError, match="hub") as error:
        googlenet.load("hf:me/boots")
    assert "reached" not in str(error.value)
