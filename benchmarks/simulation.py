"""Check the coverage of intervals and p values on data whose truth is known.

    python benchmarks/simulation.py [--sets 1000] [--seed 0]

Prints tables in Markdown: how often 95 % intervals hold the true value, alone and for the
difference of two models on the same images; how often `medvision compare` finds a difference where
there is none, and where there is one. Above a table stands the range in which 95 of 100 of its
figures would lie if the promise held exactly. The test of two accuracies is exact, and accuracies
take few values: it stays below 5 %.
"""

import argparse
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from medvision.metrics import (
    calibration_intervals,
    classification_intervals,
    classification_scores,
    mean_interval,
    pooled_score_intervals,
)
from medvision.metrics.intervals import Interval, proportion_interval
from medvision.metrics.paired import (
    PairedDifference,
    PairedScore,
    auroc_score,
    holm_adjusted,
    mean_score,
    paired_differences,
    seed_spread,
)
from medvision.metrics.pooled_intervals import pooled_scores
from medvision.metrics.ranking import placements

Floats = NDArray[np.float64]
Rng = np.random.Generator
SIZES = (12, 30, 100, 624)
RESAMPLES, EXCHANGES = 1000, 399  # fewer than compare makes: a study of many data sets
TRUTH_SIZE = 2_000_000
LEVEL = 0.05
PARTS = ("means", "proportions", "classes", "agreement", "calibration", "pixels", "pairs")


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--sets", type=int, default=1000, help="data sets a figure")
    given = parser.parse_args()
    sets = given.sets
    print(f"`python benchmarks/simulation.py --seed {given.seed} --sets {sets}`")
    print(
        f"\nPython {platform.python_version()}, NumPy {np.__version__}; {sets} data sets a figure,"
    )
    print(f"with {RESAMPLES} resamples and {EXCHANGES} exchanges.")
    rng = np.random.default_rng(given.seed)
    alone = {
        "means": _means,
        "proportions": _proportions,
        "classes": _classes,
        "agreement": _agreements,
        "calibration": _calibration_errors,
        "pixels": _pixels,
    }
    chosen = [rows for part, rows in alone.items() if part in given.part]
    if chosen:
        _print_alone(sets, rng, chain(*(rows() for rows in chosen)))
    if "pairs" in given.part:
        _print_pairs(sets, rng)
        _print_families(sets, rng)
        _print_seeds(sets, rng)
    print(f"\n{time.process_time():.0f} s of one core.")


# ------------------------------------------------------------------ data whose truth is known


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


def patients(size: int, rng: Rng, *, half: bool = False) -> NDArray[np.intp]:
    """Patients of 1 to 5 images each, (N,); with ``half``, the first has half of the images."""
    of_first = size // 2 if half else 0
    number = np.repeat(np.arange(1, size + 1), rng.integers(1, 6, size))[: size - of_first]
    return np.concatenate([np.ones(of_first, np.intp), number + half]) - 1


def of_patients(group: NDArray[np.intp], rng: Rng, *, within: float = 0.04) -> Floats:
    """Dice of images of patients, most of whose spread lies between patients."""
    mean = rng.beta(12, 2.5, group.max() + 1)[group]
    return np.clip(mean + rng.normal(0, within, len(group)), 0, 1)


def many_dice(size: int, rng: Rng) -> Floats:
    """Dice of four models that are equally good, (N, 4)."""
    hard = rng.beta(8, 1.5, size)
    return np.clip(hard[:, None] + rng.normal(0, 0.06, (size, 4)), 0, 1)


# ------------------------------------------------------------------ one model

Cell = tuple[float, Interval, Interval]
"""True value, the interval, and that of a well-known method; NaN where there is none."""

Draw = Callable[[Rng], dict[str, Cell]]
"""Draws one data set and computes each of its scores."""

Row = tuple[str, int, Draw]
"""Data in words, number of images, and how it is drawn."""

NOTHING: Interval = (math.nan, math.nan)


