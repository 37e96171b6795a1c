from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from googlenet import Predictor, RunError, UserError
from googlenet.deploy import compiled
from googlenet.inference.backends import compiled_backend
from googlenet.training.loop import TrainingResult
from tests.conftest import Call, bundled
from tests.model.test_folding import lived_in


@pytest.mark.parametrize(
    ("variant", "precision", "tolerance", "batches", "compilations"),
    [("bn", "fp32", 1e-4, 4, 3), ("paper", "bf16", 0.02, 1, 1)],
)
def test_a_compiled_network_answers_as_the_network_does_batches_of_every_size_too(
    variant: str,
    precision: str,
    tolerance: float,
    batches: int,
    compilations: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _needs_a_compiler()
    calls, compile_and_package = [], torch._inductor.aoti_compile_and_package

    def counted(*arguments: Any, **settings: Any) -> str:
        calls.append(torch.is_grad_enabled())
        return compile_and_package(*arguments, **settings)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", counted)
    net, images = lived_in(variant, blocks=1, auxiliary=False), torch.rand(3, 3, 64, 64)
    engine = compiled_backend(net, precision=precision)
    # compiled, compiled anew for four, filled up, compiled anew for another size
    for batch in (images[:1], images, images[1:], images[:1, :, :48, :56])[:batches]:
        with torch.inference_mode():
            expected = net(batch)
        assert (backend(batch) - expected).abs().max() < tolerance * expected.abs().max()
    assert calls == [False] * compilations  # with gradients on, weights would not be laid out for the kernels


@pytest.mark.parametrize(
    ("failure", "expected", "said"),
    [
        (OSError(28, "No space left on device"), RunError, "cannot be compiled: No space left on device; take"),
        (RuntimeError("g++ ended with 1"), RunError, r"cannot be compiled: g\+\+ ended with 1; take"),
        (RuntimeError("can't allocate memory"), RuntimeError, "^can't allocate"),
    ],
)
def test_a_compiler_that_fails_is_one_line(
    failure: Exception, expected: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(compiled, "compile_obstacle", lambda _: None)
    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(expected, match=said):
        compiled_backend(lived_in("bn", blocks=1))(torch.rand(1, 3, 64, 64))


def test_predict_compiles_where_it_is_asked_to(call: Call, trained: TrainingResult, tmp_path: Path) -> None:
    _needs_a_compiler()
    for number, image in enumerate(bundled("t10k-images-idx3-ubyte")[:2]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")

    arguments = ("predict", trained.model, tmp_path, "--precision", "fp32", "--json")
    expected, before = call(*arguments)
    found, said = call(*arguments, "--backend", "compiled")
    assert "is compiled" in said and not before
    for one, other in zip(json.loads(found), json.loads(expected), strict=True):
        assert one["classes"] == other["classes"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def _needs_a_compiler() -> None:
    if compiled.compile_obstacle(compiled.CPU):
        pytest.skip("there is no compiler of C++, or PyTorch lies in a path with a space")


def test_without_a_compiler_it_says_so(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compile_obstacle", lambda _: "no g++ anywhere")
    with pytest.raises(UserError, match=r"needs a C.*no g\+\+ anywhere"):
        Predictor(trained.model, backend="compiled")
