"""Jobs that are asked for again and again, by the clock.

Invariant: a time that falls due makes one job, however many workers look; times that passed while
nobody looked make one job together, and none while the schedule's last job has not ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from app.db import JobRow, ScheduleRow
from app.errors import InvalidInputError, Issue, NotFoundError
from app.jobs import UNFINISHED, Asked, Book

FIELDS = 5  # minute, hour, day, month, weekday


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression in a time zone, and the job it asks for."""

    name: str
    cron: str
    timezone: str
    asked: Mapping[str, Any]
    enabled: bool
    actor: str
    next_at: datetime
    last_at: datetime | None
    last_job_id: str | None
    updated_at: datetime


class Schedules:
    """The schedules in the database. Every method blocks and may raise SQLAlchemyError."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._book = engine, Book(engine)

    def put(
        self, name: str, asked: Asked, *, cron: str, timezone: str, enabled: bool, actor: str
    ) -> tuple[Schedule, bool]:
        """Store a schedule, and whether it is a new one. Raises InvalidInputError."""
        now = datetime.now(UTC)
        values = {
            "cron": cron,
            "timezone": timezone,
            "asked": asked.json(),
            "enabled": enabled,
            "actor": actor,
            "next_at": next_after(now, cron, timezone),
            "updated_at": now,
        }
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            row = session.get(ScheduleRow, name)
            new = row is None
            if row is None:
                row = ScheduleRow(name=name, **values)
                session.add(row)
            for column, value in values.items():
                setattr(row, column, value)
            session.flush()
            return _schedule(row), new

    def get(self, name: str) -> Schedule:
        """Raises NotFoundError."""
        with Session(self._engine) as session:
            row = session.get(ScheduleRow, name)
            if row is None:
                raise _unknown(name)
            return _schedule(row)

    def page(self, *, limit: int, cursor: str | None) -> tuple[list[Schedule], str | None]:
        """By name, and where the list goes on."""
        query = select(ScheduleRow).order_by(ScheduleRow.name)
        if cursor is not None:
            query = query.where(ScheduleRow.name > cursor)
        with Session(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
            found = [_schedule(row) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    def delete(self, name: str) -> None:
        """Raises NotFoundError."""
        with Session(self._engine) as session, session.begin():
            row = session.get(ScheduleRow, name)
            if row is None:
                raise _unknown(name)
            session.delete(row)

    def ask_for_due(self, now: datetime | None = None) -> list[str]:
        """Queue the jobs whose time has come, and name them."""
        now = now or datetime.now(UTC)
        due = (ScheduleRow.enabled.is_(True), ScheduleRow.next_at <= now)
        with Session(self._engine) as session:
            schedules = [_schedule(row) for row in session.scalars(select(ScheduleRow).where(*due))]
        made = (self._ask(each, now) for each in schedules)
        return [job_id for job_id in made if job_id is not None]

    def _ask(self, schedule: Schedule, now: datetime) -> str | None:
        """Ask for the job of a schedule, and move that on to its next time.

        The key makes it one job, whoever else does the same, also if this process ends in between.
        """
        key = f"schedule:{schedule.name}:{schedule.next_at.isoformat()}"
        job_id = None
        if not self._runs(schedule.last_job_id):
            asked, name = asked_of(schedule.asked), schedule.name
            job, _ = self._book.add(asked, actor=schedule.actor, idempotency_key=key, schedule=name)
            job_id = job.id
        mine = (ScheduleRow.name == schedule.name, ScheduleRow.next_at == schedule.next_at)
        values: dict[str, Any] = {"next_at": next_after(now, schedule.cron, schedule.timezone)}
        if job_id is not None:
            values |= {"last_at": now, "last_job_id": job_id}
        with Session(self._engine) as session, session.begin():
            session.execute(update(ScheduleRow).where(*mine).values(**values))
        return job_id

    def _runs(self, job_id: str | None) -> bool:
        if job_id is None:
            return False
        with Session(self._engine) as session:
            return session.scalar(select(JobRow.state).where(JobRow.id == job_id)) in UNFINISHED


def next_after(now: datetime, cron: str, timezone: str) -> datetime:
    """The next time of a cron expression. Raises InvalidInputError."""
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:  # unknown, or a path
        msg = f"timezone: there is no zone {timezone[:64]!r}; one is Europe/Berlin"
        raise InvalidInputError((Issue(("timezone",), msg, "timezone"),)) from error
    if len(cron.split()) != FIELDS:
        raise _no_time(cron)
    try:
        found: datetime = croniter(cron, now.astimezone(zone)).get_next(datetime)
    except (CroniterError, ValueError, TypeError) as error:
        raise _no_time(cron) from error
    return found.astimezone(UTC)


def _no_time(cron: str) -> InvalidInputError:
    msg = (
        f"cron: {cron[:64]!r} is no time; it has minute, hour, day of the month, month and day of "
        "the week, as in `30 2 * * 1` for Mondays at 2:30"
    )
    return InvalidInputError((Issue(("cron",), msg, "cron"),))


def asked_of(words: Mapping[str, Any]) -> Asked:
    """What was asked, from its JSON."""
    rest = dict(words)
    kind, model, dataset_id = rest.pop("kind"), rest.pop("model"), rest.pop("dataset_id")
    return Asked(kind, model, dataset_id, rest)


def _schedule(row: ScheduleRow) -> Schedule:
    names = ("name", "cron", "timezone", "asked", "enabled", "actor", "next_at", "last_at")
    more = ("last_job_id", "updated_at")
    return Schedule(**{name: getattr(row, name) for name in (*names, *more)})


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"there is no schedule {name[:64]!r}; GET /schedules lists them")
