"""Model versions as they are kept: a row in the database, and a directory on disk.

Invariant: a version's number means the same content for ever; a directory with a number is whole,
whenever and however a process ended; and an alias names a version that is there.

Needs no network and no running service: what trains and what serves use the same class.
"""

import dataclasses
import errno
import fcntl
import getpass
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Engine, delete, func, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from app.auth import audit_row
from app.db import ModelAliasRow, ModelVersionRow, open_database
from app.errors import ConflictError, NotFoundError, ShopcastError, UnavailableError
from app.settings import Settings

PRODUCTION = "production"
CANDIDATE = "candidate"
BY_SETTINGS = "settings"  # who put into production what the service was started with
SETTLED = ("settings", "shipped")  # sources of what nobody trained
MANIFEST = "manifest.json"
ADAPTER = "adapter_config.json"  # a checkpoint with it changes the weights of a base
BASE = "base"  # the directory of an adapter's base inside it
ASIDE = ".new-"  # what a directory is called until it is whole
KEPT_FILES = frozenset({".json", ".safetensors", ".md"})
LONGEST_SHOWN = 64  # characters of a name that messages repeat
ATTEMPTS = 20  # other processes may take the next number at the same time

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a version comes from.

    source: a word such as shipped, settings, finetune, quantize. checkpoint: what it is called,
    apart from its number. parent: the version it was made
    from. base: the version whose weights it changes, if it is an adapter without a base of its
    own. trained_until: nothing it was fitted to is later. evaluation, settings: JSON, as what
    made it says. files: SHA-256 by path inside the directory, filled in when it is registered.
    """

    source: str
    checkpoint: str = ""
    parent: int | None = None
    base: int | None = None
    dataset_id: str | None = None
    dataset_digest: str | None = None
    job_id: str | None = None
    trained_until: str | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = field(default_factory=lambda: installed_version("shopcast"))
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is kept."""

    name: str
    version: int
    digest: str
    size_bytes: int
    created_at: datetime
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Alias:
    """What a name stands for. previous: what a rollback would bring back."""

    name: str
    alias: str
    version: int
    previous: int | None
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a version's files are. base: the directory an adapter's base is in, if apart."""

    directory: Path
    base: Path | None


class Versions:
    """The versions of all models. Blocking; any number of processes may use them at a time.

    Every method raises UnavailableError if the database does not answer, and NotFoundError for a
    model or version that is not there.
    """

    def __init__(self, database: Engine, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._home = settings.data_dir / "models"

    # --- what there is

    def names(self) -> list[str]:
        """The models that have versions."""
        kept = select(ModelVersionRow.name).where(_there()).distinct()
        return self._told(lambda session: sorted(session.scalars(kept)))

    def all(self, name: str) -> list[Version]:
        """The versions of a model that are kept, oldest first."""
        rows = select(ModelVersionRow).where(_there(), ModelVersionRow.name == name)
        ordered = rows.order_by(ModelVersionRow.version)
        return self._told(lambda session: [_version(row) for row in session.scalars(ordered)])

    def get(self, name: str, version: int) -> Version:
        return self._told(lambda session: _version(_row(session, name, version)))

    def aliases(self, name: str | None = None) -> list[Alias]:
        """What the aliases of a model, or of all, name now."""
        rows = select(ModelAliasRow).order_by(ModelAliasRow.name, ModelAliasRow.alias)
        if name is not None:
            rows = rows.where(ModelAliasRow.name == name)
        return self._told(lambda session: [_alias(row) for row in session.scalars(rows)])

    def known(self, name: str, digest: str) -> int | None:
        """The version that has this content, by `digest_of`."""
        mine = (_there(), ModelVersionRow.name == name, ModelVersionRow.digest == digest)
        return self._told(
            lambda session: session.scalar(select(ModelVersionRow.version).where(*mine))
        )

    def state(self) -> tuple[list[Alias], dict[str, set[int]]]:
        """What the aliases name, and the numbers of the versions there are, by model."""
        return self._told(_state)

    def alias(self, name: str, alias: str = PRODUCTION) -> Alias | None:
        return next((each for each in self.aliases(name) if each.alias == alias), None)

    def trained_on(self, dataset_id: str) -> list[Version]:
        """The versions that were fitted to a dataset."""
        rows = select(ModelVersionRow).where(_there(), ModelVersionRow.dataset_id == dataset_id)
        return self._told(lambda session: [_version(row) for row in session.scalars(rows)])

    def checkpoint_of(self, name: str, version: int) -> Checkpoint:
        """The directories of a version, their content as it was registered.

        Raises ConflictError if it is damaged.
        """
        kept = self.get(name, version)
        self._verify(kept)
        base = kept.manifest.base
        return Checkpoint(
            self._directory(name, version),
            None if base is None else self.checkpoint_of(name, base).directory,
        )

    # --- what comes and goes

    def register(
        self, name: str, directory: Path, manifest: Manifest, *, base: Path | None = None
    ) -> int:
        """Keep a copy of a checkpoint under the next number, and return that.

        The same content gets the number that it has, so that to register twice does no harm; if
        what was kept of it is damaged, it is whole afterwards. base: a directory with the base of
        an adapter, to be kept with it. Raises UnavailableError if the disk is full.
        """
        home = self._home / name
        try:
            sweep(home)
            with _aside(home) as aside:
                files = _copy(directory, base, aside)
                complete = dataclasses.replace(manifest, files=files)
                _write(aside / MANIFEST, {"name": name, **_plain(complete)})
                number = self._enter(name, aside, complete)
        except OSError as error:
            raise UnavailableError(
                f"the version of {name} cannot be stored: {error.strerror}", reason="disk"
            ) from error
        with suppress(ShopcastError):  # the next one tries again
            self.retire(name)
        return number

    def promote(
        self,
        name: str,
        version: int,
        *,
        actor: str,
        expected: int | None = None,
    ) -> Alias:
        """Let a version be production from now on.

        expected: the version that has to be production now. Of two at the same time one wins;
        ConflictError tells the other who did, as it tells of a version that is damaged.
        """
        by = actor, "model.promote"
        return self._point(name, PRODUCTION, version, expected=expected, by=by)

    def nominate(self, name: str, version: int, *, actor: str) -> Alias:
        """Let `candidate` stand for a version."""
        by = actor, "model.nominate"
        return self._point(name, CANDIDATE, version, expected=None, by=by)

    def rollback(self, name: str, *, actor: str, expected: int | None = None) -> Alias:
        """Bring the production before this one back; a second time undoes the first.

        Raises ConflictError if there was none, or as `promote` does.
        """
        now = self.alias(name)
        if now is None and not self.all(name):
            raise _no_model(name)
        if now is None or now.previous is None:
            raise ConflictError(f"{name} has no earlier production to go back to; promote one")
        expected, by = now.version if expected is None else expected, (actor, "model.rollback")
        return self._point(name, PRODUCTION, now.previous, expected=expected, by=by)

    def delete(self, name: str, version: int, *, actor: str) -> None:
        """Drop a version's content; its number never comes again.

        Raises ConflictError if an alias names it, or an adapter needs it.
        """
        self._told(lambda session: _drop(session, name, version, actor))
        self._discard(self._directory(name, version))
        log.info("version %d of %s was deleted by %s", version, name, actor)

    def retire(self, name: str) -> list[int]:
        """Delete the oldest trained versions beyond as many as are kept, and say which.

        What an alias names, or would name after a rollback, what an adapter needs and what the
        settings brought stays.
        """
        aliases = self.aliases(name)
        trained = [each for each in self.all(name) if each.manifest.source not in SETTLED]
        used = {each.version for each in aliases} | {each.previous for each in aliases}
        spare = trained[: max(0, len(trained) - self._settings.keep_versions)]
        retired = []
        for each in spare:
            if each.version not in used:
                with suppress(ConflictError):  # an adapter needs it, or it was just promoted
                    self.delete(name, each.version, actor="retention")
                    retired.append(each.version)
        return retired

    # --- how

    def _point(
        self, name: str, alias: str, version: int, *, expected: int | None, by: tuple[str, str]
    ) -> Alias:
        """Move an alias. by: who does it, and what the audit calls it."""
        seen = self.alias(name, alias)
        if expected is not None and (seen is None or seen.version != expected):
            raise _taken(name, alias, seen)
        if seen is not None and seen.version == version:
            return seen
        self.checkpoint_of(name, version)
        moved = None
        with suppress(IntegrityError):  # it stands for something since just now
            moved = self._told(lambda session: _move(session, (name, alias), version, seen, by))
        if moved is None:
            raise _taken(name, alias, self.alias(name, alias))
        log.info("%s of %s is version %d now, by %s", alias, name, version, by[0])
        return moved

    def _enter(self, name: str, aside: Path, manifest: Manifest) -> int:
        """Number what stands aside, and put it in its place."""
        for _ in range(ATTEMPTS):
            with suppress(IntegrityError):  # another process was quicker; look again
                return self._told(lambda session: self._add(session, name, aside, manifest))
        raise UnavailableError("the database gave no version number; try again", reason="database")

    def _add(self, session: Session, name: str, aside: Path, manifest: Manifest) -> int:
        digest = _digest(manifest)
        mine = select(ModelVersionRow).where(ModelVersionRow.name == name)
        known = session.scalar(mine.where(ModelVersionRow.digest == digest))
        if known is not None:
            with suppress(ConflictError):
                self._verify(_version(known))
                return known.version
            self._place(aside, self._directory(name, known.version))
            return known.version
        if manifest.base is not None:
            _hold(session, name, manifest.base)
        last = select(func.max(ModelVersionRow.version)).where(ModelVersionRow.name == name)
        number = (session.scalar(last) or 0) + 1
        row = ModelVersionRow(
            name=name,
            version=number,
            digest=digest,
            source=manifest.source,
            parent=manifest.parent,
            base=manifest.base,
            dataset_id=manifest.dataset_id,
            job_id=manifest.job_id,
            size_bytes=sum(file.stat().st_size for file in _files(aside).values()),
            manifest=_plain(manifest),
        )
        session.add(row)
        session.flush()  # from here on the number is ours, if the directory comes to be
        self._place(aside, self._directory(name, number))
        return number

    def _place(self, aside: Path, target: Path) -> None:
        """Put a whole directory where it belongs; what is there belongs to no version."""
        if target.exists():
            log.warning("a directory of no version, or a damaged one, is replaced: %s", target.name)
            self._discard(target)
        aside.rename(target)
        _sync(target.parent)

    def _discard(self, directory: Path) -> None:
        """Let a directory be gone at once, and its files soon after."""
        leaving = directory.parent / f"{ASIDE}{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            directory.rename(leaving)
            shutil.rmtree(leaving, ignore_errors=True)

    def _verify(self, kept: Version) -> None:
        """Raise ConflictError unless the files are what was registered."""
        directory = self._directory(kept.name, kept.version)
        where = f"version {kept.version} of {kept.name}"
        for path, sha256 in kept.manifest.files.items():
            try:
                found = _hash(directory / path)
            except OSError as error:
                message = f"{where} is damaged: {path} cannot be read ({error.strerror})"
                raise ConflictError(message) from error
            if found != sha256:
                raise ConflictError(f"{where} is damaged: {path} is not what was registered")

    def _directory(self, name: str, version: int) -> Path:
        return self._home / name / str(version)

    def _told(self, work: Callable[[Session], T]) -> T:
        """Do something in one transaction."""
        try:
            with Session(self._database, expire_on_commit=False) as session, session.begin():
                return work(session)
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise UnavailableError(
                f"the database does not answer for model versions ({type(error).__name__})",
                reason="database",
                retry_after_s=2.0,
            ) from error


@contextmanager
def open_versions(settings: Settings, *, database: str | None = None) -> Iterator[Versions]:
    """The versions in a database, by default in that of the settings."""
    engine = open_database(database or settings.database)
    try:
        yield Versions(engine, settings)
    finally:
        engine.dispose()


def sweep(home: Path) -> int:
    """Remove what processes that were killed had begun to write; how many it was.

    Whoever writes holds a lock, so that nothing goes that somebody still writes.
    """
    left = list(home.glob(f"{ASIDE}*"))
    if left:
        with suppress(BlockingIOError), _locked(home, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for directory in left:
                shutil.rmtree(directory, ignore_errors=True)
            log.warning("%d half-written versions were removed", len(left))
            return len(left)
    return 0


def operator() -> str:
    """Who works at this machine's command line, as aliases and the audit name them."""
    try:
        return f"cli:{getpass.getuser()}"[:128]
    except (KeyError, OSError):  # a container's user may have no name
        return f"cli:{os.getuid()}"