def _print_alone(sets: int, rng: Rng, rows: Iterable[Row]) -> None:
    low, high = (100 * stats.binom.ppf(tail, sets, 0.95) / sets for tail in (0.025, 0.975))
    print("\n### One model: 95 % intervals of every score\n")
    print(
        f"By chance {low:.1f} to {high:.1f} where 95 is due. Too low, too high: the interval lies"
        " below or above the true\nvalue. Blank: no interval. Usual: Student's t for means, Clopper"
        " and Pearson's for proportions, DeLong's with a logit for\nAUROC, the binomial with a"
        " logit for average precision, a bootstrap's percentiles for other scores of two classes.\n"
    )
    print(
        "| score | data | images | covered | too low | too high | width | blank | usual: covered |"
        " width |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for data, size, draw in rows:
        found = [draw(rng) for _ in range(sets)]
        for score in found[0]:
            _print_cells(score, data, size, [cells[score] for cells in found])


def _print_cells(score: str, data: str, size: int, cells: Sequence[Cell]) -> None:
    truth, ends, usual = (np.array(part, np.float64) for part in zip(*cells, strict=True))
    known, other = ~np.isnan(ends[:, 0]), ~np.isnan(usual[:, 0])
    if (ends[known, 1] <= ends[known, 0]).any():
        raise SystemExit(f"an interval of no width: {score}, {data}, {size}")
    below, above = (
        ends[known, 1] < truth[known] - 1e-9,
        ends[known, 0] > truth[known] + 1e-9,
    )
    shown = ["-"] * 4
    if known.any():
        rates = (1 - (below | above).mean(), below.mean(), above.mean())
        shown = [f"{100 * rate:.1f}" for rate in rates]
        shown.append(f"{(ends[known, 1] - ends[known, 0]).mean():.3f}")
    reference = ["-", "-"]
    if other.any():
        held = np.abs(truth - usual.mean(1))[other] <= np.ptp(usual, 1)[other] / 2 + 1e-9
        reference = [
            f"{100 * held.mean():.1f}",
            f"{(usual[other, 1] - usual[other, 0]).mean():.3f}",
        ]
    blank = f"{100 * (~known).mean():.1f}"
    print(
        f"| {score} | {data} | {size} | {' | '.join(shown)} | {blank} | {' | '.join(reference)} |",
        flush=True,
    )


def _student(values: Floats) -> Interval:
    half = special.stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)


def _means() -> Iterator[Row]:
    def plain(size: int, sample: Callable[[int, Rng], Floats], truth: float) -> Draw:
        def draw(rng: Rng) -> dict[str, Cell]:
            values = sample(size, rng)
            return {"mean Dice": (truth, mean_interval(values), _student(values))}

        return draw

    def missing(share: float, of: Callable[[int, Rng], Floats]) -> Callable[[int, Rng], Floats]:
        return lambda size, rng: np.where(rng.random(size) < share, 0.0, of(size, rng))

    def wide(size: int, rng: Rng) -> Floats:
        return rng.beta(8, 1.5, size)

    def narrow(size: int, rng: Rng) -> Floats:
        return rng.beta(40, 4, size)

    tenths = np.round(np.random.default_rng(0).beta(8, 1.5, TRUTH_SIZE), 1).mean()
    kinds: dict[str, tuple[Callable[[int, Rng], Floats], float]] = {
        "none missed": (wide, 8 / 9.5),
        "none missed, all near 0.91": (narrow, 40 / 44),
        "5 % missed": (missing(0.05, wide), 0.95 * 8 / 9.5),
        "5 % missed, the others near 0.91": (missing(0.05, narrow), 0.95 * 40 / 44),
        "15 % missed": (missing(0.15, wide), 0.85 * 8 / 9.5),
        "ties: tenths": (lambda size, rng: np.round(rng.beta(8, 1.5, size), 1), float(tenths)),
        "all 1": (lambda size, _: np.ones(size), 1.0),
        "all 0": (lambda size, _: np.zeros(size), 0.0),
    }
    for name, (sample, truth) in kinds.items():
        for size in SIZES:
            yield name, size, plain(size, sample, truth)

    middle = float(of_patients(np.arange(TRUTH_SIZE), np.random.default_rng(0)).mean())

    def grouped(size: int, half: bool, missed: float, alike: bool) -> Draw:
        def draw(rng: Rng) -> dict[str, Cell]:
            group = patients(size, rng, half=half)
            values = of_patients(group if alike else np.arange(size), rng)
            values = np.where(rng.random(size) < missed, 0.0, values)
            ends = mean_interval(values, groups=group)
            return {"mean Dice": ((1 - missed) * middle, ends, _student(values))}

        return draw

    for half, words in ((False, "1 to 5 images a patient"), (True, "one patient has half")):
        for missed, alike, more in (
            (0.0, True, ""),
            (0.05, True, ", 5 % missed"),
            (0.0, False, ", images independent"),
        ):
            for size in SIZES:
                yield words + more, size, grouped(size, half, missed, alike)

    def distance(size: int, far: float) -> Draw:
        truth = (1 - far) * math.exp(1.8 + 0.32) + far * 125

        def draw(rng: Rng) -> dict[str, Cell]:
            near = np.exp(rng.normal(1.8, 0.8, size))
            values = np.where(rng.random(size) < far, rng.uniform(50, 200, size), near)
            values = np.minimum(values, 362)
            usual = _student(values)
            return {
                "HD95, px": (truth, mean_interval(values, upper=362), usual),
                "HD95, no bound": (truth, mean_interval(values, upper=None), usual),
            }

        return draw

    for far, words in ((0.0, "skewed"), (0.03, "3 % far off")):
        for size in SIZES:
            yield words, size, distance(size, far)


