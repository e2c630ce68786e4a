"""Every setting, read once from the environment (prefix SHOPCAST_) and passed on.

Invariant: nothing else in the service reads the environment.
"""

import ipaddress
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.rates import Rate

MIB = 1024 * 1024
CONTAINER_MEMORY = Path("/sys/fs/cgroup/memory.max")


class Settings(BaseSettings):
    """The service's settings; docs/configuration.md is generated from the descriptions."""

    model_config = SettingsConfigDict(env_prefix="SHOPCAST_", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    workers: PositiveInt = Field(
        1,
        description="Processes that serve the port, each with an engine and a cache; threads, "
        "loaded_bytes and cache_bytes are divided among them.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Serve other addresses than loopback although no API key exists; "
        "once one does, callers need it all the same.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Host names the service answers for, comma separated; `*` for any. "
        "Loopback names and the listening address always count.",
    )
    admin_key_file: Path | None = Field(
        default=None,
        description="File with a key that may do everything, of 32 characters and more, such as "
        "`openssl rand -hex 32` makes; for the first start of a container.",
    )
    rate: str | None = Field(
        default=None,
        description="Requests by time, such as 50/s or 3000/m, of a caller whose key has no rate "
        "of its own; the default is no limit. Callers without a key count as one.",
    )
    key: str | None = Field(
        default=None,
        repr=False,
        description="Key that the command line shows to the server it asks.",
    )
    metrics_open: bool = Field(
        default=False, description="Answer /metrics without a key, also where keys exist."
    )
    data_dir: Path = Field(Path("var"), description="Where the service keeps its files.")
    database_url: str | None = Field(
        default=None,
        description="SQLAlchemy URL; the default is SQLite under the data directory.",
    )

    series_checkpoint: Path | None = Field(
        default=None,
        description="Directory of a Chronos-2 checkpoint or of a LoRA adapter; "
        "the default is the shipped one.",
    )
    series_base: Path | None = Field(
        default=None,
        description="Directory of the base checkpoint if series_checkpoint is an adapter; "
        "the default is the directory `base` inside it.",
    )
    purchase_checkpoint: Path | None = Field(
        default=None,
        description="Directory of a checkpoint of the events network, or of a LoRA adapter; "
        "the default is the shipped one.",
    )
    purchase_base: Path | None = Field(
        default=None,
        description="Directory of the base checkpoint if purchase_checkpoint is an adapter; "
        "the default is the directory `base` inside it.",
    )
    pinned: bool = Field(
        default=False,
        description="Answer by the checkpoints of these settings, whatever was promoted.",
    )
    loaded_versions: PositiveInt = Field(
        4,
        description="Versions of a model in memory at a time; those asked for beside production "
        "leave it when they were not used for longest.",
    )
    loaded_bytes: PositiveInt | None = Field(
        default=None,
        description="Memory of all loaded versions, about; a new one is loaded beside the old. "
        "The default is half of what this machine or container has.",
    )
    keep_versions: PositiveInt = Field(
        20,
        description="Trained versions kept of a model; beyond it the oldest go that nothing names.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where networks run; auto takes a GPU if there is one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="Arithmetic of networks; auto is bfloat16 on a GPU, else float32. "
        "int8 needs runtime onnx; auto is int8 on a CPU for a version that a quantize job made.",
    )
    runtime: Literal["auto", "torch", "onnx"] = Field(
        "auto",
        description="What computes networks: PyTorch, or ONNX Runtime, on a CPU alone "
        "and in float32 or int8; auto is onnx wherever it can, else torch.",
    )
    threads: PositiveInt | None = Field(
        default=None, description="CPU threads of a network; the default is one for each core."
    )
    seasonal_adjustment: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Forecast seasonally adjusted series and put the season back; "
        "auto does what the checkpoint was trained for.",
    )
    covariate_effects: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Take out what known covariates explained in the past, and put back what "
        "they say of the future; auto does what the checkpoint was trained for.",
    )

    concurrent_batches: PositiveInt | None = Field(
        default=None,
        description="Batches computed at the same time; the default is one on a GPU, and one for "
        "each of `threads` on a CPU.",
    )
    batch_rows: PositiveInt = Field(
        32,
        description="Most rows (series and covariates) a batch; so many stay in a CPU's caches, "
        "a GPU is better used by 256 and more.",
    )
    batch_points: PositiveInt = Field(
        64 * 1024, description="Most rows times padded length a batch."
    )
    queue_points: PositiveInt = Field(
        16 * MIB, description="Most rows times length that wait before new work is refused."
    )
    timeout_ms: PositiveInt = Field(
        30_000, description="Deadline of a request; a caller may ask for a shorter one."
    )
    grace_s: PositiveFloat = Field(
        20.0, description="Time for work in flight to finish when the service stops."
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Time between the signal to stop and the end of listening, in which requests "
        "are still answered and /readyz is 503, for a load balancer to notice.",
    )

    cache_bytes: int = Field(
        256 * MIB, ge=0, description="Size of the in-process cache of forecasts; 0 turns it off."
    )
    cache_ttl_s: PositiveFloat = Field(3600.0, description="How long a forecast stays cached.")
    redis_url: str | None = Field(
        default=None,
        repr=False,
        description="Redis, or what speaks its protocol, for a cache that processes share: "
        "redis://, rediss:// (TLS) or unix://, with USER:PASSWORD@ as its ACL wants; the default "
        "is the in-process cache alone.",
    )
    redis_wait_ms: PositiveFloat = Field(
        20.0, description="Longest wait for an answer of Redis; then the forecast is computed."
    )
    redis_namespace: str = Field(
        "shopcast",
        pattern="^[A-Za-z0-9._-]{1,64}$",
        description="Begins every key in Redis; services that share a Redis differ in it.",
    )

    max_body_bytes: PositiveInt = Field(64 * MIB, description="Largest body after decompression.")
    max_inputs: PositiveInt = Field(1024, description="Most inputs a request.")
    max_history: PositiveInt = Field(
        8192, description="Points kept of a history; ten times as many are accepted."
    )
    max_prediction_length: PositiveInt = Field(1024, description="Longest horizon, in periods.")
    max_covariates: PositiveInt = Field(20, description="Most covariates of an input.")
    max_targets: PositiveInt = Field(64, description="Most targets of a two-dimensional input.")
    max_group_rows: PositiveInt = Field(
        1024,
        description="Most targets and covariates that inform one another under cross_learning.",
    )

    max_events: PositiveInt = Field(
        4096, description="Events kept of a customer; ten times as many are accepted."
    )
    max_customers: PositiveInt = Field(
        50_000, description="Most customers that a shop's profile is made from."
    )

    worker: Literal["embedded", "external"] = Field(
        "embedded",
        description="Who runs jobs: a process that `shopcast serve` starts beside the API, or "
        "`shopcast worker`, started by somebody else.",
    )
    concurrent_jobs: PositiveInt = Field(1, description="Jobs that a worker runs at a time.")
    max_queued_jobs: PositiveInt = Field(
        1000, description="Most jobs that wait; more are refused until some have ended."
    )
    job_threads: PositiveInt | None = Field(
        default=None,
        description="CPU threads of a job; the default is half of the cores, and at least one.",
    )
    job_nice: int = Field(
        15,
        ge=0,
        le=19,
        description="How far jobs step back behind everything else on the machine, as by `nice`.",
    )
    keep_jobs_days: PositiveInt = Field(
        180, description="Days after which a job that has ended is forgotten with its files."
    )
    max_upload_bytes: PositiveInt = Field(
        4096 * MIB, description="Largest file of a data set, as sent and unpacked."
    )
    datasets_root: Path | None = Field(
        default=None,
        description="Directory whose files POST /datasets may name by `uri`; by default none may.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_requests: Literal["none", "slow", "all"] = Field(
        "slow",
        description="Requests that get a line in the log: none, those that failed or took longer "
        "than slow_ms, or all.",
    )
    slow_ms: PositiveInt = Field(
        1000, description="Milliseconds from which on a request counts as slow in the log."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector (OTLP over HTTP, as http://127.0.0.1:4318) "
        "that gets traces of requests; needs the extra `tracing`.",
    )
    trace_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests that are traced, if their caller does not say.",
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("rate")
    @classmethod
    def _check_rate(cls, value: str | None) -> str | None:
        return value if value is None else str(Rate.parse(value))

    @property
    def open_without_keys(self) -> bool:
        """Whether anybody may do everything as long as there is no key."""
        return self.allow_anonymous or _is_loopback(self.host)

    @property
    def database(self) -> str:
        """The URL of the database, default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir / 'shopcast.sqlite3'}"

    @property
    def most_loaded_bytes(self) -> int:
        """loaded_bytes, default filled in."""
        return self.loaded_bytes or self.memory_bytes // 2

    @property
    def memory_bytes(self) -> int:
        """The memory of this machine, or of the container this is."""
        return _memory_bytes()

    @property
    def cores(self) -> int:
        """CPU threads a network may use."""
        return self.threads or len(os.sched_getaffinity(0))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _memory_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such file, or "max"
        return min(machine, int(CONTAINER_MEMORY.read_text()))
    return machine
