"""What a shop would fit to its own customers: BG/NBD, Pareto/NBD, Gamma-Gamma, and RFM learners.

They serve the backtest and the gate of fine-tuning. Times are days. Invariant: a fit sees what was
before the cut alone, and the same population gives the same fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln, hyp2f1

from models.base import PURCHASE, FloatArray, ModelError
from models.cuts import cut_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.customers import Ints, Population
    from models.cuts import Cut

UNIT = 7.0  # days; parameters near 1 are easier to find
BOUND = 9.0  # of a parameter's logarithm


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """(customers,) repeats: purchases after the first; latest, age: days from the first purchase
    to the last and to now; amount: mean, NaN: unknown; amounts: how many are known.
    """

    repeats: Ints
    latest: FloatArray
    age: FloatArray
    amount: FloatArray
    amounts: Ints


def summary_of(crowd: Population) -> Summary:
    """Those who never bought count as having bought once, now: models of buyers know no others."""
    last = np.full(len(crowd), np.nan)
    bought = crowd.types == PURCHASE
    last[crowd.owner[bought]] = crowd.days_ago[bought]  # oldest first: the last written is latest
    age = np.nan_to_num(crowd.first_purchase_days_ago)
    amount = np.where(crowd.spend_days > 0, crowd.spend / np.maximum(crowd.spend_days, 1), np.nan)
    return Summary(
        repeats=np.maximum(crowd.purchase_days - 1, 0),
        latest=np.where(crowd.purchase_days > 1, age - np.nan_to_num(last), 0.0),
        age=age,
        amount=amount,
        amounts=crowd.spend_days,
    )


class Repeat(Protocol):
    """A model of repeat buying that has been fitted."""

    def log_likelihood(self, summary: Summary) -> FloatArray:
        """(customers,) of the purchases and of none since the last."""

    def probability(self, summary: Summary, days: float) -> FloatArray:
        """(customers,) of a purchase within so many days from now."""

    def purchases(self, summary: Summary, days: float) -> FloatArray:
        """(customers,) expected within so many days."""


@dataclass(frozen=True, slots=True)
class BetaGeo:
    """BG/NBD (Fader, Hardie and Lee, 2005): gamma rates, a coin after each purchase.

    r, alpha: of the gamma, in units of a week; a, b: of the coin's beta.
    """

    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(cls, summary: Summary) -> BetaGeo:
        """Maximum likelihood."""
        return _fitted(cls, summary, starts=((0.3, 5.0, 0.8, 2.5), (1.0, 1.0, 1.0, 10.0)))

    def log_likelihood(self, summary: Summary) -> FloatArray:
        return self._log_likelihood(summary, summary.age)

    def probability(self, summary: Summary, days: float) -> FloatArray:
        """No purchase until then is what makes the same history that much older."""
        later = self._log_likelihood(summary, summary.age + days)
        return -np.expm1(np.minimum(later - self.log_likelihood(summary), 0.0))

    def purchases(self, summary: Summary, days: float) -> FloatArray:
        """Equation 10 of the paper."""
        x, tx, age, t = summary.repeats, summary.latest / UNIT, summary.age / UNIT, days / UNIT
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        a = a + 1e-4 if abs(a - 1) < 1e-4 else a  # the formula has a gap there
        z = t / (alpha + age + t)
        shrink = ((alpha + age) / (alpha + age + t)) ** (r + x)
        inner = 1 - shrink * hyp2f1(r + x, b + x, a + b + x - 1, z)
        dead = np.where(x > 0, a / (b + np.maximum(x, 1) - 1), 0.0)
        dead = dead * ((alpha + age) / (alpha + tx)) ** (r + x)
        return np.asarray((a + b + x - 1) / (a - 1) * inner / (1 + dead))

    def _log_likelihood(self, summary: Summary, age: FloatArray) -> FloatArray:
        """Equation 6 of the paper."""
        x, tx = summary.repeats, summary.latest / UNIT
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) - betaln(a, b)
        alive = betaln(a, b + x) - (r + x) * np.log(alpha + age / UNIT)
        some = np.maximum(x, 1)
        dead = betaln(a + 1, b + some - 1) - (r + x) * np.log(alpha + tx)
        return np.asarray(common + np.where(x > 0, np.logaddexp(alive, dead), alive))


@dataclass(frozen=True, slots=True)
class ParetoNbd:
    """Pareto/NBD (Schmittlein, Morrison and Colombo, 1987): gamma rates, exponential lifetimes of
    gamma rates. r, alpha: of buying; s, beta: of leaving, in units of a week.
    """

    r: float
    alpha: float
    s: float
    beta: float

    @classmethod
    def fit(cls, summary: Summary) -> ParetoNbd:
        """Maximum likelihood."""
        return _fitted(cls, summary, starts=((0.5, 10.0, 0.6, 12.0), (1.0, 2.0, 0.5, 40.0)))

    def log_likelihood(self, summary: Summary) -> FloatArray:
        return self._log_likelihood(summary, summary.age)

    def probability(self, summary: Summary, days: float) -> FloatArray:
        later = self._log_likelihood(summary, summary.age + days)
        return -np.expm1(np.minimum(later - self.log_likelihood(summary), 0.0))

    def purchases(self, summary: Summary, days: float) -> FloatArray:
        """Equation 41 of Fader and Hardie, A Note on Deriving the Pareto/NBD Model (2005)."""
        x, age, t = summary.repeats, summary.age / UNIT, days / UNIT
        s = self.s + 1e-4 if abs(self.s - 1) < 1e-4 else self.s
        alive = np.exp(self._alive(summary, summary.age) - self.log_likelihood(summary))
        gone = ((self.beta + age) / (self.beta + age + t)) ** (s - 1)
        mean = (self.r + x) * (self.beta + age) / ((self.alpha + age) * (s - 1))
        return np.asarray(alive * mean * (1 - gone))

    def _log_likelihood(self, summary: Summary, age: FloatArray) -> FloatArray:
        """Alive now, or left at some time since the last purchase, over which is integrated.

        Gauss-Legendre in the logarithm of time; exact to ten digits, and without the
        hypergeometric functions, which fail for many purchases.
        """
        alive = self._alive(summary, age)
        r, alpha, s, beta = self.r, self.alpha, self.s, self.beta
        x, tx = summary.repeats[:, None], summary.latest[:, None] / UNIT
        width = np.log1p(np.maximum(age[:, None] / UNIT - tx, 0.0))
        offset = width * _NODES
        time = tx + np.expm1(offset)
        inner = -(r + x) * np.log(alpha + time) - (s + 1) * np.log(beta + time) + offset
        highest = inner.max(axis=1, keepdims=True)
        mass = np.log((np.exp(inner - highest) * _WEIGHTS * width).sum(axis=1) + 1e-300)
        left = self._common(summary) + np.log(s) + highest[:, 0] + mass
        return np.asarray(np.logaddexp(alive, left))

    def _alive(self, summary: Summary, age: FloatArray) -> FloatArray:
        """Logarithm of the likelihood of the history and of being alive."""
        weeks = age / UNIT
        both = (self.r + summary.repeats) * np.log(self.alpha + weeks)
        return np.asarray(self._common(summary) - both - self.s * np.log(self.beta + weeks))

    def _common(self, summary: Summary) -> FloatArray:
        counts = gammaln(self.r + summary.repeats) - gammaln(self.r)
        return np.asarray(counts + self.r * np.log(self.alpha) + self.s * np.log(self.beta))


@dataclass(frozen=True, slots=True)
class GammaGamma:
    """Gamma-Gamma (Fader and Hardie, 2013): amounts are gamma about a customer's mean."""

    p: float
    q: float
    v: float
    scale: float  # amounts are relative to it

    @classmethod
    def fit(cls, summary: Summary) -> GammaGamma:
        """Maximum likelihood over those of whom a positive amount is known."""
        known = (summary.amounts > 0) & (summary.amount > 0)
        if known.sum() < 3:
            raise ModelError("gamma-gamma needs customers with amounts")
        count, mean = summary.amounts[known], summary.amount[known]
        scale = float(mean.mean())

        def loss(logs: FloatArray) -> float:
            p, q, v = np.exp(logs)
            return -float(_amount_likelihood(p, q, v, count, mean / scale).mean())

        best = _least(loss, [np.log(start) for start in ((2.0, 3.0, 1.0), (6.0, 4.0, 0.5))])
        p, q, v = (float(value) for value in np.exp(best))
        return cls(p, q, v, scale)

    def mean_amount(self, summary: Summary) -> FloatArray:
        """(customers,) expected amount of a purchase, the population's where none is known."""
        count = np.where(summary.amount > 0, summary.amounts, 0)
        own = self.p * (np.nan_to_num(summary.amount) / self.scale) * count
        q = max(self.q, 1.001)
        return np.asarray((self.p * self.v + own) / (self.p * count + q - 1) * self.scale)


