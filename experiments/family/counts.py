"""What each idea of the family saves: parameters and multiply-adds, counted from the tables.

    python -m experiments.family.counts

The network that an idea replaced is the same table with the older steps in its place. Counted are convolutions and the
classifier, without batch norm, for one image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from googlenet.model.architecture import VARIANTS, Architecture
from googlenet.model.tables import Block, Branch, Conv, Pool, Split, channels_after, size_after

Change = Callable[[Branch], Branch]


class Cost(NamedTuple):
    parameters: int
    multiply_adds: int

    def __add__(self, other: object) -> Cost:
        assert isinstance(other, Cost)
        return Cost(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


def branch_cost(branch: Branch, channels: int, size: int) -> Cost:
    """Of a branch for maps of `channels` and `size` pixels per side."""
    total = Cost(0, 0)
    for step in branch:
        after = size_after(step, size)
        if isinstance(step, Split):
            for part in step.branches:
                total += branch_cost(part, channels, size)
        elif isinstance(step, Conv):
            weights = channels * step.channels * step.sides[0] * step.sides[1]
            total += Cost(weights, weights * after**2)
        channels, size = channels_after(step, channels), after
    return total


def network_cost(net: Architecture, change: Change = lambda branch: branch, blocks: str = "") -> Cost:
    """Of a whole network; `change` is applied to all branches of the blocks whose names begin with one of `blocks`."""
    total, channels, size = Cost(0, 0), net.in_channels, net.usual_size
    for layer in net.layers.values():
        if isinstance(layer, Block):
            for branch in layer.branches.values():
                changed = change(branch) if layer.name.startswith(tuple(blocks.split())) else branch
                total += branch_cost(changed, channels, size)
        elif isinstance(layer, Conv | Pool):
            total += branch_cost((layer,), channels, size)
        channels, size = channels_after(layer, channels), size_after(layer, size)
    return total + Cost(channels * net.num_classes, channels * net.num_classes)


def double_as_5x5(branch: Branch) -> Branch:
    """One 5x5 convolution in place of two of 3x3."""
    if [step.kernel for step in branch if isinstance(step, Conv)] != [1, 3, 3]:
        return branch
    reduce, _, last = branch
    assert isinstance(last, Conv)
    return reduce, last._replace(kernel=5)


def pairs_as_squares(branch: Branch) -> Branch:
    """n x n in place of a row and a column of n, one after the other."""
    steps: list[Conv | Pool | Split] = []
    for step in branch:
        before = steps[-1] if steps else None
        if isinstance(step, Conv) and isinstance(before, Conv) and step.sides == before.sides[::-1] != before.sides:
            steps[-1] = step._replace(kernel=max(step.sides))
        else:
            steps.append(step)
    return tuple(steps)


def splits_as_squares(branch: Branch) -> Branch:
    """One n x n convolution in place of a row and a column side by side, with as many outputs."""
    *steps, last = branch
    if not isinstance(last, Split):
        return branch
    first = last.branches[0][0]
    assert isinstance(first, Conv)
    return (*steps, Conv(max(first.sides), channels_after(last, 0)))


def at_full_size(branch: Branch) -> Branch:
    """Stride 1 in place of 2, for a block that is followed by a pool."""
    return tuple(step._replace(stride=1, padding="half") if isinstance(step, Conv) else step for step in branch)


def main() -> None:
    print(f"{'network':<34}{'size':>5}{'convolutions in a row':>23}{'parameters':>13}{'multiply-adds':>16}")
    for variant in ("tutorial", "v2", "v3", "v4"):
        net = dataclasses.replace(VARIANTS[variant], auxiliary=False)
        cost = network_cost(net)
        depth = sum(
            max(map(_depth, layer.branches.values())) if isinstance(layer, Block) else isinstance(layer, Conv)
            for layer in net.layers.values()
        )
        print(f"{variant:<34}{net.usual_size:>5}{depth:>23}{cost.parameters:>13,}{cost.multiply_adds:>16,}")
    print("\nwith what an idea replaced:")
    for title, variant, change, blocks in (
        ("v2, 5x5 for two 3x3", "v2", double_as_5x5, "3 4 5"),
        ("v3, 7x7 for 1x7 and 7x1", "v3", pairs_as_squares, "6 7"),
        ("v3, 3x3 for 1x3 beside 3x1", "v3", splits_as_squares, "7"),
        ("v3, a pool after 6a and 7a", "v3", at_full_size, "6a 7a"),
        ("v4, 7x7 for 1x7 and 7x1", "v4", pairs_as_squares, "6 7a"),
    ):
        net = VARIANTS[variant]
        cost, usual = network_cost(net, change, blocks), network_cost(net)
        more = [100 * (now / before - 1) for now, before in zip(cost, usual, strict=True)]
        print(f"{title:<34}{'':>28}{cost.parameters:>13,}{cost.multiply_adds:>16,}  {more[0]:+.0f}%, {more[1]:+.0f}%")


def _depth(branch: Branch) -> int:
    return sum(isinstance(step, Conv | Split) for step in branch)


if __name__ == "__main__":
    main()
