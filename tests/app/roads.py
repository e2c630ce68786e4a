"""Roads whose steps a test can look into: they count, slowly, and keep the count."""

import dataclasses
import time
from functools import partial
from pathlib import Path

from app.desk import Desk, Facts, Road, Steps, Told
from app.errors import JobError
from app.roads import road_of

PAUSE_S = 0.02
TOO_MUCH = 16 << 20  # bytes, on the disk of a test


def counting(kind: str) -> Road:
    """Read, count to `most`, and say so. A `quantize` fails, a `distill` writes too much."""
    shares = {"read": 0.1, "fit": 0.8, "register": 0.1}
    return Road(shares, lambda desk: _steps(desk, kind), last=frozenset({"register"}))


def halting(kind: str) -> Road:
    """The real road; a step that has done its work waits while a file `halt-STEP` is there."""
    real = road_of(kind)
    return dataclasses.replace(real, open=lambda desk: _halting(desk, real.open(desk)))


def _halting(desk: Desk, steps: Steps) -> Steps:
    def halted(step: str) -> Facts:
        facts = steps[step]()
        halt = desk.settings.data_dir / f"halt-{step}"
        while halt.exists():
            halt.with_name(f"halted-{step}").touch()
            time.sleep(PAUSE_S)
        return facts

    return {step: partial(halted, step) for step in steps}


def _steps(desk: Desk, kind: str) -> Steps:
    fits = {"quantize": _fail, "distill": _fill}
    return {
        "read": lambda: _read(desk),
        "fit": lambda: fits.get(kind, _count)(desk),
        "register": lambda: _register(desk),
    }


def _read(desk: Desk) -> Facts:
    desk.note("read the data")
    _append(desk.directory / "reads.txt")
    return {"most": desk.job.details["most"]}


def _count(desk: Desk) -> Facts:
    desk.state.mkdir(exist_ok=True)
    kept = desk.state / "count"
    first = count = int(kept.read_text()) if kept.exists() else 0
    most = desk.facts["read"]["most"]
    while count < most:
        time.sleep(PAUSE_S)
        count += 1
        aside = desk.state / "aside"
        aside.write_text(str(count))
        aside.rename(kept)
        desk.tell(Told(count / most, step=count, training=1 / count))
    return {"count": count, "first": first}


def _fail(desk: Desk) -> Facts:
    raise JobError(f"the dataset {desk.job.dataset_id} has too few series")


def _fill(desk: Desk) -> Facts:
    desk.state.mkdir(exist_ok=True)
    (desk.state / "made").write_bytes(b"x" * TOO_MUCH)
    return {}


def _register(desk: Desk) -> Facts:
    _append(desk.directory / "versions.txt")
    return {"version": 2}


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("x")
