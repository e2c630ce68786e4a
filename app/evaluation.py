"""Scores of versions on a dataset, beside what needs no network: the road of an `evaluate` job.

Invariant: nothing is changed but the job's own file of scores.
"""

import orjson

from app.desk import Desk, Facts, Road, Steps
from app.retrain import subject_of
from app.stores import Stores

FILE = "scores.json"

EVALUATE = Road(
    {"read": 5, "split": 2, "score": 90, "write": 3}, lambda desk: Evaluation(desk).steps()
)


class Evaluation:
    """The steps of one evaluation of versions of a network."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.model = desk, desk.job.model
        self.stores = Stores(desk)
        self.subject = subject_of(desk, self.stores)

    def steps(self) -> Steps:
        return {
            "read": self.subject.read,
            "split": self.split,
            "score": self.score,
            "write": self.write,
        }

    def split(self) -> Facts:
        """What is held out, and the versions by their numbers."""
        wanted = self.desk.job.details["versions"]
        numbers = dict.fromkeys(self.stores.version_of(self.model, each) for each in wanted)
        return self.subject.split() | {"versions": list(numbers)}

    def score(self) -> Facts:
        """Every version, and what needs no network, on the same windows."""
        numbers, versions = self.desk.facts["split"]["versions"], self.stores.versions
        scores, whole = self.subject.scored(
            {str(number): versions.checkpoint_of(self.model, number) for number in numbers}
        )
        self.desk.state.mkdir(parents=True, exist_ok=True)
        (self.desk.state / FILE).write_bytes(orjson.dumps(whole))
        return scores

    def write(self) -> Facts:
        """Leave the scores of every series as a file."""
        (self.desk.state / FILE).rename(self.desk.directory / FILE)
        return {"file": FILE}
