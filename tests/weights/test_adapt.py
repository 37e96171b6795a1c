"""Weights of a trained network in one for other classes and channels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from googlenet import GoogLeNet, TrainingResult, create_model, load
from googlenet.weights.adapt import adapt, kept_rows
from googlenet.weights.load import load_or_import
from tests.networks import with_info


def test_other_classes_get_a_new_classifier(trained: TrainingResult) -> None:
    source = load(trained.model)
    images = torch.rand(2, 1, 32, 32)
    for channels in (1, 3):
        net = adapt(source, ("cat", "dog"), channels)
        assert (net.info.input.channels, net.info.classes) == (channels, ("cat", "dog"))
        assert net.architecture.num_classes == 2
        features = net.eval().forward_features(images.expand(-1, channels, -1, -1))
        torch.testing.assert_close(features, source.forward_features(images))
    same = adapt(load_or_import(str(trained.folder)), source.info.classes, 1)
    assert torch.equal(same.fc.weight, source.fc.weight)


def test_rows_are_kept_by_name(trained: TrainingResult) -> None:
    source = load(trained.model)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    old = source.info.classes
    net = adapt(source, (old[4], "cat", old[2]), 1)
    logits, expected = (each.eval()(torch.ones(1, 1, 28, 28)) for each in (net, source))
    torch.testing.assert_close(logits[:, [0, 2]], expected[:, [4, 2]])
    assert not any(torch.equal(net.fc.weight[1], row) for row in source.fc.weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())


def test_auxiliary_heads_keep_their_rows_too() -> None:
    source = with_info(create_model("paper", num_classes=3, in_channels=1), ("a", "b", "c"), 64)
    net = adapt(source, ("c", "d"), 1)
    assert net.aux1 is not None and source.aux1 is not None
    assert torch.equal(net.aux1.fc2.weight[0], source.aux1.fc2.weight[2])
    assert torch.equal(net.aux1.fc1.weight, source.aux1.fc1.weight)


def test_a_number_of_classes_has_no_names() -> None:
    source = with_info(create_model("bn", num_classes=3, in_channels=1), ("a", "b", "c"), 32)
    same, other = adapt(source, 3, 1), adapt(source, 2, 1)
    assert torch.equal(same.fc.weight, source.fc.weight) and same.info.classes == ("a", "b", "c")
    assert other.info.classes == ("0", "1") and not torch.equal(other.fc.weight, source.fc.weight[:2])


def test_numbers_are_names_only_if_the_network_was_trained_on_them() -> None:
    source = with_info(create_model("bn", num_classes=3, in_channels=1), ("0", "1", "2"), 32)
    assert kept_rows(source.info, ("0", "1", "2", "3")) == {}
    assert kept_rows(source.info, ("0", "1", "2")) == {0: 0, 1: 1, 2: 2}
    trained_on_digits = dataclasses.replace(source.info, recipe={"seed": 0})
    assert kept_rows(trained_on_digits, ("1", "3", "0")) == {0: 1, 2: 0}


def test_weights_for_colors_on_gray_images(tmp_path: Path) -> None:
    colors = create_model("bn", num_classes=4, in_channels=3).eval()
    torch.save(colors.state_dict(), tmp_path / "weights.pt")
    net = adapt(load_or_import(str(tmp_path / "weights.pt")), ("a", "b"), 1)
    assert isinstance(net, GoogLeNet)
    gray = torch.rand(2, 1, 32, 32)
    expected = colors.forward_features(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(net.eval().forward_features(gray), expected, atol=1e-4, rtol=1e-4)
