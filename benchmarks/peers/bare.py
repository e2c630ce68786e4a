"""A bare FastAPI route: what any server of this kind costs at least.

Each body that comes to `/echo/<how>` is answered by the bytes last sent to `/set`:
`unread` does not look at the body, `parsed` reads it and parses it by orjson.
"""

import argparse

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()
answer = {"body": b"{}"}


@app.post("/set")
async def remember(request: Request) -> Response:
    answer["body"] = await request.body()
    return Response(b"{}", media_type="application/json")


@app.post("/echo/unread")
async def unread() -> Response:
    return Response(answer["body"], media_type="application/json")


@app.post("/echo/parsed")
async def parsed(request: Request) -> Response:
    orjson.loads(await request.body())
    return Response(answer["body"], media_type="application/json")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--checkpoint")
    given = parser.parse_args()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
