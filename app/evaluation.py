"""Scores of versions on a dataset, beside seasonal naive: the road of an `evaluate` job.

Invariant: nothing is changed but the job's own file of scores.
"""

from dataclasses import asdict
from typing import Any

import orjson

from app.desk import Desk, Facts, Road, Steps
from app.plain import plain
from app.retrain import Counted, Stores, Subject, load_series, refusable
from models.backtest import NAIVE, Backtest, Method, network, run, seasonal_naive, summaries

FILE = "scores.json"
MODEL = "sales"

EVALUATE = Road(
    {"read": 5, "split": 2, "score": 90, "write": 3}, lambda desk: Evaluation(desk).steps()
)


class Evaluation:
    """The steps of one evaluation of versions of the series network."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.stores = Stores(desk)
        self.subject = Subject(desk, self.stores)

    def steps(self) -> Steps:
        return {
            "read": self.subject.read,
            "split": self.split,
            "score": self.score,
            "write": self.write,
        }

    def split(self) -> Facts:
        """The windows, and the versions by their numbers."""
        wanted = self.desk.job.details["versions"]
        numbers = dict.fromkeys(self.stores.version_of(MODEL, each) for each in wanted)
        return self.subject.split() | {"versions": list(numbers)}

    def score(self) -> Facts:
        """Every version and seasonal naive on the same windows."""
        facts = self.desk.facts["split"]
        methods = [Method(NAIVE, seasonal_naive)]
        for number in facts["versions"]:
            loaded = load_series(self.desk, self.stores.versions.checkpoint_of(MODEL, number))
            methods.append(Method(str(number), network(loaded)))
        counted = Counted(self.desk, len(methods) * facts["windows"])
        found = refusable(
            lambda: run(self.subject.records, methods, self.subject.plan, on_done=counted.done)
        )
        self.desk.state.mkdir(parents=True, exist_ok=True)
        (self.desk.state / FILE).write_bytes(orjson.dumps(self._all(found)))
        scores: Facts = plain({each.method: asdict(each) for each in summaries(found)})
        for name, each in scores.items():
            self.desk.note(f"{name}: MASE {each['mase']:.4g}, WQL {each['wql']:.4g}")
        return scores

    def write(self) -> Facts:
        """Leave the scores of every series as a file."""
        (self.desk.state / FILE).rename(self.desk.directory / FILE)
        return {"file": FILE}

    def _all(self, found: Backtest) -> Any:  # noqa: ANN401 - JSON
        segments = self.subject.segments or {}
        rows = [
            {
                "method": score.method,
                "item": score.item,
                "segment": segments.get(score.item),
                "origin": score.origin.isoformat(),
                "mase": score.mase,
                "wape": score.wape,
                "bias": score.bias,
                "wql": score.wql,
            }
            for score in found.scores
        ]
        return plain(
            {
                "dataset_id": self.subject.dataset.id,
                "freq": self.subject.plan.freq,
                "summary": [asdict(each) for each in summaries(found)],
                "scores": rows,
                "left_out": list(found.left_out),
            }
        )
