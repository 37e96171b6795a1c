from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn import functional as F

from googlenet import GoogLeNetOutput, create_model
from googlenet.recipe import Recipe
from googlenet.training.optim import (
    learning_rate_at,
    make_ema,
    make_optimizer,
    orthogonalize,
    training_loss,
    update_ema,
)


@given(
    schedule=st.sampled_from(["constant", "step", "polynomial", "linear", "cosine"]),
    total=st.integers(1, 400),
    warmup=st.floats(0, 0.9),
    data=st.data(),
)
def test_every_rate_is_positive_and_at_most_the_highest(
    schedule: str, total: int, warmup: float, data: st.DataObject
) -> None:
    recipe = Recipe(schedule=schedule, warmup=warmup, learning_rate=0.5, step_epochs=1)  # type: ignore[arg-type]
    step = data.draw(st.integers(0, total - 1))
    assert 0 < learning_rate_at(step, total, 10, recipe) <= 0.5


def rates(total: int = 100, **settings: object) -> list[float]:
    recipe = Recipe(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate_at(step, total, 10, recipe) for step in range(total)]


def test_the_shapes_of_the_schedules() -> None:
    assert rates(schedule="constant") == [1.0] * 100
    assert rates(schedule="step", step_epochs=2, step_factor=0.5)[::20] == [1.0, 0.5, 0.25, 0.125, 0.0625]
    assert rates(schedule="polynomial", power=0.5)[75] == pytest.approx(0.5)
    linear = rates(schedule="linear", warmup=0.25)
    assert linear[:26] == sorted(linear[:26])
    assert linear[25:] == sorted(linear[25:], reverse=True)
    assert linear[25] == 1.0
    assert linear[-1] < 0.02
    cosine = rates(schedule="cosine", warmup=0.0)
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[25] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_auxiliary_losses_have_their_weight() -> None:
    logits = [torch.randn(4, 3) for _ in range(3)]
    labels = torch.tensor([0, 1, 2, 0])
    main, first, second = (F.cross_entropy(each, labels) for each in logits)
    loss = training_loss(GoogLeNetOutput(*logits), labels, Recipe(auxiliary_weight=0.3))
    torch.testing.assert_close(loss, main + 0.3 * (first + second))
    smoothed = training_loss(logits[0], labels, Recipe(label_smoothing=0.1))
    torch.testing.assert_close(smoothed, F.cross_entropy(logits[0], labels, label_smoothing=0.1))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_an_optimizer_lowers_the_loss_and_does_not_decay_biases(optimizer: str) -> None:
    torch.manual_seed(0)
    net = create_model("bn", num_classes=3, in_channels=1, stem_stride=1)
    recipe = Recipe(optimizer=optimizer, learning_rate=1e-2, weight_decay=0.1)  # type: ignore[arg-type]
    rule = make_optimizer(net, net.classifiers(), recipe)
    decays = {id(p): group["weight_decay"] for group in rule.param_groups for p in group["params"]}
    assert len(decays) == len(list(net.parameters()))
    assert all(decays[id(p)] == (0.1 if p.ndim > 1 else 0.0) for p in net.parameters())
    x, y = torch.randn(6, 1, 28, 28), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(8):
        loss = training_loss(net(x), y, recipe)
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-5, 1.0, 1e15])
@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_an_orthogonalized_update_has_singular_values_nearer_to_each_other(
    shape: tuple[int, int], size: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    before = torch.logspace(0, -2, min(shape))  # gradients have a few strong directions and many weak ones
    matrix, nearest = u @ torch.diag(before) @ v, u @ v
    update = orthogonalize((size * matrix).to(dtype)).float()
    after = torch.linalg.svdvals(update)
    assert after.max() < 2.1  # 1.97, and the rounding of bfloat16
    assert after.max() / after.min() < 0.2 * before.max() / before.min()

    def cosine(one: torch.Tensor) -> float:
        return float((one * nearest).sum() / (one.norm() * nearest.norm()))

    assert cosine(update) > 0.8
    assert cosine(matrix) < 0.7
    assert torch.equal(orthogonalize(torch.zeros(shape, dtype=dtype)), torch.zeros(shape, dtype=dtype))


def test_muon_is_for_kernels_and_adamw_for_the_rest() -> None:
    torch.manual_seed(0)
    net, twin = (create_model("bn", num_classes=3, in_channels=1, initialization="he", dropout=0.0) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    rules = [
        make_optimizer(each, each.classifiers(), Recipe(optimizer=name, learning_rate=1e-2))
        for each, name in ((net, "muon"), (twin, "adamw"))
    ]  # type: ignore[arg-type]
    before = net.conv3.conv.weight.detach().clone()
    for each, rule in zip((net, twin), rules, strict=True):
        each.train()(torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        rule.step()
    torch.testing.assert_close(net.fc.weight, twin.fc.weight)
    torch.testing.assert_close(net.conv1.bn.bias, twin.conv1.bn.bias)
    assert not torch.equal(net.conv3.conv.weight, twin.conv3.conv.weight)
    moved = (net.conv3.conv.weight.detach() - before).square().mean().sqrt()
    assert 0 < moved < 3e-3


def test_a_gradient_scaler_unscales_for_muon_and_skips_an_overflow() -> None:
    net = create_model("bn", num_classes=3, in_channels=1)
    rule = make_optimizer(net, net.classifiers(), Recipe(optimizer="muon"))
    scaler = torch.amp.GradScaler("cpu")
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    scaler.scale(net(torch.rand(4, 1, 64, 64)).sum()).backward()
    net.conv1.conv.weight.grad[0] = float("inf")
    scaler.step(rule)
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_ema_follows_weights_and_statistics() -> None:
    net = create_model("bn", num_classes=3, in_channels=1)
    average = make_ema(net, Recipe(ema_decay=0.9))
    assert average is not None
    update_ema(average, net, 1000, 0.9)
    with torch.no_grad():
        before = net.fc.weight.clone()
        net.fc.weight.add_(1.0)
        net.conv1.bn.running_mean.add_(1.0)
    update_ema(average, net, 1000, 0.9)
    torch.testing.assert_close(average.module.fc.weight, before + 0.1)
    torch.testing.assert_close(average.module.conv1.bn.running_mean, torch.full((64,), 0.1))
    assert make_ema(net, Recipe(ema_decay=0.0)) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_do_not_depend_on_the_parts_of_a_batch(smoothing: float) -> None:
    logits, labels, weights = torch.randn(8, 2), torch.tensor([0, 0, 0, 1, 0, 0, 0, 0]), torch.tensor([0.6, 5.0])
    recipe = Recipe(label_smoothing=smoothing)
    whole = training_loss(logits, labels, recipe, weights)
    parts = [training_loss(*part, recipe, weights) for part in zip(logits.split(2), labels.split(2), strict=True)]
    assert sum(parts) / len(parts) == pytest.approx(whole.item(), rel=1e-6)
    if not smoothing:
        each = F.cross_entropy(logits, labels, reduction="none") * weights[labels]
        assert whole.item() == pytest.approx(each.mean().item(), rel=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_decay_of_the_average_ramps_up(decay: float) -> None:
    """A weight that goes from 0 to 1 after the first step: a constant decay of 0.999 would leave it near 0."""
    net = torch.nn.Linear(1, 1, bias=False)
    average = make_ema(net, Recipe(ema_decay=decay))
    torch.nn.init.zeros_(net.weight)
    update_ema(average, net, 1, decay)
    torch.nn.init.ones_(net.weight)
    expected = 0.0
    for step in range(2, 80):
        update_ema(average, net, step, decay)
        now = min(decay, (1 + step) / (10 + step))
        expected = now * expected + (1 - now)
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0.99
