"""The body of a request: read within bounds, decompressed within bounds, parsed.

Invariant: no more than the limit is ever held of a body, compressed or not, and what is not JSON
in UTF-8 is refused with the place where it ends to be.

Of a name that an object has twice, the last value counts, as in most readers of JSON.
"""

import asyncio
import io
import json
import re
import zlib
from collections.abc import Mapping

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray
from starlette.types import Receive

from app.api.exchange import ClientGoneError
from app.errors import DeadlineError, MalformedError, TooLargeError, UnsupportedMediaError

GZIP = 16 + zlib.MAX_WBITS
WINDOW_BYTES = 8 * 1024 * 1024  # what RFC 8878 asks every decoder of zstd to hold
RETRIED_BYTES = 8 * 1024 * 1024  # beyond that an error is told by its position alone
# A number takes about the memory that it took to send; a list, an object or a name takes some
# fifty times as much, and the parser lets nobody else run. 1,024 inputs of 64 targets and 2 x 20
# covariates have about 110,000 of them.
MOST_PARTS = 500_000
MOST_NAMES = 2 * MOST_PARTS  # texts may have colons as well
_NOT_FINITE = re.compile(r"number is infinity|NaN|Infinity")


class NotFinite:
    """Stands where a body has a number that is none: NaN, Infinity or 1e400."""

    def __init__(self, text: str) -> None:
        self.text = text if len(text) <= 20 else f"{text[:20]}…"


async def read_body(receive: Receive, *, limit: int, timeout_s: float) -> bytes:
    """The whole body as it was sent. limit: in bytes.

    Raises TooLargeError, DeadlineError, ClientGoneError.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _collect(receive, limit)
    except TimeoutError as error:
        raise DeadlineError("the body did not arrive in time") from error


def encoding_of(headers: Mapping[bytes, bytes]) -> str | None:
    """How the body is compressed; None if it is not."""
    raw = headers.get(b"content-encoding")
    if raw is None or raw.strip().lower() == b"identity":
        return None
    return raw.decode("latin-1")


def decompress(body: bytes, encoding: str, *, limit: int) -> bytes:
    """The body that was compressed. limit: in bytes, of what comes out.

    Raises TooLargeError, MalformedError, UnsupportedMediaError.
    """
    known = {"gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}
    reader = known.get(encoding.strip().lower())
    if reader is None:
        raise UnsupportedMediaError(
            f"Content-Encoding {encoding[:40]!r} is unknown here; use gzip, zstd or none"
        )
    try:
        plain = reader(body, limit)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise MalformedError(f"the body is no complete {encoding} stream") from error
    if len(plain) > limit:
        raise _too_large(limit)
    return plain


def is_empty(headers: Mapping[bytes, bytes]) -> bool:
    """Whether no body comes, by the request's own account."""
    return b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"


def parse(body: bytes, *, most_names: int = MOST_NAMES) -> object:
    """The JSON value of a body; a number that is none is a NotFinite. Raises MalformedError."""
    if not body:
        raise MalformedError("the body is empty; send a JSON object")
    _refuse_crowded(body, most_names)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return _parse_leniently(body, error)


def _refuse_crowded(body: bytes, most_names: int) -> None:
    """Refuse what would take many times its size once it is parsed."""
    if len(body) <= MOST_PARTS:
        return
    codes = np.frombuffer(body, np.uint8)  # counts what is frequent many times as fast as bytes do
    lists = np.count_nonzero(codes == ord("[")) + np.count_nonzero(codes == ord("{"))
    if lists > MOST_PARTS or _has_more_names(codes, most_names):
        raise MalformedError(
            f"the body has more than {MOST_PARTS:,} lists, objects or names; send fewer inputs"
        )


def _has_more_names(codes: NDArray[np.uint8], most: int) -> bool:
    """Whether there are more; a colon behind a digit is part of a time, and follows no name."""
    colons = codes[1:] == ord(":")
    if np.count_nonzero(colons) <= most:
        return False
    before = codes[:-1][colons]
    return bool(np.count_nonzero((before < ord("0")) | (before > ord("9"))) > most)


async def _collect(receive: Receive, limit: int) -> bytes:
    """The body as sent; what arrives at once is not copied."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if len(body) > limit:
        raise _too_large(limit)
    return body if not message.get("more_body") else await _collect_rest(receive, body, limit)


async def _collect_rest(receive: Receive, first: bytes, limit: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(parts)


def _gunzip(body: bytes, limit: int) -> bytes:
    """Up to limit + 1 bytes of what was compressed, of one or several members."""
    plain = bytearray()
    while body and len(plain) <= limit:
        reader = zlib.decompressobj(GZIP)
        plain += reader.decompress(body, limit + 1 - len(plain))
        if len(plain) <= limit and not reader.eof:
            raise EOFError
        body = reader.unused_data
    return bytes(plain)


def _unzstd(body: bytes, limit: int) -> bytes:
    """Up to limit + 1 bytes of what was compressed."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    plain = bytearray()
    while body and len(plain) <= limit:
        reader = decompressor.decompressobj()
        with decompressor.stream_reader(io.BytesIO(body)) as bounded:
            plain += bounded.read(limit + 1 - len(plain))
        if len(plain) > limit:
            break
        reader.decompress(body)  # within bounds, as the reader has shown; tells where it ends
        if not reader.eof:
            raise EOFError
        body = reader.unused_data
    return bytes(plain)


def _parse_leniently(body: bytes, error: orjson.JSONDecodeError) -> object:
    """The value with NotFinite in it, so that the error can name its input; else MalformedError."""
    if not _NOT_FINITE.search(f"{error.msg} {_around(body, error.pos)}"):
        raise MalformedError(_explain(error)) from error
    if len(body) > RETRIED_BYTES:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedError(f"NaN or infinity at {where}; send null for what is missing")
    try:
        return json.loads(
            body, parse_constant=NotFinite, parse_float=_parse_float, parse_int=_parse_int
        )
    except (ValueError, RecursionError) as second:
        raise MalformedError(_explain(error)) from second


def _parse_float(text: str) -> float | NotFinite:
    value = float(text)
    return value if abs(value) < float("inf") else NotFinite(text)


def _parse_int(text: str) -> int | NotFinite:
    return int(text) if len(text) < 300 else NotFinite(text)


def _around(body: bytes, position: int) -> str:
    """Some characters about where the parser stopped, which counts characters, not bytes."""
    text = body[: 4 * position + 64].decode("utf-8", "replace")
    return text[max(0, position - 2) : position + 10]


def _explain(error: orjson.JSONDecodeError) -> str:
    message = error.msg
    if "depth limit" in message or "recursion" in message:
        return "the body is nested too deeply; inputs stand in one list"
    if "UTF-8" in message and "BOM" not in message:
        return "the body is not UTF-8"
    return f"the body is not JSON: {message} at line {error.lineno}, column {error.colno}"


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body has more than {limit:,} bytes; send fewer inputs at once")
