"""The series network behind MLServer: its adaptive batching, in its own process.

Its V2 protocol wants rectangular tensors, which series of mixed lengths are not: they come by a
custom route with the body that all peers take, and go through its batching one by one.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import orjson
from fastapi import Request, Response
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from network import Network, arguments

given = arguments()


class Series(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._network = Network(given.checkpoint, given.threads)
        self._thread = ThreadPoolExecutor(1)  # so that the event loop goes on meanwhile
        return True

    @custom_handler(rest_path="/predict")  # type: ignore[untyped-decorator]
    async def forecast(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        # an element of the batch is a history, whatever its length
        history = RequestInput(
            name="target", shape=[1], datatype="BYTES", data=[body["inputs"][0]["target"]]
        )
        with model_context(self.settings):
            answer = await self.predict(InferenceRequest(inputs=[history]))  # batched by MLServer
        found = answer.outputs[0].data.root[0]
        return Response(orjson.dumps({"predictions": [found]}), media_type="application/json")

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        histories = payload.inputs[0].data.root
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, self._network.predict, histories)
        output = ResponseOutput(name="forecast", shape=[len(found)], datatype="BYTES", data=found)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=given.port,
            grpc_port=0,
            metrics_endpoint=None,
            debug=False,
            parallel_workers=0,  # with workers, a custom route would go past the batching
            gzip_enabled=False,
            logging_settings={"version": 1, "root": {"level": "ERROR"}},
        )
    )
    model = ModelSettings(
        name="series",
        implementation=Series,
        max_batch_size=given.batch,
        max_batch_time=given.wait_ms / 1e3,
    )
    await server.start([model])


if __name__ == "__main__":
    os.environ.setdefault("MLSERVER_LOG_LEVEL", "ERROR")
    asyncio.run(main())
