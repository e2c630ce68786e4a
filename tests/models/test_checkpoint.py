"""Checkpoints that can be served are, and all others are refused with the reason."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from models.base import CheckpointError
from models.bottleneck import bottleneck_weights, give_bottlenecks
from models.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_series, save_random
from models.series import SeriesNetwork

FIRST = "encoder.block.0.layer.0.dropout.down.bias"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def edit_config(directory: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def test_equal_seeds_make_equal_checkpoints(tmp_path: Path) -> None:
    one, two, other = (
        load_series(save_random(tmp_path / name, "tiny", seed=seed))
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("chronos_config"), "no chronos_config"),
        (lambda c: c.update(architectures=["GPT"]), "architectures"),
        (lambda c: c["chronos_config"].update(use_reg_token=False), "use_reg_token"),
        (lambda c: c["chronos_config"].update(output_patch_size=8), "patch sizes differ"),
        (lambda c: c["chronos_config"].update(quantiles=[0.9, 0.5, 0.1]), "quantiles"),
        (lambda c: c["chronos_config"].pop("context_length"), "context_length"),
        (lambda c: c["chronos_config"].update(context_length=1000), "multiple of the patch"),
        (lambda c: c["chronos_config"].update(max_output_patches="4"), "max_output_patches"),
        (lambda c: c["chronos_config"].update(quantiles="abc"), "quantiles"),
        (lambda c: c["chronos_config"].update(quantiles=[0.1, "a", 0.9]), "quantiles"),
        (lambda c: c.update(chronos_config=None), "not an object"),
        (lambda c: c.update(d_model=64), "shape"),
        (lambda c: c.update(num_layers=3), "lack"),
        (lambda c: c.update(num_layers=1), "unknown tensors"),
        (lambda c: c.update(feed_forward_proj="gated-gelu"), "gated"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    copy: Path,
    change: Callable[[dict], None],  # type: ignore[type-arg]
    reason: str,
) -> None:
    edit_config(copy, change)
    with pytest.raises(CheckpointError, match=reason):
        SeriesNetwork.load(copy)


def test_weights_that_are_not_finite_are_refused(copy: Path) -> None:
    edit_weights(copy, lambda w: w["shared.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="NaN"):
        SeriesNetwork.load(copy)


def test_weights_that_answer_nonsense_are_refused_by_the_warm_up(copy: Path) -> None:
    edit_weights(copy, lambda w: w["output_patch_embedding.output_layer.bias"].fill_(1e30))
    with pytest.raises(CheckpointError, match="warm-up"):
        SeriesNetwork.load(copy)


def test_a_truncated_file_is_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        SeriesNetwork.load(copy)


@pytest.mark.parametrize(
    "text", ["{", "{}", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}']
)
def test_a_broken_index_of_weights_is_refused(copy: Path, text: str) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    (copy / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="index"):
        SeriesNetwork.load(copy)


def test_weights_in_several_files_are_read(copy: Path, tiny_checkpoint: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    index: dict[str, str] = {}
    for number, part in enumerate((names[:20], names[20:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, copy / file)
        index |= dict.fromkeys(part, file)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    whole, parts = (
        load_series(directory).model.state_dict() for directory in (tiny_checkpoint, copy)
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_options_of_another_kind_are_none(copy: Path) -> None:
    edit_config(copy, lambda c: c.update(shopcast=[1]))
    assert load_series(copy).options == {}


def test_pickled_weights_are_never_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only safetensors"):
        SeriesNetwork.load(copy)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        SeriesNetwork.load(tmp_path / "nowhere")


# peft asks transformers by a name that is about to go
old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A LoRA adapter whose stored base path leads nowhere."""
    model = load_series(tiny_checkpoint).model
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False)
    with warnings.catch_warnings():  # peft asks transformers under an older name
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, config)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    edit = tmp_path / "adapter" / "adapter_config.json"
    stored = json.loads(edit.read_text()) | {"base_model_name_or_path": "someone/else"}
    edit.write_text(json.dumps(stored))
    return tmp_path / "adapter"


@old_name
def test_an_adapter_is_served_with_the_base_beside_it(adapter: Path, tiny_checkpoint: Path) -> None:
    shutil.copytree(tiny_checkpoint, adapter / "base")
    beside = SeriesNetwork.load(adapter)
    named = SeriesNetwork.load(adapter, base=tiny_checkpoint)
    assert beside.fingerprint == named.fingerprint
    assert beside.fingerprint != SeriesNetwork.load(tiny_checkpoint).fingerprint


def test_an_adapter_without_base_says_where_to_put_it(adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="SHOPCAST_SERIES_BASE"):
        SeriesNetwork.load(adapter)


@pytest.fixture
def bottlenecks(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Bottleneck adapters that say something."""
    model = load_series(tiny_checkpoint).model
    give_bottlenecks(model, 3)
    weights = bottleneck_weights(model)
    directory = tmp_path / "narrow"
    directory.mkdir()
    save_file({k: torch.ones_like(w) for k, w in weights.items()}, directory / ADAPTER_WEIGHTS)
    (directory / ADAPTER_CONFIG).write_text('{"bottleneck": 3}')
    return directory


def test_bottlenecks_are_served_on_their_base(bottlenecks: Path, tiny_checkpoint: Path) -> None:
    served = SeriesNetwork.load(bottlenecks, base=tiny_checkpoint)
    bare = SeriesNetwork.load(tiny_checkpoint)
    assert served.fingerprint != bare.fingerprint
    more = served.describe().parameters - bare.describe().parameters
    assert more == 6 * (2 * 32 * 3 + 3 + 32)
    assert load_series(bottlenecks, base=tiny_checkpoint).options == {"bottleneck": 3}


@pytest.mark.parametrize(
    ("config", "change", "reason"),
    [
        ('{"bottleneck": "3"}', {}, "adapter_config.json: bottleneck must be a whole number"),
        ('{"bottleneck": 4}', {}, "has shape"),
        ('{"bottleneck": 3}', {"shared.weight": torch.ones(2, 32)}, "holds weights of its base"),
        ('{"bottleneck": 3}', {"encoder.other": torch.ones(1)}, "1 unknown tensors"),
        ('{"bottleneck": 3}', {FIRST: None}, "lack 1 tensors"),
        ('{"bottleneck": 3}', {FIRST: torch.full((3,), torch.nan)}, "NaN or infinity"),
        ("{", {}, "adapter_config.json is not JSON"),
    ],
)
def test_bottlenecks_that_do_not_fit_are_refused(
    config: str,
    change: dict[str, torch.Tensor | None],
    reason: str,
    bottlenecks: Path,
    tiny_checkpoint: Path,
) -> None:
    (bottlenecks / ADAPTER_CONFIG).write_text(config)
    weights = load_file(bottlenecks / ADAPTER_WEIGHTS) | change
    kept = {name: weight for name, weight in weights.items() if weight is not None}
    save_file(kept, bottlenecks / ADAPTER_WEIGHTS)
    with pytest.raises(CheckpointError, match=reason):
        SeriesNetwork.load(bottlenecks, base=tiny_checkpoint)


def test_a_pickled_adapter_is_refused(adapter: Path, tiny_checkpoint: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="only safetensors"):
        SeriesNetwork.load(adapter, base=tiny_checkpoint)
