"""What changes the weights: the loss, the update rule, the learning rate over the run, the average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from googlenet.machine import resolve_precision
from googlenet.network.googlenet import GoogLeNet, GoogLeNetOutput
from googlenet.recipe import Recipe
from googlenet.training.muon import Muon


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
    """The recipe's update rule. Weight decay is for kernels and matrices, not for biases and normalisation.

    Of a network that starts from given weights, all but the classifier is marked as `trunk`: see `trunk_factor`.
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


def trunk_factor(step: int, total_steps: int, recipe: Recipe) -> float:
    """What the learning rate of given weights is multiplied by: 0 while they are frozen, then `trunk_rate`."""
    return 0.0 if step < recipe.freeze * total_steps else recipe.trunk_rate


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
    """The exponential moving average of weights and batch normalisation's statistics; None where it is off."""
    if recipe.ema == 0:
        return None
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