# --- rows


def _state(session: Session) -> tuple[list[Alias], dict[str, set[int]]]:
    aliases = [_alias(row) for row in session.scalars(select(ModelAliasRow))]
    numbers: dict[str, set[int]] = {}
    kept = select(ModelVersionRow.name, ModelVersionRow.version).where(_there())
    for name, number in session.execute(kept):
        numbers.setdefault(name, set()).add(number)
    return aliases, numbers


def _there() -> Any:  # noqa: ANN401 - a condition of SQLAlchemy's
    return ModelVersionRow.deleted_at.is_(None)


def _row(session: Session, name: str, version: int) -> ModelVersionRow:
    """The row of a version that is kept."""
    mine = (ModelVersionRow.name == name, ModelVersionRow.version == version)
    row = session.scalar(select(ModelVersionRow).where(*mine))
    if row is None or row.deleted_at is not None:
        known = select(ModelVersionRow.version).where(_there(), ModelVersionRow.name == name)
        numbers = sorted(session.scalars(known))
        if not numbers:
            raise _no_model(name)
        shown = ", ".join(map(str, numbers[-10:]))
        how = "was deleted" if row is not None else "does not exist"
        raise NotFoundError(f"version {version} of {name} {how}; there are {shown}")
    return row


def _no_model(name: str) -> NotFoundError:
    return NotFoundError(f"no version of {name[:LONGEST_SHOWN]!r} is kept")


