from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from googlenet import Inception, Predictor, RunError, TrainingResult, UserError, create_model
from googlenet.device import DTYPES, compile_error
from googlenet.inference import predictor
from googlenet.inference.predictor import compiled_backend
from googlenet.model.fuse import folded
from googlenet.model.googlenet import Convolution, GlobalAveragePool, LocalResponseNorm
from tests.conftest import bundled

needs_compiler = pytest.mark.skipif(
    compile_error(torch.device("cpu")) is not None, reason="no C++ compiler, or PyTorch in a path with a space"
)


def used_net(norm: str) -> nn.Module:
    """The first layers of GoogLeNet, with batch norm statistics that are not 0 and 1: quick to compile."""
    torch.manual_seed(0)
    epsilon = 1e-5 if norm == "batch" else None
    net = nn.Sequential(
        Convolution(3, 192, 7, 2, batch_norm_epsilon=epsilon),
        nn.MaxPool2d(3, 2, 1),
        LocalResponseNorm() if norm == "lrn" else nn.Identity(),
        Inception(192, 64, (96, 128), (16, 32), 32, batch_norm_epsilon=epsilon),
        GlobalAveragePool(),
        nn.Linear(256, 10),
    )
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(4, 3, 32, 32))
    return net.eval()


@needs_compiler
@pytest.mark.parametrize(
    ("norm", "precision", "tolerance", "batches", "compilations"),
    [("batch", "fp32", 1e-4, 4, 3), ("lrn", "bf16", 0.03, 1, 1)],
)
def test_a_compiled_network_equals_the_network_for_every_batch_size(
    norm: str, precision: str, tolerance: float, batches: int, compilations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, compile_and_package = [], torch._inductor.aoti_compile_and_package

    def counted(*arguments: Any, **settings: Any) -> str:
        calls.append(torch.is_grad_enabled())
        return compile_and_package(*arguments, **settings)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", counted)
    net, images = used_net(norm), torch.rand(3, 3, 64, 64)
    run = compiled_backend(folded(net, DTYPES[precision]), DTYPES[precision])
    # compiled, compiled again for four, padded, compiled again for another size
    for batch in (images[:1], images, images[1:], images[:1, :, :48, :56])[:batches]:
        with torch.inference_mode():
            expected = net(batch)
        assert (run(batch) - expected).abs().max() < tolerance * expected.abs().max()
    assert calls == [False] * compilations  # with gradients on, weights would not be laid out for the kernels


@pytest.mark.parametrize(
    ("failure", "expected", "match"),
    [
        (OSError(28, "No space left on device"), RunError, "No space left on device.*--backend torch"),
        (RuntimeError("g++ ended with 1"), RunError, r"g\+\+ ended with 1.*--backend torch"),
        (RuntimeError("can't allocate memory"), RuntimeError, "^can't allocate"),
    ],
)
def test_a_failing_compiler_is_a_run_error(
    failure: Exception, expected: type[Exception], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(predictor, "compile_error", lambda _: None)
    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(expected, match=match):
        compiled_backend(folded(create_model("bn").eval()), torch.float32)(torch.rand(1, 3, 64, 64))


@needs_compiler
def test_predictor_with_the_compiled_backend(trained: TrainingResult, tmp_path: Path) -> None:
    for number, image in enumerate(bundled("t10k-images-idx3-ubyte")[:2]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.iterdir())
    expected = Predictor(trained.model, precision="fp32").predict(files)
    found = Predictor(trained.model, precision="fp32", backend="compiled").predict(files)
    for one, other in zip(found, expected, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_without_a_compiler(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "compile_error", lambda _: "g++ is missing")
    with pytest.raises(UserError, match=r"--backend.*g\+\+ is missing"):
        Predictor(trained.model, backend="compiled")