def _proportions() -> Iterator[Row]:
    def draw_of(size: int, middle: float, kind: str) -> Draw:
        def draw(rng: Rng) -> dict[str, Cell]:
            truth = rng.uniform(max(middle - 0.05, 0), min(middle + 0.05, 1))
            group = None if kind == "" else patients(size, rng, half=kind == "half")
            if group is None:
                right = rng.random(size) < truth
            else:
                chance = rng.beta(4 * truth, 4 * (1 - truth), group.max() + 1)
                right = rng.random(size) < chance[group]
            exact = stats.binomtest(int(right.sum()), size).proportion_ci(0.95, "exact")
            ends = proportion_interval(right, groups=group)
            return {"proportion": (truth, ends, (exact.low, exact.high))}

        return draw

    for size in (4, 10, 20, *SIZES):
        for middle in (0.5, 0.8, 0.95):
            yield f"near {middle}", size, draw_of(size, middle, "")
    for kind, words in (("some", "1 to 5 images a patient"), ("half", "one patient has half")):
        for size in SIZES:
            for middle in (0.8, 0.95):
                yield f"near {middle}, {words}", size, draw_of(size, middle, kind)


CELLS = (
    *((12, 4), (30, 4), (30, 10), (100, 4), (100, 10), (100, 20)),
    *((624, 10), (624, 20), (624, 312)),
)
"""Images and positives."""

OF_TWO = ("balanced_accuracy", "recall", "precision", "f1", "auroc", "average_precision")
AGREEMENT = ("mcc", "kappa")


def _classes() -> Iterator[Row]:
    for size, positives in CELLS:
        for near in (1.8, 3.0):
            words = f"{positives} positives, AUROC near {special.ndtr(near / 2**0.5):.2f}"
            yield words, size, _classifier(size, positives, near)
    for size, positives in CELLS:
        for right, words in ((True, "all right"), (False, "all wrong")):
            yield f"{positives} positives, {words}", size, _certain(size, positives, right=right)
    for size, positives in ((30, 10), (100, 10), (100, 20), (624, 20)):
        words, both = f"{positives} positives, ", ("auroc", "average_precision")
        yield (
            words + "probabilities in tenths",
            size,
            _classifier(size, positives, 1.8, steps=10, scores=["auroc"]),
        )
        yield (
            words + "5 % of them rank like negatives",
            size,
            _classifier(size, positives, 3.0, hidden=0.05, scores=["auroc"]),
        )
        yield (
            words + "1 to 5 images a patient",
            size,
            _classifier(size, positives, 1.8, grouped=True, scores=both),
        )
    for size in SIZES:
        yield "4 classes, 10 % to 40 %", size, _four_classes(size)


