"""What changes the weights: the loss, the update rule, the learning rate over the run, the average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from googlenet.device import resolve_precision
from googlenet.model.googlenet import GoogLeNet, GoogLeNetOutput
from googlenet.recipe import Recipe


def training_loss(
    output: Tensor | GoogLeNetOutput, targets: Tensor, recipe: Recipe, class_weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy per image, in nats; the auxiliary heads' are added with their weight (paper, section 5).

    Args:
        output: of the network.
        targets: labels (N,), or the share of each class in each image (N, num_classes).
        recipe: for the smoothing of labels and the auxiliary heads' weight.
        class_weights: what each class's images count, (num_classes,); None: all the same.
    """

    def loss(logits: Tensor) -> Tensor:
        smoothing = recipe.label_smoothing
        each = F.cross_entropy(logits.float(), targets, class_weights, reduction="none", label_smoothing=smoothing)
        return each.mean()  # torch's own mean with weights depends on which images share a part of a batch

    if isinstance(output, tuple):
        return loss(output[0]) + recipe.auxiliary_weight * (loss(output[1]) + loss(output[2]))
    return loss(output)


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """For each class what makes every class count the same, 1 on average over the images: (num_classes,)."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts.clamp(min=1).float())


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's update rule. Weight decay is for kernels and matrices, not for biases and normalization.

    Of a network that starts from given weights, all but the classifier is marked as `trunk`: see `backbone_lr_factor`.
    """
    heads = net.classifiers() if isinstance(net, GoogLeNet) else []
    fresh = {id(parameter) for head in heads for parameter in head.parameters()}
    convolutions = {id(module.weight) for module in net.modules() if isinstance(module, nn.Conv2d)}
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for parameter in net.parameters():
        orthogonal = recipe.optimizer == "muon" and id(parameter) in convolutions
        trunk = recipe.weights is not None and id(parameter) not in fresh
        groups.setdefault((orthogonal, parameter.ndim > 1, trunk), []).append(parameter)
    described = [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "trunk": trunk,
            **({"orthogonal": True} if orthogonal else {}),
        }
        for (orthogonal, decayed, trunk), parameters in groups.items()
    ]
    rate = recipe.learning_rate
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(described, rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
    if recipe.optimizer == "muon":
        native = resolve_precision("auto", next(net.parameters()).device) == "bf16"
        dtype = torch.bfloat16 if native else torch.float32
        return Muon(described, rate, momentum=recipe.momentum, dtype=dtype, betas=(0.9, 0.999), fused=True)
    rule = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return rule(described, rate, betas=(recipe.momentum, 0.999), fused=True)


def backbone_lr_factor(step: int, total_steps: int, recipe: Recipe) -> float:
    """What the learning rate of given weights is multiplied by: 0 while they are frozen, then `backbone_lr_scale`."""
    return 0.0 if step < recipe.freeze * total_steps else recipe.backbone_lr_scale


def learning_rate_at(step: int, total_steps: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """The learning rate of one step, counted from 0: a function of nothing but the step, so nothing has to be saved.

    - `constant`
    - `step`: times `step_factor` every `step_epochs` epochs.
    - `polynomial`: (1 - done) ** `power`.
    - `cosine`: linear rise over the `warmup` share of the steps, then half a cosine down to 0.
    - `one-cycle`: linear rise over the `warmup` share, then linear fall to 0.
    """
    done = step / total_steps
    match recipe.schedule:
        case "constant":
            factor = 1.0
        case "step":
            factor = recipe.step_factor ** (step // (steps_per_epoch * recipe.step_epochs))
        case "polynomial":
            factor = (1 - done) ** recipe.power
        case "cosine" | "one-cycle":
            rise = recipe.warmup * total_steps
            if step < rise:
                factor = (step + 1) / (rise + 1)
            else:
                left = 1 - (step - rise) / (total_steps - rise)
                factor = left if recipe.schedule == "one-cycle" else (1 - math.cos(math.pi * left)) / 2
    return recipe.learning_rate * factor


def make_average(net: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The exponential moving average of weights and batch normalization's statistics; None where it is off."""
    if recipe.ema == 0:
        return None
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)


# Of the quintics that drive singular values towards 1, the first two of Amsel et al. 2025 (Polar Express,
# https://arxiv.org/abs/2505.16932): they lift small ones 34-fold, nearly as much as three rounds of Jordan et al.'s one
# quintic, for two thirds of the work. How near to 1 the others come matters little.
_QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
)


class Muon(torch.optim.AdamW):
    """Muon for the groups of parameters that say `orthogonal=True`, AdamW for the others.

    An orthogonal update is scaled to the size that AdamW's would have (Liu et al. 2025, https://arxiv.org/abs/2502.16982,
    section 2.2), so one learning rate serves both.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.bfloat16,
        **adamw: Any,
    ) -> None:
        super().__init__([{"orthogonal": False, **group} for group in groups], lr, **adamw)
        self.momentum = momentum
        self.dtype = dtype
        """Of the orthogonalization; bfloat16 is enough, and slow where the device does not compute in it."""
        # A gradient scaler must unscale, and skip a step that overflowed, before we see it.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["orthogonal"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                for kernel in group["params"]:
                    if kernel.grad is not None:
                        self._step_kernel(kernel, kernel.grad, group)
        return loss

    def _step_kernel(self, kernel: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[kernel]
        if not state:
            # AdamW looks for a step in every parameter's state when it is loaded.
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(kernel)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(state["momentum"], self.momentum)  # Nesterov's look ahead
        # In the order in which a channels-last kernel lies in memory; which columns come first does not matter.
        rows = ahead.permute(0, 2, 3, 1)
        update = orthogonalized(rows.flatten(1).to(self.dtype))
        size = 0.2 * max(update.shape) ** 0.5
        if group["weight_decay"]:
            kernel.mul_(1 - group["lr"] * group["weight_decay"])
        kernel.add_(update.view(rows.shape).permute(0, 3, 1, 2), alpha=-group["lr"] * size)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Nearly U V^T of the singular value decomposition U S V^T, of norm 1e19 at the most: (rows, columns) -> the same.

    Each round multiplies the matrix by a polynomial of its Gram matrix. These are small and symmetric and commute, so
    both rounds are done with them alone, and the matrix itself, several times as wide, is multiplied once.
    """
    tall = len(matrix) > matrix.shape[1]
    wide = matrix.mT if tall else matrix
    gram = wide @ wide.mT
    squared_norm = gram.diagonal().sum(dtype=torch.float32) + 1e-14
    gram /= squared_norm
    first = _polynomial(gram, _QUINTICS[0])
    second = _polynomial(first @ gram @ first, _QUINTICS[1])
    wide = (second @ first / squared_norm.sqrt()) @ wide
    return wide.mT if tall else wide


def _polynomial(gram: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    constant, linear, square = coefficients
    result = torch.addmm(gram, gram, gram, beta=linear, alpha=square)
    result.diagonal().add_(constant)
    return result
