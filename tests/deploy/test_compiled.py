from __future__ import annotations

import pytest
import torch

from googlenet import Predictor, UserError
from googlenet.deploy import compiled
from googlenet.deploy.compiled import compiled_engine
from googlenet.training.outcome import TrainingResult
from tests.network.test_folding import lived_in


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
