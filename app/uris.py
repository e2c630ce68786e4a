"""Files that a caller names by `uri`, under the one directory that is allowed.

Invariant: nothing outside of that directory is opened, by whatever name: no link is followed, and
a path is walked from the directory itself, so that nobody can exchange a part of it meanwhile.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.errors import InvalidInputError, Issue

LONGEST = 1024
_PART = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(uri: str, root: Path | None) -> Iterator[Path]:
    """A path by which the file can be read, also by a child, as long as the context lasts.

    Raises InvalidInputError.
    """
    descriptor = _open(_parts(uri, root), root)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _refuse("is no file")
        yield Path(f"/dev/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _parts(uri: str, root: Path | None) -> list[str]:
    """The path from the root. Raises InvalidInputError."""
    if root is None:
        raise _refuse("no directory is allowed; upload the file, or set SHOPCAST_DATASETS_ROOT")
    split = urlsplit(uri) if len(uri) <= LONGEST else None
    if split is None or "\0" in uri:
        raise _refuse("is no path")
    if split.scheme not in {"", "file"} or split.netloc not in {"", "localhost"}:
        raise _refuse("names a network address; only files under the allowed directory are read")
    path = Path(unquote(split.path) if split.scheme else uri)
    if path.is_absolute():
        try:
            path = path.relative_to(root.absolute())
        except ValueError:
            raise _refuse("is not under the allowed directory") from None
    if ".." in path.parts:
        raise _refuse("goes up by `..`; name the file from the allowed directory on")
    if not path.parts:
        raise _refuse("is no file")
    return list(path.parts)


def _open(parts: list[str], root: Path | None) -> int:
    assert root is not None  # noqa: S101 - else there are no parts
    try:
        place = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise _refuse("the allowed directory cannot be read") from None
    try:
        for part in parts[:-1]:
            inner = os.open(part, _PART | os.O_DIRECTORY, dir_fd=place)
            os.close(place)
            place = inner
        return os.open(parts[-1], _PART | os.O_NONBLOCK, dir_fd=place)
    except OSError:
        raise _refuse(
            "there is no such file that can be read under the allowed directory; links are not "
            "followed"
        ) from None
    finally:
        os.close(place)


def _refuse(why: str) -> InvalidInputError:
    return InvalidInputError((Issue(("uri",), f"uri: {why}", "uri"),))
