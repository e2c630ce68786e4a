"""Forms with a file, as multipart/form-data, written to disk as they arrive.

Invariant: no more of a form is in memory than its small fields and a piece of its file.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive

from app.api.exchange import ClientGoneError
from app.errors import DeadlineError, MalformedError, TooLargeError, UnsupportedMediaError

FORM = b"multipart/form-data"
PIECE_BYTES = 1024 * 1024
FIELD_BYTES = 64 * 1024
MOST_FIELDS = 16
AROUND_BYTES = 1024 * 1024  # what a form may have beside its file


@dataclass(frozen=True, slots=True)
class Form:
    """What was sent. fields: of text, by name. file: where it lies now, named as by the caller."""

    fields: dict[str, str]
    file: Path | None
    filename: str


def is_form(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a body is to be read as a form."""
    return headers.get(b"content-type", b"").strip().lower().startswith(FORM)


async def read_form(
    headers: Mapping[bytes, bytes], receive: Receive, to: Path, *, limit: int, idle_s: float
) -> Form:
    """Read a form, its file to a path. limit: bytes of the file; idle_s: between two pieces.

    Raises MalformedError, UnsupportedMediaError, TooLargeError, DeadlineError, ClientGoneError,
    OSError.
    """
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise UnsupportedMediaError("a form is not compressed; compress the file in it")
    with to.open("wb") as file:
        reading = _Reading(_boundary(headers), file, limit)
        more = True
        while more:
            try:
                async with asyncio.timeout(idle_s):
                    message = await receive()
            except TimeoutError as error:
                raise DeadlineError("the rest of the form did not arrive in time") from error
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            reading.take(message.get("body", b""))
            more = message.get("more_body", False)
            if reading.held >= PIECE_BYTES or not more:
                await asyncio.to_thread(reading.flush)
    return reading.form(to)


def _boundary(headers: Mapping[bytes, bytes]) -> bytes:
    _, options = parse_options_header(headers[b"content-type"])
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise MalformedError("the Content-Type header of the form has no boundary")
    return bytes(boundary)


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None
    text: bytearray = field(default_factory=bytearray)


class _Reading:
    """A form as far as it has come."""

    def __init__(self, boundary: bytes, file: BinaryIO, limit: int) -> None:
        self._file, self._limit = file, limit
        self._parts: list[_Part] = []
        self._pieces: list[bytes] = []
        self.held = self._size = 0
        self._ended = False
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._note_name,
                "on_header_value": self._note_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._know,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def take(self, piece: bytes) -> None:
        """A piece of the form. Raises MalformedError, TooLargeError."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise MalformedError("the body is no multipart form") from error

    def flush(self) -> None:
        """Write what is held to the file. Raises OSError."""
        self._file.writelines(self._pieces)
        self._pieces, self.held = [], 0

    def form(self, file: Path) -> Form:
        """All of it. Raises MalformedError."""
        if not self._ended:
            raise MalformedError("the form is cut off")
        files = [part for part in self._parts if part.filename is not None]
        texts = [part for part in self._parts if part.filename is None]
        names = [part.name for part in texts]
        if len(files) > 1 or len(set(names)) < len(names) or any(p.name != "file" for p in files):
            raise MalformedError("the form has one `file`, and each other field once")
        try:
            fields = {part.name: part.text.decode() for part in texts}
        except UnicodeDecodeError:
            raise MalformedError("a field of the form is not UTF-8") from None
        name = files[0].filename if files else None
        return Form(fields, file if files else None, name or "")

    def _begin(self) -> None:
        if len(self._parts) == MOST_FIELDS:
            raise MalformedError(f"the form has more than {MOST_FIELDS} fields")
        self._parts.append(_Part())

    def _note_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _note_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])
        if len(self._header[1]) > FIELD_BYTES:
            raise TooLargeError("a header in the form is too large")

    def _end_header(self) -> None:
        name, value = self._header
        self._parts[-1].headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _know(self) -> None:
        part = self._parts[-1]
        _, options = parse_options_header(part.headers.get(b"content-disposition", b""))
        part.name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" in options or part.name == "file":
            part.filename = options.get(b"filename", b"").decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part, size = self._parts[-1], end - start
        if part.filename is None:
            part.text += data[start:end]
            if len(part.text) > FIELD_BYTES:
                raise TooLargeError(f"the field {part.name[:64]!r} is larger than 64 KiB")
            return
        self._size += size
        if self._size > self._limit:
            raise TooLargeError(
                f"the file has more than {self._limit:,} bytes; compress it by gzip or zstd, or "
                "let the operator raise SHOPCAST_MAX_UPLOAD_BYTES"
            )
        self._pieces.append(data[start:end])
        self.held += size

    def _end(self) -> None:
        self._ended = True
