"""Other ways to a candidate than one fine-tuning: searched for, distilled, rounded to 8 bits.

Invariant: they differ from a retraining in the step `fit` alone, and pass the same gate.
"""

from dataclasses import asdict

from app.desk import Facts, Told
from app.plain import plain
from app.retrain import Retraining, road_by
from app.stores import (
    note_smaller,
    refusable,
    told_of,
)


def searched(work: Retraining) -> Facts:
    """Fine-tune by several settings, and keep what is best before what the gate judges by."""
    from models.search import SearchProgress, SearchSettings

    def tell(progress: SearchProgress) -> None:
        told = told_of(progress.training)
        share = (progress.trial + told.share) / progress.trials
        work.desk.tell(Told(min(1.0, share), told.step, told.training, told.validation))

    details = work.job.details
    asked = refusable(
        lambda: SearchSettings(trials=details["trials"], budget_s=details.get("time_budget_s"))
    )
    parent = work.checkpoint("parent")
    found = work.subject.search(parent, work.made, asked, tell)
    work.desk.note(f"{found.finished} trials ended, {found.pruned} were cut short: {found.chosen}")
    chosen = {"chosen": plain(found.chosen), "finished": found.finished, "pruned": found.pruned}
    return work.subject.told(found.trained, parent, work.made) | {"search": chosen}


def distilled(work: Retraining) -> Facts:
    """Teach the parent what another version says of the data."""
    teacher, student = work.checkpoint("teacher"), work.checkpoint("parent")
    made = work.subject.distill(teacher, student, work.made)
    facts = work.subject.told(made.trained, student, work.made)
    return facts | {"child": plain(asdict(made.child)), "teacher": plain(asdict(made.parent))}


def quantized(work: Retraining) -> Facts:
    """Round the parent's weights to 8 bits."""
    made = work.subject.quantize(work.checkpoint("parent"), work.made)
    note_smaller(work.desk, made)
    facts: Facts = plain(asdict(made))
    return facts | {"whole": True, "until": None}


SEARCH = road_by(searched, share=0.85)
DISTILL = road_by(distilled, share=0.7)
QUANTIZE = road_by(quantized, share=0.2)