def _amount_likelihood(p: float, q: float, v: float, count: Ints, mean: FloatArray) -> FloatArray:
    """Equation 1a of the note; mean of `count` purchases."""
    px = p * count
    ways = gammaln(px + q) - gammaln(px) - gammaln(q) + q * np.log(v)
    return np.asarray(
        ways + (px - 1) * np.log(mean) + px * np.log(count) - (px + q) * np.log(v + count * mean)
    )


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2


ModelT = TypeVar("ModelT", BetaGeo, ParetoNbd)


def _fitted(kind: type[ModelT], summary: Summary, *, starts: Sequence[Sequence[float]]) -> ModelT:
    """The parameters, all above 0, that make the histories likeliest; equal ones count as one."""
    if not len(summary.repeats):
        raise ModelError("a fit needs customers")
    repeats = summary.repeats.astype(np.float64)
    rows = np.stack((repeats, summary.latest, summary.age), axis=1).round(6)
    unique, weight = np.unique(rows, axis=0, return_counts=True)
    nothing = np.full(len(unique), np.nan)
    few = Summary(unique[:, 0].astype(np.int64), unique[:, 1], unique[:, 2], nothing, weight)

    def loss(logs: FloatArray) -> float:
        each = kind(*np.exp(logs)).log_likelihood(few)
        return -float((each * weight).sum() / weight.sum())

    return kind(*(float(value) for value in np.exp(_least(loss, [np.log(s) for s in starts]))))


