"""Where the curve of a run is reported to.

Each tracker is accelerate's, set up by its own environment variables (`WANDB_MODE=offline`,
`MLFLOW_TRACKING_URI`, …).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from models.base import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from accelerate.tracking import GeneralTracker

PROJECT = "shopcast"


class Curve:
    """The losses of a run, to the trackers asked for."""

    def __init__(self, report_to: str, directory: Path) -> None:
        """report_to: names, comma separated, or "auto" for TensorBoard where it is installed.
        directory: for the files of those that write files. Raises ModelError where a package is
        missing.
        """
        if report_to == "auto":
            report_to = "tensorboard" if find_spec("tensorboard") else ""
        names = filter(None, report_to.split(","))
        self._trackers = [_tracker(name, directory) for name in names]

    def add(self, values: Mapping[str, float], *, step: int) -> None:
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


def _tracker(name: str, directory: Path) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    options = {"logging_dir": directory} if kind.requires_logging_directory else {}
    try:
        tracker: GeneralTracker = kind(PROJECT, **options)
        tracker.start()
    except ImportError as error:
        raise ModelError(
            f"report_to {name} needs a package that is missing: `pip install {name}`, or "
            "leave it out (report_to '' writes the log alone)"
        ) from error
    return tracker
