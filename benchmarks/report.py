"""Figures: what was measured, beside what, whether the target is met, on which machine.

Invariant: a ratio compares what took turns in one run; the median of the rounds' ratios counts.
The ratio of the best rounds stands beside it, since other work on a machine only ever slows.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "chronos-forecasting",
    "fastapi",
    "numpy",
    "orjson",
    "shopcast",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
    "uvloop",
)

Sense = Literal["at least", "at most", "above"]
Rounds = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A ratio of two things measured in turns. target: None where there is none."""

    name: str
    ours: float
    other: float
    other_name: str
    unit: str
    ratio: float
    spread: tuple[float, float]  # least and largest ratio of a round
    undisturbed: float  # the ratio of the best rounds: what other work on the machine hides least
    target: float | None = None
    sense: Sense = "at least"

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        if self.sense == "at most":
            return self.ratio <= self.target
        return self.ratio > self.target if self.sense == "above" else self.ratio >= self.target


def in_turns(rounds: int, measures: Mapping[str, Callable[[], float]]) -> Rounds:
    """Measure each thing once a round, after a round that does not count."""
    values: Rounds = {name: [] for name in measures}
    for number in range(rounds + 1):
        names = list(measures)
        # who goes first changes, so that nobody always follows the same neighbour
        for name in names[number % len(names) :] + names[: number % len(names)]:
            value = measures[name]()
            if number:
                values[name].append(value)
    return values


def figure(
    name: str,
    rounds: Rounds,
    versus: tuple[str, str],
    *,
    unit: str,
    target: float | None = None,
    sense: Sense = "at least",
) -> Figure:
    """The ratio of two of the things that were measured in turns, ours first."""
    ours, other = versus
    best = min if unit == "ms" else max
    ratios = [a / b for a, b in zip(rounds[ours], rounds[other], strict=True)]
    return Figure(
        name=name,
        ours=statistics.median(rounds[ours]),
        other=statistics.median(rounds[other]),
        other_name=other,
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        undisturbed=best(rounds[ours]) / best(rounds[other]),
        unit=unit,
        target=target,
        sense=sense,
    )


def table(figures: Sequence[Figure]) -> str:
    """A Markdown table."""
    lines = [
        "| measured | Shopcast | beside | ratio (rounds) | of the best rounds | target | |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for one in figures:
        wanted = "" if one.target is None else f"{one.sense} {one.target:g}"
        verdict = {None: "", True: "met", False: "**missed**"}[one.met]
        low, high = one.spread
        lines.append(
            f"| {one.name} | {_short(one.ours)} {one.unit} "
            f"| {_short(one.other)} {one.unit} ({one.other_name}) "
            f"| {one.ratio:.2f} ({low:.2f} to {high:.2f}) "
            f"| {one.undisturbed:.2f} | {wanted} | {verdict} |"
        )
    return "\n".join(lines)


def save(name: str, figures: Sequence[Figure], **details: object) -> Path:
    """Write the figures, the machine and everything else that was stated, as JSON."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{now:%Y-%m-%d}.json"
    content = {
        "date": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "versions": versions(),
        **details,
        "figures": [{**asdict(one), "met": one.met} for one in figures],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "load_average": os.getloadavg(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    root = Path(__file__).parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
