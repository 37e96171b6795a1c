"""Training, evaluation and prediction on images in shards."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import googlenet
from googlenet import Trainer, train
from googlenet.data import sharded, storage
from googlenet.training.processes import make_accelerator
from tests.conftest import QUICK, Call
from tests.networks import with_info
from tests.servers import Mirror, serving
from tests.training.helpers import assert_same_weights, rows_without_times, small_net
from tests.training.test_resume import Killed, killed_at

pytest.importorskip("pyarrow")

SHARDED: dict[str, Any] = {
    **QUICK, "batch_size": 8, "checkpoint_every": 2, "crop_padding": 1, "mixup": 0.2, "ema_decay": 0.9, "dropout": 0.3,
    "shuffle_buffer": 20,
}  # fmt: skip


def test_a_run_that_was_killed_within_the_stream_resumes_bit_for_bit(
    packed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 12 of 15, of which an epoch has 9; from a copy of the shards on a server, which fails once."""
    settings = {**SHARDED, "data": packed[1], "max_steps": 15}
    whole = train(output=tmp_path / "whole", model=small_net(classes=2), **settings)
    with pytest.raises(Killed):
        train(output=tmp_path / "killed", model=small_net(classes=2), on_step=killed_at(12), **settings)
    monkeypatch.setattr(storage, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(sharded, "COPIED_BYTES", 0)
    with serving(Mirror(packed[1].parent)) as server:
        server.fails = 1
        address = f"{server.url}/shards"
        resumed = train(output=tmp_path / "killed", model=small_net(classes=2), resume=True, data=address)
    assert_same_weights(whole.folder, resumed.folder)
    assert rows_without_times(whole) == rows_without_times(resumed)
    assert (whole.folder / "predictions.csv").read_text() == (resumed.folder / "predictions.csv").read_text()
    environment = json.loads((whole.folder / "environment.json").read_text())
    assert environment["data"]["source"] == str(packed[1]) and environment["data"]["train_images"] == 72


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_the_images_of_an_epoch(packed: tuple[Path, Path], world: int) -> None:
    trainer = Trainer.__new__(Trainer)
    whole = Trainer(
        googlenet.load_recipe("fast", **{**SHARDED, "data": str(packed[1]), "batch_size": 12}),
        make_accelerator(googlenet.load_recipe("fast", device="cpu")),
        small_net(classes=2),
    )
    parts = []
    for rank in range(world):
        trainer.__dict__ = {**whole.__dict__, "accelerator": Rank(rank, world)}
        parts.append([trainer.train_split.files[int(n)] for part in trainer.indices(1) for n in part])
    assert sorted(itertools.chain(*parts)) == sorted(whole.train_split.files)


class Rank:
    def __init__(self, rank: int, world: int) -> None:
        self.process_index, self.num_processes = rank, world


def test_shards_are_evaluated_as_their_folder_is(packed: tuple[Path, Path]) -> None:
    """The same images, logits and names, each image once."""
    torch.manual_seed(0)
    network = with_info(googlenet.create_model("bn", num_classes=2, in_channels=1), ("boot", "trouser"), 16)
    on_shards = googlenet.evaluate(network, packed[1], batch_size=7)
    on_folder = googlenet.evaluate(network, googlenet.load_dataset(packed[0], size=16))
    order = [on_folder.files.index(name) for name in on_shards.files]
    assert sorted(order) == list(range(18))
    torch.testing.assert_close(on_shards.logits, on_folder.logits[order])
    assert torch.equal(on_shards.labels, on_folder.labels[order])


def test_every_image_of_shards_is_predicted_once(packed: tuple[Path, Path], tmp_path: Path, call: Call) -> None:
    torch.manual_seed(0)
    network = with_info(googlenet.create_model("bn", num_classes=2, in_channels=1), ("boot", "trouser"), 16)
    googlenet.save(network, network.info, tmp_path / "model.safetensors")
    local = json.loads(call("predict", tmp_path / "model.safetensors", packed[1], "--json")[0])
    assert len({row["file"] for row in local}) == len(local) == 90
    on_folder = {row.file: row for row in googlenet.Predictor(network).predict(sorted(packed[0].rglob("*.png")))}
    for row in local[-18:]:  # the test images, whose names the index has
        assert row["probabilities"] == pytest.approx(on_folder[str(packed[0] / row["file"])].probabilities, abs=1e-4)
    with serving(Mirror(packed[1].parent)) as server:
        output, address = tmp_path / "second.csv", f"{server.url}/shards/"
        call("predict", tmp_path / "model.safetensors", address, "--shard", "2/2", "--output", output)
    names = [line.split(",")[0] for line in output.read_text().splitlines()[1::2]]
    assert names == [row["file"] for row in local[45:]]
    call("predict", tmp_path / "model.safetensors", packed[1], "--sort-into", tmp_path / "sorted", code=2)
