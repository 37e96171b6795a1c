from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import googlenet
from googlenet import InputSpec, TrainingResult, UserError, create_model, explain
from googlenet.evaluation import heat_maps
from googlenet.evaluation.heat_maps import hide, hide_hot_area, log_odds, masked_gradients, normalize, occlusion
from googlenet.explanation.explain import trust_line
from tests.conftest import bundled
from tests.explanation.pass_through import pass_through

EVERY_METHOD = pytest.mark.parametrize("method", ["masked-gradients", "occlusion", "grad-cam"])


@EVERY_METHOD
def test_a_planted_object_is_found(method: str) -> None:
    image = torch.zeros(3, 56, 56, dtype=torch.uint8)
    image[0, 5:11, 40:46] = 255
    image[1, 40:46, 5:11] = 200
    net = pass_through("bn", 56)
    explanation = explain(net, image, class_name="second channel", method=method)  # the less likely one
    assert (explanation.method, explanation.explained) == (method, "second channel")
    assert explanation.heat_map.max() == 1
    assert explanation.heat[28:, :28].sum() > 0.9 * explanation.heat.sum()
    trust = explanation.trust
    assert trust.lost > max(0, trust.lost_elsewhere)
    assert trust.probability == pytest.approx(explanation.probability) and trust.without < trust.elsewhere


def test_hiding_the_hot_area_costs_more_than_hiding_another(trained: TrainingResult) -> None:
    net = googlenet.load(trained.model)
    trusts = [explain(net, image).trust for image in bundled("t10k-images-idx3-ubyte")[100:108]]
    lost, elsewhere = np.mean([(trust.lost, trust.lost_elsewhere) for trust in trusts], axis=0)
    assert lost > elsewhere
    assert all(0 < trust.area <= 0.201 and abs(trust.lost) <= 1 for trust in trusts)


def test_randomized_weights_change_the_map(trained: TrainingResult) -> None:
    """The model-randomization check of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292."""
    net = googlenet.load(trained.model)
    torch.manual_seed(0)
    random = create_model("bn", num_classes=10, in_channels=1)
    random.info = net.info
    correlations = []
    for image in bundled("t10k-images-idx3-ubyte")[100:103]:
        name = explain(net, image).explained
        first, again, other = (explain(each, image, class_name=name).heat_map for each in (net, net, random))
        assert torch.equal(first, again)
        correlations.append(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]))
    assert np.mean(correlations) < 0.5


def test_what_a_pixel_adds_to_a_sum_is_its_evidence() -> None:
    """For logits that are sums of pixels, every method that hides pixels must find exactly what each adds."""
    weights = torch.zeros(2, 20, 20)
    weights[0, 9:11, 9:11], weights[1, 3, 3] = 1, 2

    def net(x: Tensor) -> Tensor:
        return (x[:, None, 0] * weights).sum(dim=(2, 3))

    x, hidden = torch.ones(2, 1, 20, 20), torch.zeros(2, 1, 20, 20)
    evidence = masked_gradients(net, x, hidden, 0)
    assert evidence.shape == (2, 20, 20)
    torch.testing.assert_close(evidence[0], evidence[1])
    torch.testing.assert_close(evidence.sum(dim=(1, 2)), torch.full((2,), 4.0 - 2.0), rtol=0.02, atol=0.02)
    for compute in (masked_gradients, occlusion):
        for each in compute(net, x, hidden, 0):
            assert each[10, 10] > 0 > each[3, 3]
            assert all(8 <= place <= 11 for place in divmod(int(each.argmax()), 20))
            assert float(normalize(-each)[3, 3]) == 1
    trust = hide_hot_area(net, x[:1], hidden[:1], 0, normalize(weights[0]), temperature=1.0)
    assert trust.area == 4 / 400  # no more is hot
    assert trust.lost == pytest.approx(1 - _probability(-2) / _probability(2))
    assert trust.elsewhere == trust.probability == pytest.approx(_probability(2))
    nothing = hide_hot_area(net, x[:1], hidden[:1], 0, torch.zeros(20, 20), temperature=1.0)
    assert nothing == (0, *[trust.probability] * 3) and nothing.lost == 0
    assert "nothing to hide" in trust_line(nothing)
    assert not normalize(torch.full((2, 2), -1.0)).any()


def test_a_class_that_is_all_but_impossible() -> None:
    """Its probability can rise a million times; what is lost stays between -1 and 1."""

    def net(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, :10].sum(dim=(1, 2)), x[:, 0, 10:].sum(dim=(1, 2))], dim=1)

    x = torch.zeros(1, 1, 20, 20)
    x[:, :, 15:, 15:] = 1  # speaks for the other class
    trust = hide_hot_area(net, x, torch.zeros_like(x), 0, x[0, 0], temperature=1.0)
    assert trust.probability == pytest.approx(_probability(-25)) and trust.without == pytest.approx(0.5)
    assert -1 <= trust.lost < -0.99
    assert "raises" in trust_line(trust) and "50%" in trust_line(trust)
    assert set(trust.to_dict()) == {"area", "probability", "without", "elsewhere", "lost", "lost_elsewhere"}


@pytest.mark.parametrize(("height", "width", "squares"), [(28, 28, 121), (40, 299, 121), (4, 4, 25)])
def test_occlusion_hides_at_most_121_squares(
    height: int, width: int, squares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def net(x: Tensor) -> Tensor:
        batches.append(len(x))
        return x.mean(dim=(2, 3))

    x = torch.rand(1, 2, height, width)
    evidence = occlusion(net, x, torch.zeros_like(x), 0)
    assert sum(batches) == 1 + squares
    monkeypatch.setattr(heat_maps, "BATCH_PIXELS", 3 * height * width)
    torch.testing.assert_close(occlusion(net, x, torch.zeros_like(x), 0), evidence)
    assert max(batches[-squares // 3 :]) == 3


def _probability(odds: float) -> float:
    return float(torch.tensor(odds).sigmoid())


def test_hidden_is_the_color_of_a_dark_border_or_gray() -> None:
    x = torch.zeros(2, 3, 6, 6)
    x[0, :, 1:5, 1:5] = 9
    x[1, 0] = 2
    x[1, :, 2, 2] = 7
    hidden = hide(x, InputSpec(3, 6, (0.4, 0.4, 0.4), (0.1, 0.1, 0.1)))
    assert hidden.shape == x.shape
    assert not hidden[0].any()
    assert hidden[1, :, 3, 3].tolist() == pytest.approx([1, 0, 0])


def test_log_odds() -> None:
    logits = torch.tensor([[1.0, 2.0, -3.0], [50.0, 0.0, 0.0]])
    probability = logits.double().softmax(dim=1)[:, 0]
    assert log_odds(logits, 0)[0].item() == pytest.approx(float((probability / (1 - probability)).log()[0]))
    assert log_odds(logits[:, :1], 0).tolist() == [1, 50]


def test_invalid_arguments() -> None:
    net, image = pass_through("bn", 32), torch.zeros(3, 32, 32, dtype=torch.uint8)
    with pytest.raises(UserError, match="masked-gradients"):
        explain(net, image, method="magic")
    with pytest.raises(UserError, match="grad-cam"):
        explain(net, image, block="4a")
    assert explain(net, image, method="grad-cam", block="4a").block == "4a"
    assert explain(net, image).block is None
