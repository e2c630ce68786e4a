"""The series network behind LitServe: its batching, one worker, one API process."""

from typing import Any

import litserve
from network import Network, arguments


class Api(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, checkpoint: str, threads: int, **batching: float) -> None:
        super().__init__(api_path="/predict", **batching)
        self._checkpoint, self._threads = checkpoint, threads

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._network = Network(self._checkpoint, self._threads)

    def decode_request(self, request: dict[str, Any]) -> list[float | None]:
        return request["inputs"][0]["target"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> list[dict[str, Any]]:
        return self._network.predict(inputs)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return {"predictions": [output]}


def main() -> None:
    given = arguments()
    api = Api(
        given.checkpoint,
        given.threads,
        max_batch_size=given.batch,
        batch_timeout=given.wait_ms / 1e3,
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
