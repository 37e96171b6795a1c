from __future__ import annotations

import pytest
import torch

from googlenet import UserError, create_model


@pytest.mark.parametrize("variant", ["bn", "torchvision", "paper"])
def test_maps_have_the_channels_and_sizes_that_are_promised(variant: str) -> None:
    net = create_model(variant, features_only=True, in_channels=1).eval()
    with torch.no_grad():
        maps = net(torch.zeros(2, 1, 64, 96))
    info = net.feature_info
    assert [tuple(each.shape[:2]) for each in maps] == [(2, channels) for channels in info.channels()]
    assert info.channels() == [64, 192, 480, 832, 1024] and info.reduction() == [2, 4, 8, 16, 32]
    assert [each.shape[2] for each in maps] == [64 // reduction for reduction in info.reduction()]
    assert len(info) == 5 and info.module_name()[-1] == "inception5b"


def test_the_last_map_is_what_the_classifier_reads() -> None:
    torch.manual_seed(0)
    net = create_model("bn", num_classes=3, stem_stride=1)
    torch.manual_seed(0)
    features = create_model("bn", num_classes=3, stem_stride=1, features_only=True)
    assert features.feature_info.reduction() == [1, 2, 4, 8, 16] and features.training
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(features.eval()(x)[-1], net.eval().forward_features(x))
    weights = features.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items() if name in weights)
    assert set(weights) <= set(net.state_dict()) and "fc.weight" not in weights


def test_some_of_the_maps() -> None:
    net = create_model("tutorial", features_only=True, out_indices=(-3, 1))
    assert net.feature_info.channels() == [192, 480]
    assert [each.shape[1] for each in net(torch.zeros(1, 3, 32, 32))] == [192, 480]
    assert not any(name.startswith("inception4") for name, _ in net.named_modules())
    assert create_model("bn", features_only=True, out_indices=(1, -4)).feature_info.channels() == [192]  # the same one
    for wrong in ((), (5,), (-6,)):
        with pytest.raises(UserError, match="out_indices"):
            create_model("bn", features_only=True, out_indices=wrong)
