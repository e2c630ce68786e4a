"""A connection: HTTP/1.1 by uvicorn, of which little is believed before a request is whole.

Invariant: what a connection holds in memory is bounded, whatever is sent and however slowly, but
for the body, which whoever reads it bounds.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.problems import Kind, problem, rendered
from app.api.shedding import refusal_unread

if TYPE_CHECKING:
    from app.resources import Resources

HEAD_BYTES = 64 * 1024  # of a request, without its body; one read more at most
HEAD_S = 30.0  # from the beginning of a connection, or of a head, to the head's end
TOO_LARGE = Kind(431, "head-too-large", "The head is too large")


class HttpProtocol(HttpToolsProtocol):
    """As uvicorn's, with bounds; a request that is refused unread does not reach it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the base
        super().__init__(*args, **kwargs)
        self._between = True  # messages: none has begun that did not end
        self._in_head = False
        self._unused = 0  # bytes of a message since its beginning, or since the last of its body
        self._impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._between, self._in_head = False, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._between, self._unused = True, 0

    def data_received(self, data: bytes) -> None:
        resources: Resources | None = getattr(self.config.app.state, "resources", None)  # type: ignore[union-attr]
        answer = None
        if resources is not None:
            resources.metrics.turns.read(self.loop)
            if self._between and not self._answering:
                answer = refusal_unread(resources, data)
        if answer is None:
            self._unused += len(data)
            super().data_received(data)
            if self._unused > HEAD_BYTES:
                self._refuse_head()
        else:
            self.transport.write(answer)
            self.on_response_complete()  # counts it, and begins to wait for the next
        if self._in_head:
            self._hurry()
        else:
            self._calm()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse_head(self) -> None:
        """Say so where no other answer is under way, and close."""
        if not self._answering and not self.transport.is_closing():
            detail = f"a request has more than {HEAD_BYTES:,} bytes beside its body; send fewer"
            request_id = os.urandom(16).hex()
            answer = problem(TOO_LARGE, detail, request_id, headers={"Connection": "close"})
            self.transport.write(rendered(answer, request_id))
        self.transport.close()

    def _hurry(self) -> None:
        """Close the connection soon, unless the head ends before."""
        if self._impatience is None and not self.transport.is_closing():
            self._impatience = self.loop.call_later(HEAD_S, self.transport.close)

    def _calm(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
