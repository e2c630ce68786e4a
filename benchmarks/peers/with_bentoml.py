"""The series network behind BentoML: its adaptive batching, one worker.

The options come through the environment, since BentoML imports this file by itself.
"""

import os
import sys
from pathlib import Path
from typing import Any

import bentoml
from network import Network, arguments

PREFIX = "PEER_"


@bentoml.service(
    workers=1,
    traffic={"timeout": 60, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
)
class Series:
    def __init__(self) -> None:
        self._network = Network(os.environ["PEER_CHECKPOINT"], int(os.environ["PEER_THREADS"]))

    @bentoml.api(
        route="/predict",
        batchable=True,
        max_batch_size=int(os.environ.get("PEER_BATCH", "32")),
        max_latency_ms=int(float(os.environ.get("PEER_WAIT_MS", "1000"))),
    )
    def predict(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self._network.predict([one["target"] for one in inputs])


def main() -> None:
    given = arguments()
    for name, value in vars(given).items():
        os.environ[PREFIX + name.upper()] = str(value)
    here = Path(__file__)
    command = [sys.executable, "-m", "bentoml", "serve", f"{here.stem}:Series"]
    command += ["--working-dir", str(here.parent), "--host", "127.0.0.1", "--port", str(given.port)]
    os.execv(sys.executable, command)  # noqa: S606 - the interpreter runs itself


if __name__ == "__main__":
    main()
