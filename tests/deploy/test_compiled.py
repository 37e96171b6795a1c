from __future__ import annotations

import pytest
import torch
from torch import nn

from googlenet import GoogLeNet, Predictor, UserError, create_model
from googlenet.deploy import compiled
from googlenet.deploy.compiled import compiled_engine, fold_batch_norm
from googlenet.training.outcome import TrainingResult


def lived_in(variant: str, **changes: object) -> GoogLeNet:
    """A network whose normalisations are not those that it was born with."""
    torch.manual_seed(0)
    net = create_model(variant, num_classes=5, in_channels=1, **changes).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


@pytest.mark.parametrize("variant", ["bn", "torchvision", "tutorial", "paper"])
def test_folding_the_normalisation_changes_no_answer(variant: str) -> None:
    net, images = lived_in(variant), torch.rand(2, 1, 96, 96)
    folded = fold_batch_norm(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for name, module in folded.named_modules() if "aux" not in name)
    with torch.inference_mode():
        expected = net(images)
        assert torch.allclose(folded(images), expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.skipif(not compiled.compiles(compiled.CPU), reason="there is no compiler of C++")
def test_a_compiled_network_answers_batches_of_every_size_as_the_network_does() -> None:
    net, images = lived_in("bn", blocks=1), torch.rand(4, 1, 64, 64)
    engine = compiled_engine(net, precision="fp32")
    with torch.inference_mode():
        expected = net(images)
    for batch in (slice(0, 2), slice(2, 3), slice(0, 4), slice(1, 4)):  # compiled, filled up, compiled anew, filled up
        assert torch.allclose(engine(images[batch]), expected[batch], atol=1e-4)


def test_without_a_compiler_it_says_so(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compiles", lambda _: False)
    with pytest.raises(UserError, match="needs a compiler"):
        Predictor(trained.model, engine="compiled")
