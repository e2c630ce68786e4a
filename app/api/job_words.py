"""The words of jobs and schedules: what may be asked for, and what is shown.

Invariant: a job that is taken in can be understood by the worker; what only its data can tell is
for the job itself to find out.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.errors import InvalidInputError, Issue
from app.jobs import KINDS, Asked, Job, Kind, State
from app.schedules import Schedule
from models.base import ModelError
from models.recipe import settings_of
from models.tuning import EventsTrainSettings, TrainSettings

MOST_LEVELS = 99
LONGEST_DAYS = 730
#: Words that a model has no use for, and what to say in their place.
NOT_OF: dict[str, dict[str, str]] = {
    "sales": {"horizons_days": "is of purchase; say `prediction_length`"},
    "purchase": {
        "prediction_length": "is of sales; say `horizons_days`",
        "origins": "is of sales; the last days are held out, as many as `horizons_days` says",
    },
}

Model = Annotated[
    Literal["sales", "purchase"], Field(description="The model, by its name in answers.")
]
DatasetId = Annotated[str, Field(pattern=r"^ds_[0-9a-f]{16}$", examples=["ds_0123456789abcdef"])]
Version = Annotated[
    int | str,
    Field(description="A version's number, or an alias.", examples=["production", 7]),
]
Horizon = Annotated[
    int | None,
    Field(
        ge=1,
        le=1024,
        description="Of sales: periods forecast; by default what suits the frequency.",
    ),
]
Origins = Annotated[
    int,
    Field(
        ge=1, le=24, description="Of sales: windows of each series, the last ones, to be judged by."
    ),
]
HorizonsDays = Annotated[
    list[Annotated[int, Field(ge=1, le=LONGEST_DAYS)]] | None,
    Field(
        min_length=1,
        max_length=16,
        description=(
            "Of purchase: days within which purchases are foretold; the latest of the dataset, as "
            "many as the longest, are held out to be judged by. By default a quarter of its days, "
            "at most 90, and a third of that."
        ),
        examples=[[30, 90]],
    ),
]
Segment = Annotated[
    str | None,
    Field(
        max_length=128,
        description=(
            "Column of the dataset by whose values scores are shown; of purchase a customer is in "
            "the segment of the latest value before what is held out."
        ),
    ),
]
Promote = Literal["if_better", "manual", "never"]


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FinetuneRequest(_Words):
    """Train a version further on a dataset, and let it serve if it proves better.

    Further fields are settings of the training: `method` (`lora`, `adalora`, `ia3`, `full`,
    `head`, and of sales `adapter`), `steps`, `learning_rate`, `rank`, `seed` and the others of
    docs/models.md.
    """

    model_config = ConfigDict(extra="allow")

    kind: Literal["finetune"]
    model: Model = "sales"
    dataset_id: DatasetId
    prediction_length: Horizon = None
    origins: Origins = 2
    horizons_days: HorizonsDays = None
    parent: Version = "production"
    time_budget_s: float | None = Field(None, gt=0, le=7 * 86_400)
    promote: Promote = Field(
        "if_better",
        description="What follows if it is better: it serves, it waits for a person, or neither.",
    )
    margin: float = Field(0.0, ge=0, lt=1, description="Share by which it has to be better.")
    segment: Segment = None


class SearchRequest(FinetuneRequest):
    """Fine-tune by several settings, and keep the best."""

    kind: Literal["search"]  # type: ignore[assignment]
    trials: int = Field(12, ge=1, le=500)


class DistillRequest(FinetuneRequest):
    """Let a version learn from a larger one."""

    kind: Literal["distill"]  # type: ignore[assignment]
    teacher: Version


class QuantizeRequest(_Words):
    """Round a version's weights to 8 bits, and judge it on a dataset."""

    kind: Literal["quantize"]
    model: Model = "sales"
    dataset_id: DatasetId
    prediction_length: Horizon = None
    origins: Origins = 2
    horizons_days: HorizonsDays = None
    parent: Version = "production"
    promote: Promote = "manual"
    margin: float = Field(0.0, ge=-1, lt=1, description="Below zero, the loss that is accepted.")
    segment: Segment = None


class EvaluateRequest(_Words):
    """Score versions on a dataset, beside seasonal naive, or BG/NBD and Pareto/NBD."""

    kind: Literal["evaluate"]
    model: Model = "sales"
    dataset_id: DatasetId
    prediction_length: Horizon = None
    origins: Origins = 2
    horizons_days: HorizonsDays = None
    versions: list[Version] = Field(default=["production"], min_length=1, max_length=8)
    segment: Segment = None


class PredictRequest(_Words):
    """Forecast a whole dataset into a file, behind the requests of others."""

    kind: Literal["predict"]
    model: Model = "sales"
    dataset_id: DatasetId
    version: Version = "production"
    prediction_length: Horizon = None
    quantile_levels: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.1, 0.5, 0.9], min_length=1, max_length=MOST_LEVELS
    )
    as_of: str | None = Field(None, max_length=40, description="Of customers: from when on.")
    horizons_days: list[Annotated[int, Field(ge=1, le=LONGEST_DAYS)]] = Field(
        default=[7, 30, 90], min_length=1, max_length=16, description="Of customers."
    )
    churn_window_days: int = Field(180, ge=1, le=LONGEST_DAYS, description="Of customers.")


REQUESTS = (
    *(FinetuneRequest, SearchRequest, DistillRequest),
    *(QuantizeRequest, EvaluateRequest, PredictRequest),
)
JobRequest = Annotated[
    FinetuneRequest
    | SearchRequest
    | DistillRequest
    | QuantizeRequest
    | EvaluateRequest
    | PredictRequest,
    Field(discriminator="kind"),
]
_ANY: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


