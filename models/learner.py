"""What pretraining runs have in common: the rate, the averaged weights, the state on disk.

Invariant: a run that is resumed goes on from the very numbers that it was stopped with.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from models.base import ModelError
from models.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

ModelT = TypeVar("ModelT", bound=nn.Module)

STATE = "state.safetensors"
LEAST_RATE = 0.02  # of the highest one


def rate_at(step: int, share: float, *, warmup_steps: int, cooldown: float) -> float:
    """Warm up, stay at 1, and fall as 1 - √ over the last `cooldown` of the run.

    share: of the run that is done, 0 to 1 and beyond.
    """
    warm = min(1.0, (step + 1) / warmup_steps)
    left = (1 - min(share, 1.0)) / cooldown
    return warm * max(LEAST_RATE, 1 - math.sqrt(max(0.0, 1 - left)))


class Learner(Generic[ModelT]):
    """A model, the exponential average of its weights, and what optimises it.

    Muon for the matrices whose names begin with `inner`, AdamW for all else.
    """

    def __init__(self, model: ModelT, *, inner: str, average: float) -> None:
        self.model, self._keep = model, average
        self.average = {k: v.detach().clone() for k, v in model.named_parameters()}
        self._optimizers = _optimizers(model, inner)

    def step(self, rate: float, number: int) -> None:
        """Move by the gradients that are there. number: of the step; early ones average less."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._update_average(number)

    def _update_average(self, number: int) -> None:
        keep = min(self._keep, (1 + number) / (10 + number))
        live = dict(self.model.named_parameters())
        names = list(self.average)
        torch._foreach_lerp_(
            [self.average[k] for k in names], [live[k].detach() for k in names], 1 - keep
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has its averaged weights within."""
        live = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self._load(self.average)
        try:
            yield
        finally:
            self._load(live)

    def buffers(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside the weights."""
        weights = {k for k, _ in self.model.named_parameters(remove_duplicate=False)}
        return {k: v for k, v in self.model.state_dict().items() if k not in weights}

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])

    def save(self, run: Path, facts: Mapping[str, object]) -> None:
        """Write the state to a run's directory. facts: of the progress, read back by `resume`."""
        state = {f"live.{k}": v.detach() for k, v in self.model.named_parameters()}
        state |= {f"average.{k}": v for k, v in self.average.items()}
        state |= {f"buffer.{k}": v for k, v in self.buffers().items()}
        for i, optimizer in enumerate(self._optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{i}.{index}.{k}": v for k, v in values.items()}
        run.mkdir(parents=True, exist_ok=True)
        replace_tensors(run / STATE, state, {k: str(v) for k, v in facts.items()})

    def resume(self, run: Path) -> dict[str, str] | None:
        """Go on from a run's state, and return its facts; None where there is no state.

        Raises ModelError if it is of another architecture.
        """
        path = run / STATE
        if not path.exists():
            return None
        state = load_file(path, device=str(next(self.model.parameters()).device))
        live = _under("live.", state)
        expected = {k: v.shape for k, v in self.model.named_parameters()}
        if {k: v.shape for k, v in live.items()} != expected:
            raise ModelError(f"{path} holds another architecture; choose another run directory")
        self._load(live)
        self.average = {k: v.clone() for k, v in _under("average.", state).items()}
        buffers = self.buffers()
        for name, value in _under("buffer.", state).items():
            buffers[name].copy_(value)
        self._resume_optimizers(state)
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata())

    def _resume_optimizers(self, state: Mapping[str, Tensor]) -> None:
        for i, optimizer in enumerate(self._optimizers):
            whole = optimizer.state_dict()
            for name, value in state.items():
                kind, *place = name.split(".", 3)
                if kind == "optimizer" and int(place[0]) == i:
                    whole["state"].setdefault(int(place[1]), {})[place[2]] = value
            optimizer.load_state_dict(whole)


def _under(head: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}


def _optimizers(model: nn.Module, inner: str) -> list[torch.optim.Optimizer]:
    named = list(model.named_parameters())
    within = [p for k, p in named if k.startswith(inner) and p.ndim == 2]
    chosen = {id(p) for p in within}
    ends = [p for _, p in named if id(p) not in chosen]
    matrices = Muon(within, weight_decay=0.01)
    others = torch.optim.AdamW(ends, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer, factor in ((matrices, 1.0), (others, 0.7)):
        for group in optimizer.param_groups:
            group["factor"] = factor
    return [matrices, others]


def replace_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write beside and rename, so that a reader never meets half a file."""
    beside = path.with_suffix(".part")
    save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, beside, metadata=dict(facts))
    beside.chmod(0o644)
    beside.replace(path)