def _hold(session: Session, name: str, version: int) -> None:
    """Keep a version from being deleted, or promoted, until the transaction ends."""
    mine = (ModelVersionRow.name == name, ModelVersionRow.version == version)
    same = {"source": ModelVersionRow.source}  # a write, which each database lets one do at a time
    _changed(session.execute(update(ModelVersionRow).where(*mine).values(same)))
    _row(session, name, version)


def _move(
    session: Session,
    key: tuple[str, str],
    version: int,
    seen: Alias | None,
    by: tuple[str, str],
) -> Alias | None:
    """Move an alias from where it was seen; None if it is not there any more."""
    (name, alias), (actor, action) = key, by
    _hold(session, name, version)
    values = {
        "version": version,
        "previous": None if seen is None else seen.version,
        "changed_at": datetime.now(UTC),
        "changed_by": actor[:128],
    }
    facts = {"alias": alias, "previous": values["previous"]}
    session.add(audit_row(actor, action, f"{name}/{version}", facts))
    if seen is None:
        if session.get(ModelAliasRow, key) is not None:
            return None
        session.add(ModelAliasRow(name=name, alias=alias, **values))
        session.flush()
    else:
        mine = (ModelAliasRow.name == name, ModelAliasRow.alias == alias)
        still = (ModelAliasRow.version == seen.version, ModelAliasRow.changed_at == seen.changed_at)
        if not _changed(session.execute(update(ModelAliasRow).where(*mine, *still).values(values))):
            return None
    if alias == PRODUCTION:  # a candidate that was taken is none any more
        taken = (ModelAliasRow.name == name, ModelAliasRow.alias == CANDIDATE)
        session.execute(delete(ModelAliasRow).where(*taken, ModelAliasRow.version == version))
    return Alias(name=name, alias=alias, **values)  # type: ignore[arg-type]  # by their names


