"""Whether the intervals and p values hold what they promise, on data whose truth is known.

    python benchmarks/simulation.py [--quick] [--seed 0]

Prints tables in Markdown: how often 95 % intervals hold the true value, alone and for the
difference of two models on the same images; how often `medvision compare` finds a difference where
there is none, and where there is one. A figure is of as many simulated data sets as its table
says; beside it stands the range in which 95 of 100 such figures would lie if the promise held
exactly.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from medvision.metrics import bootstrap_mean_interval, classification_intervals
from medvision.metrics.differences import PairedDifference, holm_adjusted, paired_differences
from medvision.metrics.paired import (
    PairedScore,
    auroc_score,
    mean_score,
    placements,
)
from medvision.metrics.seeds import seed_spread

Floats = NDArray[np.float64]
Rng = np.random.Generator
Interval = tuple[float, float] | None

SIZES = (50, 100, 400)
RESAMPLES, EXCHANGES = 1000, 399  # fewer than compare makes: a study of many data sets
TRUTH_SIZE = 2_000_000


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data sets")
    given = parser.parse_args()
    sets = 100 if given.quick else 1000
    started_s = time.perf_counter()
    print(
        f"`python benchmarks/simulation.py --seed {given.seed}{' --quick' * given.quick}`, ", end=""
    )
    print(f"Python {platform.python_version()}, NumPy {np.__version__}; {sets} data sets a figure,")
    print(f"{RESAMPLES} resamples, {EXCHANGES} exchanges.\n")
    rng = np.random.default_rng(given.seed)
    _print_coverage(sets, rng)
    _print_paired(sets, rng)
    _print_positives(sets, rng)
    _print_families(sets, rng)
    _print_seeds(sets, rng)
    print(f"{time.perf_counter() - started_s:.0f} s of one process.")


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


# ------------------------------------------------------------------ what is measured


def _print_coverage(sets: int, rng: Rng) -> None:
    """Intervals of one model."""

    def mean_dice(size: int, missed: float) -> Iterator[tuple[float, Interval]]:
        truth = float((1 - missed) * 8 / 9.5)
        for seed in range(sets):
            values = dice(size, rng, missed=missed)
            yield truth, bootstrap_mean_interval(values, num_resamples=RESAMPLES, seed=seed)

    def grouped_dice(size: int) -> Iterator[tuple[float, Interval]]:
        truth = float(of_patients(np.arange(TRUTH_SIZE), rng).mean())
        for seed in range(sets):
            group = patients(size, rng)
            values = of_patients(group, rng)
            yield (
                truth,
                bootstrap_mean_interval(values, groups=group, num_resamples=RESAMPLES, seed=seed),
            )

    def classified(size: int, score: str, share: float) -> Iterator[tuple[float, Interval]]:
        area = 0.9
        shift = float(special.ndtri(area)) * 2**0.5
        right = float(special.ndtr(shift / 2))  # at the threshold half-way
        for seed in range(sets):
            values, target = two_ranked(size, rng, a=area, b=area, positives=share)
            positive = special.expit(special.logit(values[:, 0]) - shift / 2)
            found = classification_intervals(
                np.stack([1 - positive, positive], axis=1),
                target,
                class_names=["n", "p"],
                num_resamples=RESAMPLES,
                seed=seed,
            )
            yield (area if score == "auroc" else right), found[score]

    rows: dict[str, Callable[[int], Iterator[tuple[float, Interval]]]] = {
        "mean Dice, none missed": lambda size: mean_dice(size, 0.0),
        "mean Dice, 5 % missed (0)": lambda size: mean_dice(size, 0.05),
        "mean Dice, 10 % missed (0)": lambda size: mean_dice(size, 0.1),
        "mean Dice, 1 to 5 images a patient": grouped_dice,
        "accuracy 0.82": lambda size: classified(size, "accuracy", 0.5),
        "AUROC 0.90, half positive": lambda size: classified(size, "auroc", 0.5),
        "AUROC 0.90, 20 % positive": lambda size: classified(size, "auroc", 0.2),
    }
    _print_table("Coverage of 95 % intervals of one model, %", rows, _covered, sets, promised=0.95)


def _print_paired(sets: int, rng: Rng) -> None:
    """Intervals of differences."""
    rows: dict[str, Callable[[int], Iterator[tuple[float, Interval]]]] = {
        "Dice, difference 0": lambda size: _dice_pairs(size, sets, rng, gain=0.0),
        "Dice, difference 0.02": lambda size: _dice_pairs(size, sets, rng, gain=0.02),
        "Dice, 1 to 5 images a patient": lambda size: _patient_pairs(size, sets, rng),
        "accuracy 0.85 and 0.85": lambda size: _right_pairs(size, sets, rng, 0.85, 0.85),
        "accuracy 0.85 and 0.90": lambda size: _right_pairs(size, sets, rng, 0.85, 0.9),
        "AUROC 0.85 and 0.85": lambda size: _ranked_pairs(size, sets, rng, 0.85, 0.85, 0.5),
        "AUROC 0.80 and 0.90": lambda size: _ranked_pairs(size, sets, rng, 0.8, 0.9, 0.5),
        "AUROC 0.80 and 0.90, 20 % positive": lambda size: _ranked_pairs(
            size, sets, rng, 0.8, 0.9, 0.2
        ),
    }
    _print_table(
        "Coverage of 95 % intervals of a paired difference, %",
        {name: (lambda size, row=row: _with_interval(row(size))) for name, row in rows.items()},
        _covered,
        sets,
        promised=0.95,
    )


def _print_positives(sets: int, rng: Rng) -> None:
    """How often p <= 0.05, without and with a difference."""
    none = {
        "Dice": lambda size: _dice_pairs(size, sets, rng, gain=0.0),
        "Dice, 1 to 5 images a patient": lambda size: _patient_pairs(size, sets, rng),
        "accuracy 0.70 (discrete: at most 5)": lambda size: _right_pairs(size, sets, rng, 0.7, 0.7),
        "accuracy 0.85 (discrete: at most 5)": lambda size: _right_pairs(
            size, sets, rng, 0.85, 0.85
        ),
        "AUROC 0.85": lambda size: _ranked_pairs(size, sets, rng, 0.85, 0.85, 0.5),
        "AUROC 0.85, 20 % positive": lambda size: _ranked_pairs(size, sets, rng, 0.85, 0.85, 0.2),
    }
    _print_table("False positives: p <= 0.05 without a difference, %", none, _found, sets, 0.05)
    there = {
        "Dice, 0.02": lambda size: _dice_pairs(size, sets, rng, gain=0.02),
        "Dice, 0.05": lambda size: _dice_pairs(size, sets, rng, gain=0.05),
        "accuracy 0.85 and 0.90": lambda size: _right_pairs(size, sets, rng, 0.85, 0.9),
        "AUROC 0.80 and 0.90": lambda size: _ranked_pairs(size, sets, rng, 0.8, 0.9, 0.5),
    }
    _print_table("Power: p <= 0.05 where there is a difference, %", there, _found, sets, None)


def _print_families(sets: int, rng: Rng) -> None:
    """Four groups without a difference, each compared with the first."""
    print("### Four groups without a difference, each compared with the first, %\n")
    print(f"By chance {_range(0.05, sets)} where 5 is promised.\n")
    print("| any p <= 0.05 of three | " + " | ".join(f"n = {size}" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    raw, adjusted = [], []
    for size in SIZES:
        found = [
            [
                d.p_value
                for d in _compare(mean_score(_many_dice(size, rng), np.arange(size)), seed, 4)
            ]
            for seed in range(sets)
        ]
        raw.append(np.mean([min(p) <= 0.05 for p in found]))
        adjusted.append(np.mean([min(holm_adjusted(p)) <= 0.05 for p in found]))
    for name, shares in (("p as it is", raw), ("p by Holm", adjusted)):
        print(f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")
    print()


def _print_seeds(sets: int, rng: Rng) -> None:
    """Two methods that are equal but for the luck of their seeds."""
    print("### Two methods without a difference whose seeds spread, %\n")
    print(
        "400 images; the Dice of a trained model lies off that of its method by chance, with the"
        " deviation given.\nImages: p <= 0.05, these trained models differ (and they do). Seeds:"
        " Welch's interval leaves 0 out. Both: what the\nverdict `better` asks for.\n"
    )
    print("| seeds of each, deviation | images | seeds | both |\n|---|---|---|---|")
    for count, deviation in ((1, 0.01), (3, 0.01), (5, 0.01), (5, 0.0)):
        images, seeds, both = [], [], []
        for seed in range(sets // 2):
            luck = rng.normal(0, deviation, (2, count))
            hard = rng.beta(8, 1.5, 400)
            runs = hard + luck[..., None] + rng.normal(0, 0.05, (2, count, 400))  # (2, S, N)
            score = mean_score(runs.mean(axis=1).T, np.arange(400))
            by_images = _compare(score, seed)[0].p_value <= 0.05
            ends = seed_spread(*runs.mean(axis=2).tolist()).interval
            by_seeds = ends is not None and not ends[0] <= 0 <= ends[1]
            images.append(by_images)
            seeds.append(by_seeds)
            both.append(by_images and by_seeds)
        told = [f"{100 * np.mean(found):.1f}" for found in (images, seeds, both)]
        if count == 1:
            told[1:] = "-", "-"
        print(f"| {count}, {deviation} | " + " | ".join(told) + " |")
    print()


# ------------------------------------------------------------------ pairs of models


def _compare(score: PairedScore, seed: int, contenders: int = 2) -> list[PairedDifference]:
    pairs = [(0, other) for other in range(1, contenders)]
    return paired_differences(
        {"score": score},
        pairs,
        num_resamples=RESAMPLES,
        num_permutations=EXCHANGES,
        seed=seed,
    )["score"]


def _dice_pairs(
    size: int, sets: int, rng: Rng, *, gain: float
) -> Iterator[tuple[float, PairedDifference]]:
    for seed in range(sets):
        yield gain, _compare(mean_score(two_dice(size, rng, gain=gain), np.arange(size)), seed)[0]


def _many_dice(size: int, rng: Rng) -> Floats:
    hard = rng.beta(8, 1.5, size)
    return np.clip(hard[:, None] + rng.normal(0, 0.06, (size, 4)), 0, 1)


def _patient_pairs(size: int, sets: int, rng: Rng) -> Iterator[tuple[float, PairedDifference]]:
    """The difference of a patient's images is mostly the patient's."""
    for seed in range(sets):
        group = patients(size, rng)
        shared = rng.normal(0, 0.05, group.max() + 1)[group]
        values = of_patients(group, rng)
        other = values + shared + rng.normal(0, 0.02, size)
        yield 0.0, _compare(mean_score(np.stack([values, other], axis=1), group), seed)[0]


def _right_pairs(
    size: int, sets: int, rng: Rng, a: float, b: float
) -> Iterator[tuple[float, PairedDifference]]:
    for seed in range(sets):
        score = mean_score(two_right(size, rng, a=a, b=b), np.arange(size))
        yield b - a, _compare(score, seed)[0]


def _ranked_pairs(
    size: int, sets: int, rng: Rng, a: float, b: float, positives: float
) -> Iterator[tuple[float, PairedDifference]]:
    for seed in range(sets):
        values, target = two_ranked(size, rng, a=a, b=b, positives=positives)
        placed = np.stack([placements(values[:, k], target == 1) for k in range(2)], axis=1)
        yield b - a, _compare(auroc_score({1: placed}, target, np.arange(size)), seed)[0]


def _with_interval(
    found: Iterator[tuple[float, PairedDifference]],
) -> Iterator[tuple[float, Interval]]:
    for truth, difference in found:
        yield truth, difference.interval


# ------------------------------------------------------------------ tables


def _covered(truth: float, interval: Interval) -> bool:
    return interval is not None and interval[0] - 1e-12 <= truth <= interval[1] + 1e-12


def _found(_: float, difference: PairedDifference) -> bool:
    return difference.p_value <= 0.05


def _print_table(
    title: str,
    rows: dict[str, Callable[[int], Iterator[tuple[float, object]]]],
    hit: Callable[..., bool],
    sets: int,
    promised: float | None,
) -> None:
    print(f"### {title}\n")
    if promised is not None:
        print(f"By chance {_range(promised, sets)} where {100 * promised:.0f} is promised.\n")
    print("| data | " + " | ".join(f"n = {size}" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name, simulate in rows.items():
        shares = [np.mean([hit(*one) for one in simulate(size)]) for size in SIZES]
        print(
            f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |", flush=True
        )
    print()


def _range(share: float, sets: int) -> str:
    low, high = (stats.binom.ppf(tail, sets, share) / sets for tail in (0.025, 0.975))
    return f"{100 * low:.1f} to {100 * high:.1f}"


if __name__ == "__main__":
    main()
