"""The roads of all kinds of jobs.

Invariant: `VERSION` rises whenever a road changes so that a job begun on the old one cannot go on
here; such a job begins anew.
"""

from app.bulk import PREDICT
from app.desk import Road
from app.errors import JobError
from app.evaluation import EVALUATE
from app.retrain import FINETUNE
from app.variants import DISTILL, QUANTIZE, SEARCH

VERSION = "2"
ROADS: dict[str, Road] = {
    "finetune": FINETUNE,
    "evaluate": EVALUATE,
    "search": SEARCH,
    "distill": DISTILL,
    "quantize": QUANTIZE,
    "predict": PREDICT,
}


def road_of(kind: str) -> Road:
    """How a kind of job is done. Raises JobError for one that is not done here."""
    road = ROADS.get(kind)
    if road is None:
        raise JobError(f"jobs of the kind {kind} are not done by this release")
    return road
