"""Search for the settings of fine-tuning that what a shop validates by likes best.

Invariant: the gate's windows are never looked at; a search that was killed goes on with the trials
that it had, and a trial that was cut off is made again.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import optuna
from optuna.trial import TrialState

from models.base import ModelError
from models.tuning import EventsTrainSettings, TrainProgress, TrainSettings

#: Ranks that are tried, and methods that have one.
RANKS = (2, 4, 8, 16)
RANKED = frozenset({"lora", "adalora", "adapter"})
#: What is sought of the events network alone: earlier moments to learn from, customers of a step.
OF_EVENTS = ("cuts", "rows")


class Tuned(Protocol):
    """What came of a fine-tuning: a dataclass whose score `tuned` says how well it does."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def scores(self) -> dict[str, float]:
        """Losses on the validation windows, of zero_shot and tuned."""


SettingsT = TypeVar("SettingsT", bound=TrainSettings | EventsTrainSettings)
TrainedT = TypeVar("TrainedT", bound=Tuned)

Tune = Callable[[SettingsT, Path, Path, Callable[[TrainProgress], None]], TrainedT]
"""Fine-tunes by settings into a directory, from the state in another, and tells how it goes."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """trials: at most, among them those that are pruned. budget_s: seconds of all of them; the last
    has what is left. contexts: periods of a series' history to choose from, none to leave it.
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
class Searched(Generic[TrainedT]):
    """The best trial: what it was set to and what came of it; how many ended, or were pruned."""

    chosen: dict[str, Any]
    trained: TrainedT
    finished: int
    pruned: int


def search(
    tune: Tune[SettingsT, TrainedT],
    out: Path,
    *,
    state: Path,
    train: SettingsT,
    kind: type[TrainedT],
    settings: SearchSettings | None = None,
    told: Callable[[SearchProgress], None] | None = None,
) -> Searched[TrainedT]:
    """Fine-tune with other rates, ranks, steps and the like; write the best of them to `out`.

    The first trial is `train` as it is, so that the answer is never worse. Pruned by the median of
    the trials before at the same look. kind: what `tune` returns, a dataclass. told: as of a
    fine-tuning; may raise to stop. Raises what `tune` does.
    """
    settings = settings or SearchSettings()
    state.mkdir(parents=True, exist_ok=True)
    hunt = _Hunt(state, settings, train, told)
    while (trial := hunt.next()) is not None:
        hunt.run(trial, tune)
    best = hunt.study.best_trial
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(hunt.place(best.number) / "out", out)
    states = [trial.state for trial in hunt.study.trials]
    return Searched(
        chosen=dict(best.params),
        trained=kind(**best.user_attrs["trained"]),
        finished=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
    )


class _Hunt(Generic[SettingsT]):
    """A study on disk and what moves it on."""

    def __init__(
        self,
        state: Path,
        settings: SearchSettings,
        train: SettingsT,
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
        late = self._left_s() == 0
        done = any(trial.state == TrialState.COMPLETE for trial in counted)
        if len(counted) >= self.settings.trials or (late and done):
            return None
        return self.study.ask()

    def _left_s(self) -> float | None:
        """Seconds that are left for trials, None where there is no limit."""
        if self.settings.budget_s is None:
            return None
        trials = self.study.get_trials(deepcopy=False)
        spent = sum(trial.duration.total_seconds() for trial in trials if trial.duration)
        return max(0.0, self.settings.budget_s - spent)

    def run(self, trial: optuna.Trial, tune: Tune[SettingsT, Tuned]) -> None:
        chosen, place = self._chosen(trial), self.place(trial.number)
        looks: list[int] = []

        def tell(progress: TrainProgress) -> None:
            self._tell(trial, progress)
            if progress.looked and progress.step not in looks:
                looks.append(progress.step)
                trial.report(progress.validation, len(looks))
                if trial.should_prune():
                    raise optuna.TrialPruned

        try:
            trained = tune(chosen, place / "out", place / "state", tell)
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            shutil.rmtree(place, ignore_errors=True)
            return
        trial.set_user_attr("trained", asdict(trained))
        self.study.tell(trial, trained.scores["tuned"])

    def _tell(self, trial: optuna.Trial, progress: TrainProgress) -> None:
        ended = [one for one in self.study.get_trials(deepcopy=False) if one.value is not None]
        best = min((one.value for one in ended if one.value is not None), default=None)
        self.told(SearchProgress(trial.number, self.settings.trials, best, progress))

    def _chosen(self, trial: optuna.Trial) -> SettingsT:
        rate = self.train.rate
        found: dict[str, Any] = {
            "learning_rate": trial.suggest_float("learning_rate", rate / 10, rate * 10, log=True)
        }
        for name, choices in self._choices().items():
            found[name] = trial.suggest_categorical(name, choices)
        return replace(self.train, **found, budget_s=self._left_s() or self.train.budget_s)

    def _choices(self) -> dict[str, Sequence[int]]:
        """What is sought beside the rate, and where; what was given is among it."""
        train = self.train
        found: dict[str, Sequence[int]] = {"steps": _around(train.steps, less=3)}
        if train.method in RANKED:
            found["rank"] = sorted({*RANKS, train.rank})
        if isinstance(train, EventsTrainSettings):
            found |= {name: _around(getattr(train, name)) for name in OF_EVENTS}
        elif self.settings.contexts:
            found["context"] = self.settings.contexts
        return found

    def _again(self) -> None:
        """Queue the given settings first, and trials that were cut off once more."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in (each for each in trials if each.state == TrialState.RUNNING):
            shutil.rmtree(self.place(trial.number), ignore_errors=True)
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)
        if not self.study.get_trials(deepcopy=False):
            given = {name: getattr(self.train, name) for name in self._choices()}
            first = {name: value for name, value in given.items() if value is not None}
            self.study.enqueue_trial({"learning_rate": self.train.rate} | first)


def _around(number: int, *, less: int = 2) -> list[int]:
    return sorted({max(1, number // less), number, 2 * number})