class ScheduleRequest(_Words):
    """When a job is to be done again and again."""

    cron: str = Field(
        max_length=128,
        description="Minute, hour, day of the month, month, day of the week.",
        examples=["30 2 * * 1"],
    )
    timezone: str = Field("UTC", max_length=64, examples=["Europe/Berlin"])
    enabled: bool = True
    job: dict[str, Any] = Field(description="As POST /jobs takes it.")


class LossResponse(BaseModel):
    """A point of the loss curve."""

    step: int
    training: float | None
    validation: float | None


class JobResponse(BaseModel):
    """A job as it stands."""

    id: str = Field(examples=["job_0123456789abcdef"])
    kind: Kind
    model: str
    dataset_id: str | None
    state: State
    step: str | None = Field(description="What is being done: read, split, fit, score, …")
    progress: float = Field(description="0 to 1, of all steps.")
    eta_s: float | None = Field(description="Seconds left, if it goes on as it did.")
    cancelling: bool = Field(description="Somebody wishes its end.")
    loss: list[LossResponse]
    metrics: dict[str, Any] = Field(description="Scores of each method, once there are some.")
    verdict: dict[str, Any] | None = Field(
        description="Whether it is better, and by which numbers."
    )
    version: int | None = Field(description="The version it made.")
    result: str | None = Field(description="Where the file lies that it made.")
    steps: dict[str, dict[str, Any]] = Field(description="What each step found.")
    error: str | None
    request: dict[str, Any]
    created_by: str
    schedule: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobsResponse(BaseModel):
    """Jobs, the latest first."""

    jobs: list[JobResponse]
    next_cursor: str | None = Field(description="Where the list goes on; null at its end.")


class ScheduleResponse(BaseModel):
    """A schedule. A time that passes while no worker runs is made up for once, not more often."""

    name: str
    cron: str
    timezone: str
    enabled: bool
    job: dict[str, Any]
    next_at: datetime
    last_at: datetime | None
    last_job_id: str | None
    created_by: str
    updated_at: datetime


class SchedulesResponse(BaseModel):
    """Schedules by name."""

    schedules: list[ScheduleResponse]
    next_cursor: str | None = Field(description="Where the list goes on; null at its end.")


def read_job(raw: object) -> Asked:
    """The job that a JSON value asks for. Raises InvalidInputError."""
    if isinstance(raw, dict) and raw.get("kind") not in KINDS:
        msg = f"kind: must be one of {', '.join(KINDS)}"
        raise InvalidInputError((Issue(("kind",), msg, "kind"),))
    try:
        words = _ANY.validate_python(raw)
    except ValidationError as error:
        raise InvalidInputError(issues_of(error, without=1)) from error
    _check_possible(words)
    if isinstance(words, FinetuneRequest):
        _check_training(words)
    left_out = {"kind", "model", "dataset_id"}
    if not isinstance(words, PredictRequest):  # has words of both models
        left_out |= set(NOT_OF[words.model])
    return Asked(words.kind, words.model, words.dataset_id, words.model_dump(exclude=left_out))


def _check_possible(words: JobRequest) -> None:
    """Refuse words that a model has no use for."""
    if isinstance(words, PredictRequest):
        return
    said = [name for name in words.model_fields_set if getattr(words, name) is not None]
    issues = [
        Issue((name,), f"{name}: {why}", "model")
        for name, why in NOT_OF[words.model].items()
        if name in said
    ]
    if issues:
        raise InvalidInputError(tuple(issues))


def _check_training(words: FinetuneRequest) -> None:
    """Refuse settings of the training that are none, or cannot be."""
    kind = EventsTrainSettings if words.model == "purchase" else TrainSettings
    try:
        settings_of(kind, words.model_extra or {})
    except ModelError as error:
        raise InvalidInputError((Issue((), str(error), "setting"),)) from error


def issues_of(error: ValidationError, *, without: int = 0) -> tuple[Issue, ...]:
    """What is wrong, by place. without: so many parts at the beginning of each."""
    return tuple(
        _issue(tuple(each["loc"])[without:], each["msg"], each["type"])
        for each in error.errors(include_url=False, include_input=False)
    )


def shown_job(job: Job) -> dict[str, Any]:
    """A job as an answer shows it."""
    made = job.facts.get("write", {}).get("file")
    return {
        "id": job.id,
        "kind": job.kind,
        "model": job.model,
        "dataset_id": job.dataset_id,
        "state": job.state,
        "step": job.step,
        "progress": round(job.progress, 4),
        "eta_s": None if job.eta_s is None else round(job.eta_s, 1),
        "cancelling": job.cancelling,
        "loss": [
            {"step": each.step, "training": each.training, "validation": each.validation}
            for each in job.curve
        ],
        "metrics": job.facts.get("score", {}),
        "verdict": job.facts.get("gate"),
        "version": job.facts.get("register", {}).get("version"),
        "result": f"/jobs/{job.id}/result" if made and job.state == "succeeded" else None,
        "steps": job.facts,
        "error": job.error,
        "request": job.asked,
        "created_by": job.actor,
        "schedule": job.schedule,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def shown_schedule(schedule: Schedule) -> dict[str, Any]:
    """A schedule as an answer shows it."""
    names = ("name", "cron", "timezone", "enabled", "next_at", "last_at", "last_job_id")
    return {name: getattr(schedule, name) for name in (*names, "updated_at")} | {
        "job": schedule.asked,
        "created_by": schedule.actor,
    }


def _issue(loc: Sequence[str | int], msg: str, type_: str) -> Issue:
    words = ".".join(map(str, loc))
    if type_ == "extra_forbidden":
        msg, type_ = "there is no such field", "unknown_field"
    return Issue(tuple(loc), f"{words}: {msg}" if words else msg, type_)
