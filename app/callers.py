"""Who a key stands for: the keys in memory, read anew every two seconds.

Invariant: a key that was revoked is refused everywhere within 5 seconds; while the database does
not answer, keys that were good until then go on for `LASTING_S`, and no other one is let in.

Once a key was ever made, every caller needs one, also after all were revoked: revoking must not
open a service.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from app.auth import ANYBODY, ID, SCOPES, Caller, Credential, Keys, digest_of, is_key
from app.errors import ConfigurationError, UnauthenticatedError, UnavailableError
from app.metrics import Metrics

POLL_S = 2.0  # two missed ones still show a change within 5 s
SPACING_S = 0.25  # unknown keys make the database read no more often
PATIENCE_S = 2.0  # for the database
LASTING_S = 600.0  # keys go on for so long without the database
USE_NOTED_S = 60.0
SHORTEST, LONGEST = 32, 512  # characters of the key in SHOPCAST_ADMIN_KEY_FILE
FILE = "admin-file"  # the id of its key
NEVER_S = float("-inf")
MISSING = (
    "a key is needed: Authorization: Bearer KEY, or X-API-Key: KEY; "
    "`shopcast keys create` makes one"
)
FAULTS = {
    "malformed": "this is no key of the service; one begins with sc_",
    "unknown": "nobody has this key",
    "revoked": "this key was revoked",
    "expired": "this key has expired",
}

log = logging.getLogger(__name__)

T = TypeVar("T")


class Callers:
    """The keys that are good. Belongs to one event loop."""

    def __init__(
        self,
        keys: Keys,
        metrics: Metrics,
        *,
        open_without_keys: bool,
        key_file: Path | None = None,
        lasting_s: float = LASTING_S,
    ) -> None:
        """open_without_keys: whether anybody may do everything as long as there is no key."""
        self._keys, self._open, self._file = keys, open_without_keys, key_file
        self._lasting_s = lasting_s
        self._known: dict[bytes, Credential] = {}  # by id
        # By key, good ones alone, since the latest read. A dict compares keys only where their
        # hashes agree, which a secret of the process salts: its time tells nothing of a key.
        self._shown: dict[bytes, Credential] = {}
        self._of_file: Credential | None = None
        self._used: set[str] = set()
        self._read_s = self._failed_s = self._noted_s = NEVER_S
        self._turn = asyncio.Lock()
        # of its own: a database that hangs takes no thread that others wait for
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._polling: asyncio.Task[None] | None = None
        metrics.keys_age_seconds.set_function(lambda: time.monotonic() - self._read_s)

    @property
    def demanded(self) -> bool:
        """Whether a caller needs a key."""
        return bool(self._known) or self._file is not None or not self._open

    @property
    def answered(self) -> bool:
        """Whether the database did when it was last asked for the keys, seconds ago."""
        return self._read_s >= self._failed_s

    async def start(self) -> None:
        """Read the keys, and go on doing so. Raises ConfigurationError if they cannot be read."""
        self._of_file = read_key_file(self._file)
        try:
            await self.refresh()
        except UnavailableError as error:
            raise ConfigurationError(
                "the keys cannot be read; is SHOPCAST_DATABASE_URL right, and has "
                "`shopcast migrate` run?"
            ) from error
        self._polling = asyncio.create_task(self._poll())

    async def close(self) -> None:
        """Stop reading; store which keys were used."""
        if self._polling is not None:
            self._polling.cancel()
            with suppress(asyncio.CancelledError):
                await self._polling
        await self._note_use()
        with suppress(TimeoutError):
            await self._in_thread(lambda: None)  # the thread lets go of its connection
        self._thread.shutdown(wait=False, cancel_futures=True)

    def known(self, key: bytes | None) -> Caller | None:
        """Who a key stands for, if that is known from shortly before."""
        if key is None:
            return None if self.demanded else ANYBODY
        credential = self._shown.get(key)
        if credential is None or time.monotonic() - self._read_s > self._lasting_s:
            return None
        if credential.expires_s is not None and credential.expires_s <= time.time():
            return None
        self._used.add(credential.id)
        return credential.caller

    async def verify(self, key: bytes | None) -> Caller:
        """Who a key stands for, looked up if need be.

        Raises UnauthenticatedError, and UnavailableError if the database has to say and does not.
        """
        if not self.demanded:
            return ANYBODY
        if key is None:
            raise UnauthenticatedError(MISSING, reason="missing")
        if self._of_file is not None and _fault(self._of_file, key) is None:
            return self._of_file.caller
        if not is_key(key):
            raise UnauthenticatedError(FAULTS["malformed"], reason="malformed")
        if key[ID] not in self._known or time.monotonic() - self._read_s > self._lasting_s:
            await self.refresh()
        credential = self._known.get(key[ID])
        fault = "unknown" if credential is None else _fault(credential, key)
        if credential is None or fault is not None:
            raise UnauthenticatedError(FAULTS[fault or "unknown"], reason=fault or "unknown")
        self._shown[key] = credential
        self._used.add(credential.id)
        return credential.caller

    async def refresh(self) -> None:
        """Have the keys read as they are now. Raises UnavailableError."""
        asked_s = time.monotonic()
        if asked_s - self._failed_s < SPACING_S:
            raise _silent()
        async with self._turn:
            if self._read_s >= asked_s:  # somebody else waited for the same
                return
            if self._failed_s >= asked_s:
                raise _silent()
            await asyncio.sleep(max(0.0, self._read_s + SPACING_S - time.monotonic()))
            await self._read()

    async def _read(self) -> None:
        began_s = time.monotonic()
        try:
            found = await self._in_thread(self._keys.credentials)
        except (UnavailableError, TimeoutError) as error:
            if self._failed_s <= self._read_s:  # once an outage
                log.warning("the database of keys does not answer: %s", error.__cause__ or "hangs")
            self._failed_s = time.monotonic()
            raise _silent() from error
        self._known = {number.encode(): each for number, each in found.items()}
        self._shown.clear()
        self._read_s = began_s

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            with suppress(UnavailableError):
                await self.refresh()
                if time.monotonic() - self._noted_s > USE_NOTED_S:
                    await self._note_use()
            try:
                self._of_file = await asyncio.to_thread(read_key_file, self._file)
            except ConfigurationError as error:
                self._of_file = None
                log.warning("%s", error)

    async def _note_use(self) -> None:
        used, self._used, self._noted_s = self._used, set(), time.monotonic()
        if used:
            with suppress(UnavailableError, TimeoutError):
                await self._in_thread(partial(self._keys.note_use, used, datetime.now(UTC)))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def read_key_file(path: Path | None) -> Credential | None:
    """The key that a file holds; it may do everything. Raises ConfigurationError."""
    if path is None:
        return None
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not ASCII"
        raise ConfigurationError(f"SHOPCAST_ADMIN_KEY_FILE: {path}: {why}") from error
    if not SHORTEST <= len(key) <= LONGEST or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"SHOPCAST_ADMIN_KEY_FILE: {path} must hold one key of {SHORTEST} to {LONGEST} "
            "characters without spaces; `openssl rand -hex 32` makes one"
        )
    caller = Caller(FILE, FILE, frozenset(SCOPES))
    return Credential(FILE, caller, digest_of(key.encode()), expires_s=None, revoked=False)


def _fault(credential: Credential, key: bytes) -> str | None:
    """What is wrong with a key, if anything."""
    if not hmac.compare_digest(credential.digest, digest_of(key)):
        return "unknown"
    if credential.revoked:
        return "revoked"
    if credential.expires_s is not None and credential.expires_s <= time.time():
        return "expired"
    return None


def _silent() -> UnavailableError:
    message = "keys cannot be checked now, since their database does not answer"
    return UnavailableError(message, reason="database", retry_after_s=POLL_S)