def _drop(session: Session, name: str, version: int, actor: str) -> None:
    _hold(session, name, version)
    row = _row(session, name, version)
    rows = session.scalars(select(ModelAliasRow).where(ModelAliasRow.name == name)).all()
    if named := [each.alias for each in rows if each.version == version]:
        raise ConflictError(
            f"version {version} of {name} is {' and '.join(named)}; promote another one first"
        )
    needs = (ModelVersionRow.name == name, ModelVersionRow.base == version)
    adapters = session.scalars(select(ModelVersionRow.version).where(_there(), *needs)).all()
    if adapters:
        shown = ", ".join(map(str, adapters))
        raise ConflictError(
            f"version {version} of {name} is the base of {shown}; delete that first"
        )
    for each in rows:
        if each.previous == version:
            each.previous = None
    row.deleted_at, row.digest = datetime.now(UTC), None
    session.add(audit_row(actor, "model.delete", f"{name}/{version}", {}))


def _changed(result: Any) -> int:  # noqa: ANN401 - what a session types as less than it is
    assert isinstance(result, CursorResult)  # noqa: S101 - of an UPDATE
    return result.rowcount


def _taken(name: str, alias: str, now: Alias | None) -> ConflictError:
    if now is None:
        return ConflictError(f"{name} has no {alias}")
    when = now.changed_at.isoformat(timespec="seconds")
    return ConflictError(
        f"{alias} of {name} is version {now.version} now: {now.changed_by} put it there at {when}"
    )


