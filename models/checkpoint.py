"""Checkpoints on disk: load, verify, save.

Invariant: only safetensors are read, nothing is fetched, and what cannot be served is refused
with the reason before it answers anybody.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos2.layers import MHA, MLP, Chronos2LayerNorm, ResidualBlock
from chronos.chronos2.model import Chronos2Model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import Embedding, Module

from models.base import CheckpointError
from models.bottleneck import BOTTLENECK, bottleneck_weights, give_bottlenecks, width_of

ModelT = TypeVar("ModelT", bound=Module)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_DIRECTORY = "base"

QUANTILES = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)

# The configurations of the published Chronos-2 checkpoints, and a tiny one for tests.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "chronos-2": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "chronos-2-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "tiny": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
}
FORECASTING: dict[str, dict[str, int]] = {
    "chronos-2": {"context_length": 8192, "max_output_patches": 64},
    "chronos-2-small": {"context_length": 8192, "max_output_patches": 64},
    "tiny": {"context_length": 256, "max_output_patches": 4},
}


@dataclass(frozen=True, slots=True, eq=False)
class SeriesCheckpoint:
    """A verified Chronos-2 network.

    model: on the CPU, in float32, in evaluation mode. digest: hex SHA-256 of everything that was
    read. options: what the checkpoint says of itself under `shopcast` in its config.json.
    """

    name: str
    model: Chronos2Model
    digest: str
    options: dict[str, Any]


def shipped(name: str) -> Path:
    """The directory of the checkpoint that comes with the package."""
    return Path(__file__).parent / "pretrained" / name


def load_series(directory: Path, *, base: Path | None = None) -> SeriesCheckpoint:
    """Read a Chronos-2 checkpoint, or an adapter on top of its base: of peft, or bottlenecks.

    base: the base checkpoint of an adapter; by default the directory `base` inside it. What the
    adapter's own config says of its base is ignored. Options are those of the adapter's config.json
    if it has one, else those of its base.
    Raises CheckpointError with the reason.
    """
    if not directory.is_dir():
        raise CheckpointError(f"checkpoint directory {directory.name!r} does not exist")
    if (directory / ADAPTER_CONFIG).exists():
        return _load_adapter(directory, base or directory / BASE_DIRECTORY)
    config, raw = _read_config(directory)
    files = weight_files(directory)
    model, options = _build(config), _options(raw)
    if BOTTLENECK in options:
        give_bottlenecks(model, _width(CONFIG, options))
    fill(model, read_tensors(files))
    digest = digest_of([directory / CONFIG, *files])
    return SeriesCheckpoint(directory.name, model.eval(), digest, options)


def save_random(directory: Path, configuration: str, *, seed: int = 0) -> Path:
    """Save a network with random weights in one of CONFIGURATIONS, and return its directory."""
    config = series_config(CONFIGURATIONS[configuration], FORECASTING[configuration])
    model = new_series_model(config, seed=seed)
    model.save_pretrained(directory)
    return directory


def series_config(
    architecture: dict[str, Any], forecasting: dict[str, Any], *, patch: int = 16
) -> Chronos2CoreConfig:
    """The config of a Chronos-2 network with Chronos-2's 21 quantiles and no dropout."""
    return Chronos2CoreConfig(
        **architecture,
        dropout_rate=0.0,
        architectures=["Chronos2Model"],
        chronos_pipeline_class="Chronos2Pipeline",
        chronos_config={
            "input_patch_size": patch,
            "input_patch_stride": patch,
            "output_patch_size": patch,
            "quantiles": list(QUANTILES),
            "use_arcsinh": True,
            "use_reg_token": True,
            **forecasting,
        },
    )