def _agreements() -> Iterator[Row]:
    for size, positives in CELLS:
        for near in (1.8, 3.0):
            words = f"{positives} positives, {100 * special.ndtr(near / 2):.0f} % right"
            yield words, size, _classifier(size, positives, near, scores=AGREEMENT)
    for size, positives in ((30, 10), (100, 10), (624, 10)):
        for right, words in ((True, "all right"), (False, "all wrong")):
            draw = _certain(size, positives, right=right, scores=AGREEMENT)
            yield f"{positives} positives, {words}", size, draw
    for size, positives in ((30, 10), (100, 20), (624, 20)):
        words = f"{positives} positives, 1 to 5 images a patient"
        yield words, size, _classifier(size, positives, 1.8, grouped=True, scores=AGREEMENT)
    for size in SIZES:
        yield "4 classes, 10 % to 40 %", size, _four_classes(size, scores=AGREEMENT)
        yield (
            "4 ordered classes, 10 % to 40 %",
            size,
            _four_classes(size, scores=AGREEMENT[1:], ordered=True),
        )


def _calibration_errors() -> Iterator[Row]:
    for kind in ("calibrated", "too confident by 3 points", "too confident", "underconfident"):
        for size in SIZES:
            yield kind, size, _calibrated(kind, size)
    for size in SIZES:
        words = "calibrated, 1 to 5 images a patient"
        yield words, size, _calibrated("calibrated", size, grouped=True)


def _classifier(
    size: int,
    positives: int,
    near: float,
    *,
    steps: int = 0,
    hidden: float = 0.0,
    grouped: bool = False,
    scores: Sequence[str] = OF_TWO,
) -> Draw:
    """Two classes of normal scores, whose distance is drawn within 0.3 of a value."""
    target = (np.arange(size) < positives).astype(np.int64)
    prevalence = positives / size
    axis = np.linspace(-8, 12, 4001)

    def truths(apart: float) -> dict[str, float]:
        right = float(special.ndtr(apart / 2))
        above, below = prevalence * special.ndtr(apart - axis), special.ndtr(-axis)
        density = np.exp(-((axis - apart) ** 2) / 2) / math.sqrt(2 * math.pi)
        precision = above / (above + (1 - prevalence) * below)
        found, false = prevalence * right, (1 - prevalence) * (1 - right)
        area = (1 - hidden) * float(special.ndtr(apart / 2**0.5)) + hidden / 2
        return {
            "balanced_accuracy": right,
            "recall": right,
            "precision": found / (found + false),
            "f1": 2 * found / (found + false + prevalence),
            **_true_agreement(prevalence, right),
            "auroc": _auroc_of_steps(apart, steps) if steps else area,
            "average_precision": float((precision * density).sum() * (axis[1] - axis[0])),
        }

    def draw(rng: Rng) -> dict[str, Cell]:
        apart = near + rng.uniform(-0.3, 0.3)
        raw = rng.normal(size=size)
        group = None
        if grouped:  # patients of one class, half of whose variance is shared
            others = size + patients(size - positives, rng)
            group = np.concatenate([patients(positives, rng), others])
            raw = (rng.normal(size=2 * size)[group] + raw) / 2**0.5
        raw += apart * target * (rng.random(size) >= hidden)
        positive = special.expit(raw - apart / 2)
        if steps:
            positive = np.round(positive * steps) / steps
        return _scored(truths(apart), positive, target, scores, rng, group)

    return draw


def _scored(
    truth: Mapping[str, float],
    positive: Floats,
    target: NDArray[np.int64],
    scores: Sequence[str],
    rng: Rng,
    group: NDArray[np.intp] | None = None,
) -> dict[str, Cell]:
    both = np.stack([1 - positive, positive], axis=1)
    found = classification_intervals(
        both, target, class_names=["n", "p"], groups=group, only=scores
    )
    return {
        score: (truth[score], found[score], _usual(score, positive, target, rng))
        for score in scores
    }


def _true_agreement(prevalence: float, right: float) -> dict[str, float]:
    """MCC and kappa of two classes that are recognised equally well."""
    others = 1 - prevalence
    predicted = prevalence * right + others * (1 - right)
    expected = prevalence * predicted + others * (1 - predicted)
    both = prevalence * others
    return {
        "mcc": both * (2 * right - 1) / math.sqrt(both * predicted * (1 - predicted)),
        "kappa": (right - expected) / (1 - expected),
    }


