"""What peft puts into a network so that few weights are trained.

Invariant: a network with fresh adapters answers as it did without.
"""

from __future__ import annotations

import warnings
from typing import Any

#: Methods that peft has, and those of them whose result is an adapter: AdaLoRA's, of a rank for
#: each layer, is merged into the weights instead.
PEFT = ("lora", "adalora", "ia3")
WRITTEN_ALONE = {"lora", "ia3"}


def with_adapters(
    model: Any,  # noqa: ANN401 - of either network
    method: str,
    *,
    rank: int,
    dropout: float,
    steps: int,
    targets: str,
    feed_forward: str,
) -> Any:  # noqa: ANN401 - a PeftModel
    """A PeftModel of which the adapters are free, the rest frozen. method: of PEFT.

    targets: pattern of the layers that get one; feed_forward: of those whose inputs IA3 scales,
    not their outputs. steps: of the run, over which AdaLoRA spreads the rank.
    """
    from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model  # noqa: PLC0415 - slow

    shared: dict[str, Any] = {
        "target_modules": targets,
        "lora_alpha": 2 * rank,
        "lora_dropout": dropout,
        "bias": "none",
    }
    with warnings.catch_warnings():  # peft reads an attribute by its older name
        warnings.simplefilter("ignore", FutureWarning)
        if method == "ia3":
            scaled = IA3Config(target_modules=targets, feedforward_modules=feed_forward)
            return get_peft_model(model, scaled)
        if method == "lora":
            return get_peft_model(model, LoraConfig(r=rank, **shared))
        spread = AdaLoraConfig(
            init_r=rank + (rank + 1) // 2,
            target_r=rank,
            tinit=steps // 10,
            tfinal=steps // 2,
            total_step=steps,
            **shared,
        )
        return get_peft_model(model, spread)
