"""Where a network computes, by what and in which arithmetic.

Invariant: what is asked for is what is done, or SetupError or CheckpointError says what cannot be.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from models.base import CheckpointError, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16", "int8"]
RuntimeName = Literal["auto", "torch", "onnx"]

#: Products a pass needs before a second thread gains more than it costs to wake it at each layer:
#: about 16 rows of 512 points in a series network of 2 M parameters (with sleeping threads).
PARALLEL_PRODUCTS = 1_000_000_000


def asked(
    dtype: DtypeName, options: Mapping[str, Any], device: DeviceName, runtime: RuntimeName
) -> DtypeName:
    """The arithmetic wanted; with auto what a checkpoint says of itself, where that can be.

    options: of the checkpoint. Raises CheckpointError for an arithmetic that there is not.
    """
    said = options.get("dtype")
    if said not in {None, "int8"}:
        raise CheckpointError(f"shopcast.dtype must be int8 or absent, not {said!r}")
    if said is None or dtype != "auto" or runtime == "torch":
        return dtype
    return "int8" if device_of(device).type == "cpu" else dtype


def runtime_of(name: RuntimeName, device: DeviceName, dtype: DtypeName) -> Literal["torch", "onnx"]:
    """What computes: ONNX Runtime on a CPU in float32 and int8, torch in all other cases."""
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    if name == "onnx" and (device == "cuda" or dtype == "bfloat16"):
        raise SetupError(
            "runtime onnx computes on a CPU, in float32 or int8; set SHOPCAST_RUNTIME=torch "
            "for a GPU and for bfloat16"
        )
    if dtype == "int8" and (name == "torch" or device == "cuda"):
        raise SetupError("dtype int8 needs runtime onnx, on a CPU; set SHOPCAST_RUNTIME=onnx")
    if name == "auto":
        return "onnx" if dtype == "int8" or (on_cpu and dtype != "bfloat16") else "torch"
    return name


def device_of(name: DeviceName) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device cuda was asked for, and there is none")
    return torch.device(name)


def dtype_of(name: DtypeName, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}[name]


def without_packages(error: ImportError) -> SetupError:
    """What to say where the packages of ONNX Runtime are missing."""
    return SetupError(
        f"runtime onnx needs a package that is missing ({error.name}): "
        "`pip install onnx onnxruntime`, or set SHOPCAST_RUNTIME=torch"
    )


class Threads:
    """The CPU threads of a network: batches side by side beat threads within, so they are shared.

    count: of all, as torch has them when this is made.
    """

    def __init__(self) -> None:
        self.count, self._running = torch.get_num_threads(), 0
        self._lock = threading.Lock()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a batch as running."""
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def take(self, products: int) -> None:
        """Give this thread's next pass its share: all if it runs alone and is large enough."""
        share = max(1, self.count // max(1, self._running))
        torch.set_num_threads(share if products >= PARALLEL_PRODUCTS else 1)
