"""Muon in single precision: momentum whose matrices are made orthogonal before they are added.

`torch.optim.Muon` does the same in bfloat16, which most CPUs only emulate, at thirty times the
cost of this. Invariant: the state is a momentum buffer a parameter, so that a run can be resumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration (Jordan et al., 2024)


class Muon(torch.optim.Optimizer):
    """For matrices alone; updates have the root mean square of AdamW's, so it shares its rate."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not called."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                self._move(group, shape, parameters)

    def _move(self, group: dict[str, Any], shape: torch.Size, parameters: list[Tensor]) -> None:
        momentum = group["momentum"]
        directions = []
        for parameter in parameters:
            assert parameter.grad is not None  # noqa: S101 - tells the type checker
            state = self.state[parameter]
            buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - momentum)
            directions.append(parameter.grad.lerp(buffer, momentum))  # Nesterov's
        updates = orthogonal(torch.stack(directions))
        rate = group["lr"] * 0.2 * max(shape) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-rate)


def orthogonal(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """(number, rows, columns) matrices with all singular values brought near 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    answer: Tensor = x.mT if tall else x
    return answer
