"""Search for the settings of fine-tuning that a shop's validation windows like best.

Invariant: the gate's windows are never looked at; a search that was killed goes on with the trials
that it had, and a trial that was cut off is made again.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from models.base import ModelError
from models.train import fine_tune
from models.tuning import Trained, TrainProgress, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from models.backtest import Plan, Record
    from models.lessons import Earlier

#: Settings of which several are trained anyway, whatever is said of the others.
RANKS = (2, 4, 8, 16)
#: Methods that have a rank.
RANKED = frozenset({"lora", "adalora", "adapter"})


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """trials: at most, among them those that are pruned. budget_s: seconds after which no other is
    begun. contexts: periods of history to choose from, none to leave it; train: what is not sought.
    """

    trials: int = 12
    budget_s: float | None = None
    contexts: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ModelError for what cannot be asked."""
        if self.trials < 1:
            raise ModelError(f"trials must be at least 1, not {self.trials}")
        if self.budget_s is not None and self.budget_s <= 0:
            raise ModelError("budget_s must be above 0, or left out for no limit")


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """The trial that runs, how many there will be, the best loss so far, and the trial's own."""

    trial: int
    trials: int
    best: float | None
    training: TrainProgress


@dataclass(frozen=True, slots=True)
class Searched:
    """The best trial: what it was set to and what came of it; how many ended, or were pruned."""

    chosen: dict[str, Any]
    trained: Trained
    finished: int
    pruned: int


def search(  # noqa: PLR0913 - as fine_tune
    base: Path,
    records: Sequence[Record],
    plan: Plan,
    out: Path,
    *,
    state: Path,
    settings: SearchSettings | None = None,
    train: TrainSettings | None = None,
    base_of: Path | None = None,
    earlier: Sequence[Earlier] = (),
    threads: int | None = None,
    told: Callable[[SearchProgress], None] | None = None,
) -> Searched:
    """Fine-tune with other rates, ranks, steps and contexts; write the best of them to `out`.

    The first trial is `train` as it is, so that the answer is never worse. Pruned by the median of
    the trials before at the same look. told: as of `fine_tune`; may raise to stop. Raises
    ModelError as that does.
    """
    settings, train = settings or SearchSettings(), train or TrainSettings()
    state.mkdir(parents=True, exist_ok=True)
    hunt = _Hunt(state, settings, train, told)

    def tune(chosen: TrainSettings, place: Path, tell: Callable[[TrainProgress], None]) -> Trained:
        return fine_tune(
            base,
            records,
            plan,
            place / "out",
            state=place / "state",
            settings=chosen,
            base_of=base_of,
            earlier=earlier,
            threads=threads,
            told=tell,
        )

    while (trial := hunt.next()) is not None:
        hunt.run(trial, tune)
    best = hunt.study.best_trial
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(hunt.place(best.number) / "out", out)
    states = [trial.state for trial in hunt.study.trials]
    return Searched(
        chosen=dict(best.params),
        trained=Trained(**best.user_attrs["trained"]),
        finished=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
    )


class _Hunt:
    """A study on disk and what moves it on."""

    def __init__(
        self,
        state: Path,
        settings: SearchSettings,
        train: TrainSettings,
        told: Callable[[SearchProgress], None] | None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.state, self.settings, self.train = state, settings, train
        self.told = told or (lambda _: None)
        self.study = optuna.create_study(
            study_name="search",
            storage=f"sqlite:///{state / 'search.db'}",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=settings.seed, n_startup_trials=4),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
        )
        self._again()

    def place(self, number: int) -> Path:
        return self.state / f"trial-{number}"

    def next(self) -> optuna.Trial | None:
        """The next trial, None if there were enough, or time is up."""
        trials = self.study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state.is_finished()]
        counted = [trial for trial in ended if trial.state != TrialState.FAIL]
        spent = sum(trial.duration.total_seconds() for trial in ended if trial.duration)
        late = self.settings.budget_s is not None and spent >= self.settings.budget_s
        done = any(trial.state == TrialState.COMPLETE for trial in counted)
        if len(counted) >= self.settings.trials or (late and done):
            return None
        return self.study.ask()

    def run(
        self,
        trial: optuna.Trial,
        tune: Callable[[TrainSettings, Path, Callable[[TrainProgress], None]], Trained],
    ) -> None:
        chosen = self._chosen(trial)
        looks: list[int] = []

        def tell(progress: TrainProgress) -> None:
            self._tell(trial, progress)
            if progress.looked and progress.step not in looks:
                looks.append(progress.step)
                trial.report(progress.validation, len(looks))
                if trial.should_prune():
                    raise optuna.TrialPruned

        try:
            trained = tune(chosen, self.place(trial.number), tell)
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            shutil.rmtree(self.place(trial.number), ignore_errors=True)
            return
        trial.set_user_attr("trained", asdict(trained))
        self.study.tell(trial, trained.scores["tuned"])

    def _tell(self, trial: optuna.Trial, progress: TrainProgress) -> None:
        ended = [one for one in self.study.get_trials(deepcopy=False) if one.value is not None]
        best = min((one.value for one in ended if one.value is not None), default=None)
        self.told(SearchProgress(trial.number, self.settings.trials, best, progress))

    def _chosen(self, trial: optuna.Trial) -> TrainSettings:
        train = self.train
        rate = train.rate
        found: dict[str, Any] = {
            "learning_rate": trial.suggest_float("learning_rate", rate / 10, rate * 10, log=True),
            "steps": trial.suggest_categorical("steps", _around(train.steps)),
        }
        if train.method in RANKED:
            found["rank"] = trial.suggest_categorical("rank", sorted({*RANKS, train.rank}))
        if self.settings.contexts:
            found["context"] = trial.suggest_categorical("context", self.settings.contexts)
        return replace(train, **found)

    def _again(self) -> None:
        """Queue the given settings first, and trials that were cut off once more."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in (each for each in trials if each.state == TrialState.RUNNING):
            shutil.rmtree(self.place(trial.number), ignore_errors=True)
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)
        if not self.study.get_trials(deepcopy=False):
            first: dict[str, Any] = {"learning_rate": self.train.rate, "steps": self.train.steps}
            if self.train.method in RANKED:
                first["rank"] = self.train.rank
            self.study.enqueue_trial(first)


def _around(steps: int) -> list[int]:
    return sorted({max(1, steps // 3), steps, 2 * steps})