def _auroc_of_steps(apart: float, steps: int) -> float:
    edges = special.logit(np.clip((np.arange(1, steps + 1) - 0.5) / steps, 0, 1)) + apart / 2
    below = special.ndtr(np.concatenate([[-np.inf], edges, [np.inf]]))
    above = special.ndtr(np.concatenate([[-np.inf], edges, [np.inf]]) - apart)
    negative, positive = np.diff(below), np.diff(above)
    return float((positive * (below[:-1] + negative / 2)).sum())


def _certain(size: int, positives: int, *, right: bool, scores: Sequence[str] = OF_TWO) -> Draw:
    """A classifier that is always right, or always wrong."""
    target = (np.arange(size) < positives).astype(np.int64)
    # average precision is not 0 at worst
    scores = [score for score in scores if right or score != "average_precision"]
    truth = dict.fromkeys(OF_TWO, float(right)) | _true_agreement(positives / size, float(right))

    def draw(rng: Rng) -> dict[str, Cell]:
        positive = np.where((target == 1) == right, 0.9, 0.1) + rng.uniform(-0.05, 0.05, size)
        return _scored(truth, positive, target, scores, rng)

    return draw


def _usual(score: str, positive: Floats, target: NDArray[np.int64], rng: Rng) -> Interval:
    """A well-known method's interval."""
    z = 1.959964
    if score in ("auroc", "average_precision"):
        placed, positives = placements(positive, target == 1), int(target.sum())
        if score == "auroc":
            value = placed[target == 1].mean()
            parts = [placed[target == k] for k in (0, 1)]
            error = sum(part.var(ddof=1) / len(part) for part in parts) ** 0.5
        else:
            value = classification_scores(
                np.stack([1 - positive, positive], 1), target, class_names=["n", "p"]
            )[score]
            error = (value * (1 - value) / positives) ** 0.5
        if not 0 < value < 1:
            return NOTHING
        middle, reach = special.logit(value), z * error / (value * (1 - value))
        return float(special.expit(middle - reach)), float(special.expit(middle + reach))
    predicted = positive >= 0.5
    rows = rng.integers(len(target), size=(200, len(target)))
    labels, chosen = target[rows] == 1, predicted[rows]
    hits, found, there = (labels & chosen).sum(1), chosen.sum(1), labels.sum(1)
    size = len(target)
    with np.errstate(invalid="ignore"):
        recall = hits / there
        above = size * hits - found * there
        spreads = np.sqrt(1.0 * found * (size - found) * there * (size - there))
        values = {
            "recall": recall,
            "precision": hits / found,
            "f1": 2 * hits / (found + there),
            "mcc": above / spreads,
            "kappa": 2 * above / (found * (size - there) + there * (size - found)),
            "balanced_accuracy": (recall + (~labels & ~chosen).sum(1) / (~labels).sum(1)) / 2,
        }[score]
    defined = values[~np.isnan(values)]
    if not len(defined):
        return NOTHING
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


SHARES = np.array([0.4, 0.3, 0.2, 0.1])


def _four_classes(
    size: int,
    *,
    scores: Sequence[str] = ("balanced_accuracy", "precision", "specificity", "f1", "auroc"),
    ordered: bool = False,
) -> Draw:
    target = np.repeat(np.arange(4), np.diff(np.round(size * np.cumsum([0, *SHARES])).astype(int)))
    everyone = np.repeat(np.arange(4), (SHARES * TRUTH_SIZE / 5).astype(int))

    def predicted(labels: NDArray[np.intp], rng: Rng) -> Floats:
        values = rng.normal(size=(len(labels), 4)) + 1.7 * np.eye(4)[labels]
        return np.asarray(special.softmax(values, axis=1))

    probability = predicted(everyone, np.random.default_rng(0))
    options: Any = {"class_names": "abcd", "ordered": ordered}
    truth = classification_scores(probability, everyone, **options)

    def draw(rng: Rng) -> dict[str, Cell]:
        found = classification_intervals(predicted(target, rng), target, only=scores, **options)
        return {score: (truth[score], found[score], NOTHING) for score in scores}

    return draw