def new_series_model(config: Chronos2CoreConfig, *, seed: int) -> Chronos2Model:
    """A network with explicitly initialised weights, reproducible by seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Chronos2Model(config)
        initialise(model)
    return model


@torch.no_grad()
def initialise(model: Chronos2Model) -> None:
    """Draw all weights anew with unit gain throughout.

    The library's own rule does not take effect on small configurations under transformers 5: every
    linear layer gets the same deviation, and norm weights are drawn around zero. Attention is
    unscaled, so queries carry its 1/√d_kv; what is added to the residual stream is made smaller
    with depth.
    """
    added = (3 * model.config.num_layers) ** -0.5
    for module in model.modules():
        if isinstance(module, Chronos2LayerNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, MHA):
            module.q.weight.normal_(std=(module.d_model * module.kv_proj_dim) ** -0.5)
            module.k.weight.normal_(std=module.d_model**-0.5)
            module.v.weight.normal_(std=module.d_model**-0.5)
            module.o.weight.normal_(std=added * module.inner_dim**-0.5)
        elif isinstance(module, MLP):
            module.wi.weight.normal_(std=(2 / module.wi.in_features) ** 0.5)
            module.wo.weight.normal_(std=added * module.wo.in_features**-0.5)
        elif isinstance(module, ResidualBlock):
            for layer in (module.hidden_layer, module.output_layer, module.residual_layer):
                layer.weight.normal_(std=layer.in_features**-0.5)
                layer.bias.zero_()
        elif isinstance(module, Embedding):
            module.weight.normal_(std=1.0)


def _load_adapter(directory: Path, base: Path) -> SeriesCheckpoint:
    if not (directory / ADAPTER_WEIGHTS).exists():
        raise CheckpointError(f"adapter has no {ADAPTER_WEIGHTS}; only safetensors are loaded")
    if not base.is_dir():
        raise CheckpointError(
            "adapter without its base: put the base checkpoint into a directory "
            f"{BASE_DIRECTORY!r} inside it, or name it by SHOPCAST_SERIES_BASE"
        )
    root = load_series(base)
    said = _json(directory, ADAPTER_CONFIG)
    adapt = _with_bottlenecks if BOTTLENECK in said else merged
    model, digest = adapt(root.model, directory, root.digest)
    options = root.options
    if (directory / CONFIG).exists():
        own = hashlib.sha256((directory / CONFIG).read_bytes()).hexdigest()
        digest = hashlib.sha256(f"{digest}:{own}".encode()).hexdigest()
        options = _options(_json(directory, CONFIG))
    width = width_of(model)
    options |= {} if width is None else {BOTTLENECK: width}
    return SeriesCheckpoint(directory.name, model.eval(), digest, options)


def _with_bottlenecks(
    model: Chronos2Model, directory: Path, digest: str
) -> tuple[Chronos2Model, str]:
    """The model with the bottlenecks of a directory, and the digest of both."""
    width = _width(ADAPTER_CONFIG, _json(directory, ADAPTER_CONFIG))
    give_bottlenecks(model, width)
    if width_of(model) != width:
        raise CheckpointError(
            f"adapter does not fit its base: it is {width} wide, its base's are {width_of(model)}"
        )
    own, found = bottleneck_weights(model), read_tensors([directory / ADAPTER_WEIGHTS])
    if other := sorted(found.keys() & (model.state_dict().keys() - own.keys())):
        raise CheckpointError(f"adapter holds weights of its base, as {other[0]}")
    fill(model, {k: v for k, v in model.state_dict().items() if k not in own} | found)
    files = digest_of([directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS])
    return model, hashlib.sha256(f"{digest}:{files}".encode()).hexdigest()


def _width(file: str, said: dict[str, Any]) -> int:
    width = said[BOTTLENECK]
    if type(width) is not int or width < 1:
        raise CheckpointError(f"{file}: {BOTTLENECK} must be a whole number from 1 on")
    return width


def merged(model: ModelT, directory: Path, digest: str) -> tuple[ModelT, str]:
    """The model with the LoRA adapter of a directory in its weights, and the digest of both.

    Raises CheckpointError if the adapter does not fit.
    """
    from peft import PeftModel  # noqa: PLC0415 - a second of import time that few need

    try:
        with warnings.catch_warnings():  # peft reads an attribute by its older name
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(
                model, str(directory), use_safetensors=True, local_files_only=True
            )
        whole = adapted.merge_and_unload()
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise CheckpointError(f"adapter does not fit its base: {error}") from error
    _verify_finite(dict(whole.named_parameters()))
    own = digest_of([directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS])
    return whole, hashlib.sha256(f"{digest}:{own}".encode()).hexdigest()


def _json(directory: Path, name: str) -> dict[str, Any]:
    try:
        raw = json.loads((directory / name).read_text())
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint has no {name}") from None
    except ValueError as error:
        raise CheckpointError(f"{name} is not JSON: {error}") from error
    return raw if isinstance(raw, dict) else {}


def _options(raw: dict[str, Any]) -> dict[str, Any]:
    """What a config says under `shopcast`."""
    said = raw.get("shopcast")
    return said if isinstance(said, dict) else {}


def _read_config(directory: Path) -> tuple[Chronos2CoreConfig, dict[str, Any]]:
    raw = _json(directory, CONFIG)
    if "chronos_config" not in raw:
        raise CheckpointError(f"{CONFIG} has no chronos_config: not a Chronos-2 checkpoint")
    if raw.get("architectures") != ["Chronos2Model"]:
        raise CheckpointError(f"architectures is {raw.get('architectures')}, not Chronos2Model")
    _verify_forecasting(raw["chronos_config"])
    try:
        return Chronos2CoreConfig(**raw), raw
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"{CONFIG}: {error}") from error


def _verify_forecasting(config: object) -> None:
    if not isinstance(config, dict):
        raise CheckpointError("chronos_config is not an object")
    sizes = ("input_patch_size", "input_patch_stride", "output_patch_size")
    for key in ("context_length", *sizes):
        _verify_whole(key, config.get(key))
    _verify_whole("max_output_patches", config.get("max_output_patches", 1))
    patch, stride, output = (config[key] for key in sizes)
    if not patch == stride == output:
        raise CheckpointError(f"patch sizes differ: input {patch}, stride {stride}, out {output}")
    if config["context_length"] % patch:
        raise CheckpointError("chronos_config.context_length must be a multiple of the patch size")
    if not config.get("use_reg_token"):
        raise CheckpointError("use_reg_token must be true")
    _verify_levels(config.get("quantiles"))


def _verify_whole(key: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise CheckpointError(f"chronos_config.{key} must be a whole number from 1 on")


def _verify_levels(levels: object) -> None:
    numbers = levels if isinstance(levels, list) else []
    if len(numbers) < 3 or not all(type(level) is float for level in numbers):
        raise CheckpointError("chronos_config.quantiles must be a list of at least three levels")
    ascending = all(low < high for low, high in pairwise(numbers))
    if not ascending or numbers[0] <= 0 or numbers[-1] >= 1 or 0.5 not in numbers:
        raise CheckpointError("chronos_config.quantiles must ascend within (0, 1) and hold 0.5")


def weight_files(directory: Path) -> list[Path]:
    """The files of a checkpoint that hold its weights."""
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    if (directory / WEIGHTS_INDEX).exists():
        return [directory / name for name in _shards(directory / WEIGHTS_INDEX)]
    raise CheckpointError(f"checkpoint has no {WEIGHTS}; only safetensors are loaded")


def _shards(index: Path) -> list[str]:
    """Names of the weight files that an index lists, stripped of any directory."""
    try:
        listed = json.loads(index.read_text())["weight_map"].values()
        return sorted({Path(name).name for name in listed})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index.name} is not an index of weights") from error


def _build(config: Chronos2CoreConfig) -> Chronos2Model:
    try:
        return Chronos2Model(config)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{CONFIG} does not describe a network: {error}") from error


def read_tensors(files: list[Path]) -> dict[str, torch.Tensor]:
    """All tensors of safetensors files, by name."""
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file.name} cannot be read: {error}") from error
    return tensors


def fill(model: Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors into a model, in float32; CheckpointError for any that lacks or does not fit."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if missing := sorted(wanted.keys() - found.keys()):
        raise CheckpointError(f"weights lack {len(missing)} tensors, the first is {missing[0]}")
    if unknown := sorted(found.keys() - wanted.keys()):
        raise CheckpointError(f"weights hold {len(unknown)} unknown tensors, as {unknown[0]}")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise CheckpointError(f"{name} has shape {found[name]}, the config says {shape}")
    _verify_finite(tensors)
    model.load_state_dict({name: value.float() for name, value in tensors.items()})


def _verify_finite(tensors: dict[str, torch.Tensor]) -> None:
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{name} holds NaN or infinity")


def digest_of(files: list[Path]) -> str:
    """Hex SHA-256 of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