def _least(loss: Callable[[FloatArray], float], starts: Sequence[FloatArray]) -> FloatArray:
    bounds = [(-BOUND, BOUND)] * len(starts[0])
    with np.errstate(all="ignore"):
        found = [minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    best = min(found, key=lambda each: each.fun if np.isfinite(each.fun) else np.inf)
    if not np.isfinite(best.fun):
        raise ModelError("no likelihood could be found")
    return np.asarray(best.x)


# --- learners on recency, frequency and tenure -----------------------------------------------


def rfm_of(crowd: Population) -> FloatArray:
    """(customers, features) of recency, frequency, tenure, gaps and lately, for learners."""
    summary = summary_of(crowd)
    recency = summary.age - summary.latest
    gap = summary.latest / np.maximum(summary.repeats, 1)
    owner, bought = crowd.owner, crowd.types == PURCHASE
    lately = [
        np.bincount(owner[bought & (crowd.days_ago <= days)], minlength=len(crowd))
        for days in (7, 30, 60, 90, 180)
    ]
    columns = [np.log1p(part) for part in (recency, summary.repeats, summary.age, gap, *lately)]
    columns += [np.log((recency + 1) / (gap + 1)), columns[0] * columns[1]]
    columns += [np.log((summary.repeats + 0.3) / (summary.age + 14)), summary.repeats > 0]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


@dataclass(frozen=True, slots=True)
class Learner:
    """A classifier fitted for one horizon."""

    classifier: Any

    def probability(self, crowd: Population) -> FloatArray:
        return np.asarray(self.classifier.predict_proba(rfm_of(crowd))[:, 1])


def fit_logistic(crowd: Population, days: float) -> Learner | None:
    """Logistic regression on earlier cuts; None where no cut has both histories and futures."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - an extra
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    table = _table(crowd, days)
    if table is None:
        return None
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return Learner(classifier.fit(*table))


def fit_lightgbm(crowd: Population, days: float) -> Learner | None:
    """Gradient boosting on earlier cuts; None as for logistic regression."""
    from lightgbm import LGBMClassifier  # noqa: PLC0415 - an extra

    table = _table(crowd, days)
    if table is None:
        return None
    classifier = LGBMClassifier(
        n_estimators=150,
        learning_rate=0.04,
        num_leaves=15,
        min_child_samples=50,
        reg_lambda=1.0,
        deterministic=True,
        n_jobs=1,
        verbose=-1,
    )
    return Learner(classifier.fit(*table))


def earlier_cuts(crowd: Population, days: float, *, most: int = 6) -> list[Cut]:
    """Cuts watched for at least `days`, with at least as long a history, the latest first."""
    oldest = float(np.nanmax(crowd.first_days_ago)) if len(crowd) else 0.0
    farthest = oldest - min(days, 60.0)
    step = max(days / 2, (farthest - days) / most, 7.0)
    return [cut_at(crowd, ago) for ago in np.arange(days, farthest + 1e-9, step)[:most]]


def _table(crowd: Population, days: float) -> tuple[FloatArray, FloatArray] | None:
    features, labels = [], []
    for cut in earlier_cuts(crowd, days):
        if len(cut.people):
            features.append(rfm_of(cut.population))
            labels.append(cut.bought(days))
    if not labels or len(np.unique(np.concatenate(labels))) < 2:
        return None
    return np.concatenate(features), np.concatenate(labels).astype(np.float64)


def averaged(first: FloatArray, second: FloatArray) -> FloatArray:
    """The mean of two probabilities in log-odds."""
    bounded = [np.clip(each, 1e-9, 1 - 1e-9) for each in (first, second)]
    return np.asarray(expit(sum(np.log(each / (1 - each)) for each in bounded) / 2))
