"""What each part of the series network is worth: short trainings with one part left out.

    python benchmarks/ablation.py --out DIR                    # every variant, two seeds
    python benchmarks/ablation.py --out DIR --variants all "no guide" --seeds 0

Every variant is trained from scratch on so many windows (`--windows`), once a seed, and scored on
the development quarters of the competition sets, MASE / WQL relative to seasonal naive (see
accuracy.py). With `--data` the shop sets are scored as well. What is in DIR is not trained again.
"""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

import accuracy

from models.pretrain import PretrainSettings, pretrain
from models.synth import mixture

RESULTS = Path(__file__).parent / "results" / "ablation.jsonl"
#: What a variant changes of the settings.
VARIANTS: dict[str, dict[str, object]] = {
    "all": {},
    "no seasonal adjustment": {"without": "seasonal_adjustment"},
    "no guide": {"without": "guide"},
    "neither": {"without": "seasonal_adjustment,guide"},
    "shops alone": {},
    "no shops": {},
    "no economies, no tourism": {},
    "half the width": {"d_model": 80, "d_ff": 320, "heads": 3},
    "twice the layers": {"layers": 8},
}
#: The families that a variant draws from, by a part of their names; "-" leaves them out.
FAMILIES = {
    "shops alone": ("_sales",),
    "no shops": ("-_sales",),
    "no economies, no tourism": ("-economic", "-tourism"),
}


def train(name: str, seed: int, options: Namespace) -> Path:
    """The checkpoint of a variant, trained unless it is there."""
    out = options.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if not (out / "config.json").exists():
        settings = PretrainSettings(
            out=out,
            run=out / "run",
            seed=seed,
            windows=options.windows,
            average=0.99,
            cooldown=0.6,
            threads=options.threads,
            save_every_s=1e9,
        )
        whole = mixture.FAMILIES
        mixture.FAMILIES = _chosen(whole, FAMILIES.get(name, ()))
        try:
            pretrain(replace(settings, **VARIANTS[name]))  # type: ignore[arg-type]  # by name
        finally:
            mixture.FAMILIES = whole
    return out


Mixture = tuple[tuple[mixture.Family, float], ...]


def _chosen(families: Mixture, parts: tuple[str, ...]) -> Mixture:
    left_out = tuple(part[1:] for part in parts if part.startswith("-"))
    kept = tuple(part for part in parts if not part.startswith("-"))
    return tuple(
        (family, weight)
        for family, weight in families
        if not any(part in family.__name__ for part in left_out)
        and (not kept or any(part in family.__name__ for part in kept))
    )


def score(directory: Path, options: Namespace) -> dict[str, list[float]]:
    """[MASE, WQL] relative to seasonal naive on the development quarters."""
    run = Namespace(
        checkpoint=[directory], adjustment="auto", runtime="auto", dtype="float32",
        baselines=False, data=options.data, final=False, limit=options.limit,
    )  # fmt: skip
    means = accuracy.run(run)["means"]
    assert isinstance(means, dict)
    found: dict[str, list[float]] = next(iter(means.values()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the checkpoints")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--windows", type=int, default=40_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="at most so many series a set")
    parser.add_argument("--data", type=Path, help="directory of shop data sets")
    options = parser.parse_args()
    table = {}
    for name in options.variants:
        runs = [score(train(name, seed, options), options) for seed in options.seeds]
        table[name] = {key: [run[key] for run in runs] for key in runs[0]}
        found = {"variant": name, "seeds": options.seeds, "windows": options.windows}
        stamp = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(stamp | found | table[name]) + "\n")
    print(f"\n{options.windows:,} windows, seeds {options.seeds}: mean (each seed), MASE / WQL")
    for name, runs in table.items():
        for key, pairs in runs.items():
            each = " ".join(f"{mase:.3f}/{wql:.3f}" for mase, wql in pairs)
            mase, wql = (mean(pair[i] for pair in pairs) for i in (0, 1))
            print(f"{name:26s} {key:14s} {mase:.3f} / {wql:.3f}   ({each})")


if __name__ == "__main__":
    main()
