from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import googlenet
from googlenet import Inception, Predictor, RunError, TrainingResult, UserError, create_model
from googlenet.device import compile_error
from googlenet.inference import compiled
from googlenet.inference.compiled import compiled_backend
from googlenet.model.fuse import folded
from googlenet.model.layers import Convolution, GlobalAveragePool, LocalResponseNorm
from tests.networks import tiny, with_info


@pytest.fixture
def compiler() -> None:
    """Asked for, and not a mark: to know takes seconds, for which every test process would wait."""
    if problem := compile_error(torch.device("cpu")):
        pytest.skip(f"no C++ compiler, or PyTorch in a path with a space: {problem}")


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


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be compiled: it runs as it is, and takes only batches of the shape it was made for."""
    programs: list[Any] = []

    def package(program: Any, **_: Any) -> Path:
        programs.append(program)
        return Path("network.pt2")

    monkeypatch.setattr(compiled, "compile_error", lambda _: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: programs[-1].module())
    return programs


def test_compiled_again_for_larger_batches_and_other_sizes(exported: list[Any]) -> None:
    net, images = used_net("batch"), torch.rand(3, 3, 64, 64)
    run = compiled_backend(folded(net), torch.float32)
    # compiled, compiled again for four, padded, compiled again for another size
    for batch, compilations in ((images[:1], 1), (images, 2), (images[1:], 2), (images[:1, :, :48, :56], 3)):
        with torch.inference_mode():
            torch.testing.assert_close(run(batch), net(batch), atol=1e-4, rtol=1e-4)
        assert len(exported) == compilations


@pytest.mark.usefixtures("compiler")
def test_a_compiled_network_equals_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, compile_and_package = [], torch._inductor.aoti_compile_and_package

    def counted(*arguments: Any, **settings: Any) -> str:
        calls.append(torch.is_grad_enabled())
        return compile_and_package(*arguments, **settings)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", counted)
    net, images = used_net("lrn"), torch.rand(3, 3, 64, 64)
    run = compiled_backend(folded(net, torch.bfloat16), torch.bfloat16)
    for batch in (images, images[1:]):  # both are padded to four
        with torch.inference_mode():
            expected = net(batch)
        assert (run(batch) - expected).abs().max() < 0.03 * expected.abs().max()
    assert calls == [False]  # with gradients on, weights would not be laid out for the kernels


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

    monkeypatch.setattr(compiled, "compile_error", lambda _: None)
    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(expected, match=match):
        compiled_backend(folded(create_model("bn").eval()), torch.float32)(torch.rand(1, 3, 64, 64))


def test_predictor_with_the_compiled_backend(exported: list[Any], files: list[Path]) -> None:
    data = googlenet.load_dataset("fashion-mnist")
    net = with_info(tiny(10, 1), data.classes, 28)
    expected = Predictor(net, precision="fp32").predict(files[:2])
    found = Predictor(net, precision="fp32", backend="compiled").predict(files[:2])
    assert len(exported) == 1
    for one, other in zip(found, expected, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_without_a_compiler(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compile_error", lambda _: "g++ is missing")
    with pytest.raises(UserError, match=r"--backend.*g\+\+ is missing"):
        Predictor(trained.model, backend="compiled")
