"""The series network behind Ray Serve: its batching, one replica on all cores."""

import asyncio
import os
import signal
from typing import Any

os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import orjson
import ray
from network import Network, arguments
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

given = arguments()


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class Series:
    def __init__(self, checkpoint: str, threads: int) -> None:
        self._network = Network(checkpoint, threads)

    async def __call__(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        answer = await self.predict(body["inputs"][0]["target"])
        return Response(orjson.dumps({"predictions": [answer]}), media_type="application/json")

    @serve.batch(max_batch_size=given.batch, batch_wait_timeout_s=given.wait_ms / 1e3)
    async def predict(self, histories: list[Any]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._network.predict, histories)


def main() -> None:
    ray.init(
        num_cpus=os.cpu_count(),
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        object_store_memory=256 * 1024 * 1024,
        logging_level="error",
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": given.port},
        logging_config={"enable_access_log": False},
    )
    serve.run(Series.bind(given.checkpoint, given.threads), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
