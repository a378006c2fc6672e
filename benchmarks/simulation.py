"""Check the coverage of intervals and p values on data whose truth is known.

    python benchmarks/simulation.py [--quick] [--seed 0]

Prints tables in Markdown: how often 95 % intervals hold the true value, alone and for the
difference of two models on the same images; how often `medvision compare` finds a difference where
there is none, and where there is one. Above a table stands the range in which 95 of 100 of its
figures would lie if the promise held exactly. The test of two accuracies is exact, and accuracies
take few values: it stays below 5 %.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from medvision.metrics import bootstrap_mean_interval, classification_intervals
from medvision.metrics.paired import (
    PairedDifference,
    PairedScore,
    auroc_score,
    holm_adjusted,
    mean_score,
    paired_differences,
    placements,
    seed_spread,
)

Floats = NDArray[np.float64]
Rng = np.random.Generator
SIZES = (50, 100, 400)
RESAMPLES, EXCHANGES = 1000, 399  # fewer than compare makes: a study of many data sets
TRUTH_SIZE = 2_000_000
LEVEL = 0.05


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data sets")
    given = parser.parse_args()
    sets = 100 if given.quick else 1000
    print(f"`python benchmarks/simulation.py --seed {given.seed}{' --quick' * given.quick}`")
    print(
        f"\nPython {platform.python_version()}, NumPy {np.__version__}; {sets} data sets a figure,"
    )
    print(f"with {RESAMPLES} resamples and {EXCHANGES} exchanges.")
    rng = np.random.default_rng(given.seed)
    _print_alone(sets, rng)
    _print_pairs(sets, rng)
    _print_families(sets, rng)
    _print_seeds(sets, rng)
    print(f"\n{time.process_time():.0f} s of one core.")


# ------------------------------------------------------------------ data whose truth is known


def dice(size: int, rng: Rng, *, missed: float) -> Floats:
    """Scores of lesions: most are near 1, and a share is missed altogether."""
    values = rng.beta(8, 1.5, size)
    return np.where(rng.random(size) < missed, 0.0, values)


def two_dice(size: int, rng: Rng, *, gain: float = 0.0, spread: float = 0.06) -> Floats:
    """Dice of two models that find the same images hard, (N, 2); B is better by ``gain``.

    Each misses 4 % of the images altogether, half of them the same ones.
    """
    hard = rng.beta(8, 1.5, size)
    both = rng.random(size) < 0.02
    columns = []
    for shift in (0.0, gain):
        values = np.clip(hard + rng.normal(0, spread, size), 0, 1)
        alone = rng.random(size) < 0.0204
        columns.append(np.where(both | alone, 0.0, values) + shift)
    return np.stack(columns, axis=1)


def two_right(size: int, rng: Rng, *, a: float, b: float) -> Floats:
    """Right answers of two correlated models of these accuracies, (N, 2)."""
    common = rng.normal(0, 0.8**0.5, size)
    own = rng.normal(0, 0.2**0.5, (2, size))
    limits = special.ndtri([a, b])
    return np.stack([common + own[k] < limits[k] for k in range(2)], axis=1).astype(np.float64)


def two_ranked(
    size: int, rng: Rng, *, a: float, b: float, positives: float
) -> tuple[Floats, NDArray[np.int64]]:
    """Probabilities of two correlated models of these AUROCs, (N, 2), and targets (N,)."""
    target = (rng.random(size) < positives).astype(np.int64)
    target[:2] = 0, 1
    common = rng.normal(0, 0.6**0.5, size)
    shifts = special.ndtri([a, b]) * 2**0.5
    raw = [common + rng.normal(0, 0.4**0.5, size) + shift * target for shift in shifts]
    # B is on another scale: AUROC must not mind
    return np.stack([special.expit(raw[0]), special.expit(3 * raw[1] - 3)], axis=1), target


def patients(size: int, rng: Rng) -> NDArray[np.intp]:
    """Patients of 1 to 5 images each, (N,)."""
    number = np.repeat(np.arange(size), rng.integers(1, 6, size))
    return number[:size]


def of_patients(group: NDArray[np.intp], rng: Rng, *, within: float = 0.04) -> Floats:
    """Dice of images of patients, most of whose spread lies between patients."""
    mean = rng.beta(12, 2.5, group.max() + 1)[group]
    return np.clip(mean + rng.normal(0, within, len(group)), 0, 1)


def many_dice(size: int, rng: Rng) -> Floats:
    """Dice of four models that are equally good, (N, 4)."""
    hard = rng.beta(8, 1.5, size)
    return np.clip(hard[:, None] + rng.normal(0, 0.06, (size, 4)), 0, 1)


# ------------------------------------------------------------------ one model


def _print_alone(sets: int, rng: Rng) -> None:
    def mean_dice(size: int, seed: int, missed: float) -> bool:
        values = dice(size, rng, missed=missed)
        ends = bootstrap_mean_interval(values, num_resamples=RESAMPLES, seed=seed)
        return _covers(ends, (1 - missed) * 8 / 9.5)

    truth = float(of_patients(np.arange(TRUTH_SIZE), rng).mean())

    def grouped_dice(size: int, seed: int) -> bool:
        group = patients(size, rng)
        values = of_patients(group, rng)
        ends = bootstrap_mean_interval(values, groups=group, num_resamples=RESAMPLES, seed=seed)
        return _covers(ends, truth)

    def classified(size: int, seed: int, score: str, share: float) -> bool:
        shift = float(special.ndtri(0.9)) * 2**0.5
        values, target = two_ranked(size, rng, a=0.9, b=0.9, positives=share)
        positive = special.expit(special.logit(values[:, 0]) - shift / 2)  # 0.5 is half-way
        ends = classification_intervals(
            np.stack([1 - positive, positive], axis=1),
            target,
            class_names=["n", "p"],
            num_resamples=RESAMPLES,
            seed=seed,
        )[score]
        return _covers(ends, 0.9 if score == "auroc" else float(special.ndtr(shift / 2)))

    rows: dict[str, Callable[[int, int], bool]] = {
        "mean Dice, none missed": lambda size, seed: mean_dice(size, seed, 0.0),
        "mean Dice, 5 % missed (0)": lambda size, seed: mean_dice(size, seed, 0.05),
        "mean Dice, 10 % missed (0)": lambda size, seed: mean_dice(size, seed, 0.1),
        "mean Dice, 1 to 5 images a patient": grouped_dice,
        "accuracy 0.82": lambda size, seed: classified(size, seed, "accuracy", 0.5),
        "AUROC 0.90, half positive": lambda size, seed: classified(size, seed, "auroc", 0.5),
        "AUROC 0.90, 20 % positive": lambda size, seed: classified(size, seed, "auroc", 0.2),
    }
    _print_head("Coverage of 95 % intervals of one model, %", 0.95, sets)
    for name, covers in rows.items():
        _print_row(name, [[covers(size, seed) for seed in range(sets)] for size in SIZES])


# ------------------------------------------------------------------ two models


def _print_pairs(sets: int, rng: Rng) -> None:
    def dice_pair(size: int, gain: float) -> PairedScore:
        return mean_score(two_dice(size, rng, gain=gain), np.arange(size))

    def patient_pair(size: int) -> PairedScore:
        group = patients(size, rng)
        shared = rng.normal(0, 0.05, group.max() + 1)[group]  # of the difference
        values = of_patients(group, rng)
        other = values + shared + rng.normal(0, 0.02, size)
        return mean_score(np.stack([values, other], axis=1), group)

    def right_pair(size: int, a: float, b: float) -> PairedScore:
        return mean_score(two_right(size, rng, a=a, b=b), np.arange(size))

    def ranked_pair(size: int, a: float, b: float, positives: float) -> PairedScore:
        values, target = two_ranked(size, rng, a=a, b=b, positives=positives)
        placed = np.stack([placements(values[:, k], target == 1) for k in range(2)], axis=1)
        return auroc_score({1: placed}, target, np.arange(size))

    rows: dict[str, tuple[float, Callable[[int], PairedScore]]] = {
        "Dice, equal": (0, lambda size: dice_pair(size, 0)),
        "Dice, 1 to 5 images a patient, equal": (0, patient_pair),
        "accuracy 0.70 and 0.70 (few values)": (0, lambda size: right_pair(size, 0.7, 0.7)),
        "accuracy 0.85 and 0.85 (few values)": (0, lambda size: right_pair(size, 0.85, 0.85)),
        "AUROC 0.85 and 0.85": (0, lambda size: ranked_pair(size, 0.85, 0.85, 0.5)),
        "AUROC 0.85 and 0.85, 20 % positive": (0, lambda size: ranked_pair(size, 0.85, 0.85, 0.2)),
        "Dice, 0.02 better": (0.02, lambda size: dice_pair(size, 0.02)),
        "Dice, 0.05 better": (0.05, lambda size: dice_pair(size, 0.05)),
        "accuracy 0.85 and 0.90": (0.05, lambda size: right_pair(size, 0.85, 0.9)),
        "AUROC 0.80 and 0.90": (0.1, lambda size: ranked_pair(size, 0.8, 0.9, 0.5)),
        "AUROC 0.80 and 0.90, 20 % positive": (0.1, lambda size: ranked_pair(size, 0.8, 0.9, 0.2)),
    }
    _print_head("Coverage of 95 % intervals of a paired difference, %", 0.95, sets)
    positives: dict[str, list[list[bool]]] = {}
    for name, (truth, draw) in rows.items():
        found = [[_compare(draw(size), seed)[0] for seed in range(sets)] for size in SIZES]
        _print_row(name, [[_covers(one.interval, truth) for one in of] for of in found])
        positives[name] = [[one.p_value <= LEVEL for one in of] for of in found]
    _print_head("False positives: p <= 0.05 without a difference, %", LEVEL, sets)
    _print_rows({name: positives[name] for name, (truth, _) in rows.items() if not truth})
    _print_head("Power: p <= 0.05 where there is a difference, %", None, sets)
    _print_rows({name: positives[name] for name, (truth, _) in rows.items() if truth})


# ------------------------------------------------------------------ several groups, several seeds


def _print_families(sets: int, rng: Rng) -> None:
    title = "Four groups without a difference, each compared with the first: any p <= 0.05, %"
    _print_head(title, LEVEL, sets)
    rows: dict[str, list[list[bool]]] = {"p as it is": [], "p by Holm": []}
    for size in SIZES:
        scores = (mean_score(many_dice(size, rng), np.arange(size)) for _ in range(sets))
        found = [[d.p_value for d in _compare(score, n, 4)] for n, score in enumerate(scores)]
        rows["p as it is"].append([min(p) <= LEVEL for p in found])
        rows["p by Holm"].append([min(holm_adjusted(p)) <= LEVEL for p in found])
    _print_rows(rows)


def _print_seeds(sets: int, rng: Rng) -> None:
    print("\n### Two methods without a difference whose seeds spread, %\n")
    print(
        "400 images; the Dice of a trained model lies off that of its method by chance, with the"
        " deviation given.\nImages: p <= 0.05, these trained models differ (and they do). Seeds:"
        " Welch's interval leaves 0 out. Both: what the\nverdict `better` asks for.\n"
    )
    print("| seeds of each, deviation | images | seeds | both |\n|---|---|---|---|")
    for count, deviation in ((1, 0.01), (3, 0.01), (5, 0.01), (5, 0.0)):
        images, seeds = [], []
        for number in range(sets):
            luck = rng.normal(0, deviation, (2, count))
            hard = rng.beta(8, 1.5, 400)
            runs = hard + luck[..., None] + rng.normal(0, 0.05, (2, count, 400))  # (2, S, N)
            score = mean_score(runs.mean(axis=1).T, np.arange(400))
            images.append(_compare(score, number)[0].p_value <= LEVEL)
            ends = seed_spread(*runs.mean(axis=2).tolist()).interval
            seeds.append(ends is not None and not _covers(ends, 0))
        both = np.logical_and(images, seeds)
        result = [f"{100 * np.mean(found):.1f}" for found in (images, seeds, both)]
        if count == 1:
            result[1:] = "-", "-"
        print(f"| {count}, {deviation} | {' | '.join(result)} |", flush=True)


def _compare(score: PairedScore, seed: int, contenders: int = 2) -> list[PairedDifference]:
    return paired_differences(
        {"score": score},
        [(0, other) for other in range(1, contenders)],
        num_resamples=RESAMPLES,
        num_permutations=EXCHANGES,
        seed=seed,
    )["score"]


# ------------------------------------------------------------------ tables


def _covers(interval: tuple[float, float] | None, truth: float) -> bool:
    return interval is not None and interval[0] - 1e-12 <= truth <= interval[1] + 1e-12


def _print_head(title: str, promised: float | None, sets: int) -> None:
    print(f"\n### {title}\n")
    if promised is not None:
        low, high = (stats.binom.ppf(tail, sets, promised) / sets for tail in (0.025, 0.975))
        print(f"By chance {100 * low:.1f} to {100 * high:.1f} where {100 * promised:.0f} is due.\n")
    print("| data | " + " | ".join(f"n = {size}" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))


def _print_rows(rows: dict[str, list[list[bool]]]) -> None:
    for name, found in rows.items():
        _print_row(name, found)


def _print_row(name: str, found: Sequence[Sequence[bool]]) -> None:
    cells = " | ".join(f"{100 * np.mean(hits):.1f}" for hits in found)
    print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
