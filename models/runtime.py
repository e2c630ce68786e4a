"""A Chronos-2 network in ONNX Runtime, on a CPU.

Invariant: an OnnxForward is called as the Forward it is made from, and answers as it does up to
rounding, in float32 within 1e-5 and in int8 within what 8 bits can tell.
"""

from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures
from torch import Tensor

from models.base import CheckpointError, ModelError, OutOfMemoryError
from models.forward import Forward, Groups
from models.graph import graph_of

FAILURES = (
    failures.EPFail,
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NotImplemented,
    failures.RuntimeException,
)
OUT_OF_MEMORY = "Failed to allocate memory"
SILENT = 4  # what goes wrong is raised, and need not be printed as well


class OnnxForward:
    """Callable network: normalised patches in, normalised quantiles out.

    Sessions have a fixed number of threads, so there is one of a single thread, for batches that
    run side by side, and one of all; each holds the weights in the order its products want.
    """

    def __init__(self, forward: Forward, *, int8: bool, threads: int) -> None:
        """Raises CheckpointError if the network cannot be written as a graph."""
        graph = graph_of(forward, int8=int8)
        self._threads = threads
        self._single = session_of(graph, threads=1)
        self._wide = session_of(graph, threads=threads) if threads > 1 else self._single

    def __call__(
        self,
        context: Tensor,
        future: Tensor,
        *,
        groups: Groups | None,
        n_patches: int,  # noqa: ARG002 - Forward's word; the graph counts what future holds
    ) -> Tensor:
        """As Forward's, on all threads if torch may use all in this thread, else on one."""
        session = self._wide if torch.get_num_threads() >= self._threads else self._single
        inputs = {"context": context.numpy(), "future": future.numpy()}
        inputs |= _inputs(groups, len(context))
        return torch.from_numpy(answer_of(session, inputs))


def answer_of(
    session: onnxruntime.InferenceSession, inputs: dict[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """The one output. Raises OutOfMemoryError, ModelError."""
    try:
        (answer,) = session.run(None, inputs)
    except FAILURES as error:
        if OUT_OF_MEMORY in str(error):
            raise OutOfMemoryError(str(error)) from error
        raise ModelError(f"ONNX Runtime: {error}") from error
    return np.asarray(answer)


def session_of(graph: bytes, *, threads: int) -> onnxruntime.InferenceSession:
    """A graph, ready to run. Raises CheckpointError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = SILENT
    # one pattern would be kept for every shape of batch there ever was
    options.enable_mem_pattern = False
    # threads that wait awake take the core that the event loop needs (decision 2)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except FAILURES as error:
        raise CheckpointError(f"ONNX Runtime refuses it: {error}") from error


def _inputs(groups: Groups | None, rows: int) -> dict[str, NDArray[Any]]:
    """What the graph wants to know of groups."""
    if groups is None:
        nobody = np.zeros((0, 0), dtype=np.int64)
        return {"slots": nobody, "present": nobody.astype(np.bool_), "source": nobody[0:0].ravel()}
    slots, present = groups.slots.numpy(), groups.present.numpy()
    source = np.arange(rows)
    source[slots[present]] = rows + np.flatnonzero(present)
    return {"slots": slots, "present": present, "source": source}