def _calibrated(kind: str, size: int, *, grouped: bool = False) -> Draw:
    def chance(said: Floats) -> Floats:
        return {
            "calibrated": said,
            "too confident by 3 points": 0.5 + 0.9 * (said - 0.5),
            "too confident": 0.5 + 0.7 * (said - 0.5),
            "underconfident": special.expit(1.7 * special.logit(said)),
        }[kind]

    everyone = np.random.default_rng(0).beta(0.6, 0.6, TRUTH_SIZE)
    confidence = np.maximum(everyone, 1 - everyone)
    place = np.digitize(confidence, np.arange(1, 15) / 15, right=True)
    truth = float(np.abs(np.bincount(place, chance(confidence) - confidence)).sum() / TRUTH_SIZE)

    def draw(rng: Rng) -> dict[str, Cell]:
        group = patients(size, rng) if grouped else None
        said = np.clip(rng.beta(0.6, 0.6, size), 1e-6, 1 - 1e-6)
        luck = rng.random(size)
        if group is not None:  # images of a patient are right or wrong together
            shared = rng.normal(size=size)[group]
            luck = special.ndtr((shared + rng.normal(size=size)) / 2**0.5)
        wins = luck < chance(np.maximum(said, 1 - said))
        target = (wins == (said >= 0.5)).astype(np.int64)
        both = np.stack([1 - said, said], axis=1)
        ends = calibration_intervals(both, target, groups=group)
        return {"ece": (truth, ends["ece"], NOTHING)}

    return draw


def _pixels() -> Iterator[Row]:
    def images(size: int, share: float, rng: Rng) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        area = np.minimum(rng.gamma(2, 200, size).astype(np.int64) + 1, 3000)
        area[rng.random(size) >= share] = 0
        ease = rng.beta(8, 2, size) * (rng.random(size) >= 0.05)  # 5 % are missed
        found = rng.binomial(area, ease)
        false = rng.binomial(4096 - area, rng.beta(1, 60, size))
        confusion = np.stack([[4096 - area - false, false], [area - found, found]])
        return np.moveaxis(confusion, -1, 0), np.moveaxis(confusion, -1, 0)

    def of(size: int, share: float, truth: Mapping[str, Floats]) -> Draw:
        def draw(rng: Rng) -> dict[str, Cell]:
            found = pooled_score_intervals(*images(size, share, rng))
            return {
                f"pixels: {score}": (float(truth[score]), ends, NOTHING)
                for score, ends in found.items()
            }

        return draw

    for share, words in ((1.0, "a lesion in each image"), (0.3, "a lesion in 30 %")):
        everyone = images(TRUTH_SIZE // 10, share, np.random.default_rng(0))
        truth = pooled_scores(*(counts.sum(0) for counts in everyone))
        for size in SIZES:
            yield words, size, of(size, share, truth)


# ------------------------------------------------------------------ two models


def _print_pairs(sets: int, rng: Rng) -> None:
    def dice_pair(size: int, gain: float) -> PairedScore:
        return mean_score(two_dice(size, rng, gain=gain), np.arange(size))

    def missing_pair(size: int) -> PairedScore:
        first = rng.beta(8, 1.5, size)
        second = np.where(rng.random(size) < 0.05, 0.0, first)
        return mean_score(np.stack([first, second], axis=1), np.arange(size))

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
        "Dice, one misses 5 % more": (-0.05 * 8 / 9.5, missing_pair),
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
        _print_row(name, [_covered(of, truth) for of in found])
        positives[name] = [[one.p_value <= LEVEL for one in of] for of in found]
    _print_head("False positives: p <= 0.05 without a difference, %", LEVEL, sets)
    _print_rows({name: positives[name] for name, (truth, _) in rows.items() if not truth})
    _print_head("Power: p <= 0.05 where there is a difference, %", None, sets)
    _print_rows({name: positives[name] for name, (truth, _) in rows.items() if truth})


# ------------------------------------------------------------------ several groups, several seeds


def _covered(found: Sequence[PairedDifference], truth: float) -> list[bool]:
    """Coverage where there is an interval."""
    return [_covers(one.interval, truth) for one in found if one.interval is not None]


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
    cells = " | ".join(f"{100 * np.mean(hits):.1f}" if hits else "-" for hits in found)
    print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