def _version(row: ModelVersionRow) -> Version:
    known = {each.name for each in dataclasses.fields(Manifest)}  # a later release may know more
    return Version(
        name=row.name,
        version=row.version,
        digest=row.digest or "",
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        manifest=Manifest(**{key: each for key, each in row.manifest.items() if key in known}),
    )


def _alias(row: ModelAliasRow) -> Alias:
    return Alias(row.name, row.alias, row.version, row.previous, row.changed_at, row.changed_by)


# --- files


@contextmanager
def _aside(home: Path) -> Iterator[Path]:
    """A new directory, gone afterwards unless it was renamed; no sweep comes meanwhile."""
    home.mkdir(parents=True, exist_ok=True)
    directory = home / f"{ASIDE}{uuid.uuid4().hex}"
    with _locked(home, fcntl.LOCK_SH):
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(home: Path, how: int) -> Iterator[None]:
    """A lock that ends with the process, however that ends."""
    handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def digest_of(directory: Path, base: Path | None = None) -> str:
    """The digest that a checkpoint would be registered with."""
    files = {path: _hash(file) for path, file in _files(directory, base).items()}
    return _digest(Manifest(source="", files=files))


def _files(directory: Path, base: Path | None = None) -> dict[str, Path]:
    """What belongs to a checkpoint, by its path inside the version."""
    found = {each.name: each for each in directory.iterdir() if _belongs(each)}
    base = base or directory / BASE
    if ADAPTER in found and base.is_dir():
        found |= {f"{BASE}/{each.name}": each for each in base.iterdir() if _belongs(each)}
    return dict(sorted(found.items()))


def _belongs(file: Path) -> bool:
    return file.suffix in KEPT_FILES and file.name != MANIFEST and file.is_file()


def _copy(directory: Path, base: Path | None, aside: Path) -> dict[str, str]:
    """Copy a checkpoint; the hashes of the copies, which have reached the disk."""
    if not directory.is_dir():
        raise OSError(errno.ENOENT, f"there is no directory {directory.name!r}")
    hashes = {}
    for path, file in _files(directory, base).items():
        copy = aside / path
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
        _sync(copy)
        hashes[path] = _hash(copy)
    return hashes


def _plain(manifest: Manifest) -> dict[str, Any]:
    """As JSON that every reader takes: a score that is not a number is null."""
    said = json.dumps(dataclasses.asdict(manifest), default=str)
    plain: dict[str, Any] = json.loads(said, parse_constant=lambda _: None)
    return plain


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    _sync(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(manifest: Manifest) -> str:
    """A name for the content: what moves answers, prose about it aside."""
    moving = {path: each for path, each in manifest.files.items() if not path.endswith(".md")}
    said = json.dumps([manifest.base, moving], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
