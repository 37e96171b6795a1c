"""What changes the weights: the loss, the update rule, the learning rate over the run, the average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from googlenet.machine import resolve_precision
from googlenet.network.googlenet import GoogLeNetOutput
from googlenet.recipe import Recipe
from googlenet.training.muon import Muon


def training_loss(output: Tensor | GoogLeNetOutput, labels: Tensor, recipe: Recipe) -> Tensor:
    """Mean cross-entropy per image, in nats; the auxiliary heads' are added with their weight (paper, section 5)."""

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)

    if isinstance(output, tuple):
        return loss(output[0]) + recipe.auxiliary_weight * (loss(output[1]) + loss(output[2]))
    return loss(output)


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's update rule. Weight decay is for kernels and matrices, not for biases and normalisation."""
    kernels = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    rate = recipe.learning_rate
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
    if recipe.optimizer == "muon":
        convolutions = {id(module.weight) for module in net.modules() if isinstance(module, nn.Conv2d)}
        groups[0]["params"] = [kernel for kernel in kernels if id(kernel) not in convolutions]
        groups.append(
            {
                "params": [kernel for kernel in kernels if id(kernel) in convolutions],
                "weight_decay": recipe.weight_decay,
                "orthogonal": True,
            }
        )
        native = resolve_precision("auto", kernels[0].device) == "bf16"
        dtype = torch.bfloat16 if native else torch.float32
        return Muon(groups, rate, momentum=recipe.momentum, dtype=dtype, betas=(0.9, 0.999), fused=True)
    rule = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return rule(groups, rate, betas=(recipe.momentum, 0.999), fused=True)


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
