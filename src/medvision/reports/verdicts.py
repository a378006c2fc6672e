"""Verdicts of a comparison in sentences, and formatting of their numbers."""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from medvision.scores import named_scores, score_named

Pair = Mapping[str, Any]
"""One entry of ``pairs`` in ``comparison.json``."""

LEVEL = 0.05  # significance level of p


def claim_of(pair: Pair, names: Sequence[str], *, task: str) -> str:
    """State which of two groups is better, without numbers and without a full stop.

    Args:
        pair: Pair with verdict and winner.
        names: Names of A and B.
        task: Kind of the task.
    """
    a, b = names
    first, second = (a, b) if a_scored_better(pair, task) else (b, a)
    return {
        "better": f"{_capital(first)} is better than {second}",
        "better_model": f"The trained model of {first} is better than that of {second}",
        "better_within_seeds": f"The trained models of {first} score better than those of {second}",
        "alike": f"No difference between {a} and {b}",
        "unknown": f"No winner can be determined between {a} and {b}",
        "no_winner": f"No winner between {a} and {b}",
    }[pair["verdict"]]


def sentence_of(pair: Pair, names: Sequence[str], *, task: str, synthetic: bool = False) -> str:
    """State the conclusion from a pair, in one to three sentences.

    Args:
        pair: Pair with verdict and winner.
        names: Names of A and B.
        task: Kind of the task.
        synthetic: If True, the images are phantoms.
    """
    claim, headline, verdict = claim_of(pair, names, task=task), pair["headline"], pair["verdict"]
    if headline is None:
        return f"{claim}: no score is defined."
    found, score = pair["metrics"][headline], named_scores(task)[headline].title
    if verdict == "unknown":
        return (
            f"{claim}: {score} {found['a']:.3f} and {found['b']:.3f}, but no conclusion "
            f"about other images can be drawn from {_units(pair, found)}."
        )
    if verdict == "alike":
        images = f"{found['num_images']:,} test images"
        return f"{claim}: {score} {found['a']:.3f} for both, the same on each of {images}."
    turned = a_scored_better(pair, task)
    numbers = _numbers(pair, names, score, turned=turned, synthetic=synthetic)
    return f"{claim}: {numbers}.{_doubt(pair, names, turned=turned)}"


def _doubt(pair: Pair, names: Sequence[str], *, turned: bool) -> str:
    """Explain what limits or supports the verdict."""
    found, verdict = pair["metrics"][pair["headline"]], pair["verdict"]
    counts = f"{pair['num_seeds'][0]} and {pair['num_seeds'][1]}"
    if verdict == "better":
        return (
            f" Over the seeds ({counts}) the difference has a standard error of "
            f"{found['seeds']['standard_error']:.3f}, and its interval also excludes zero."
        )
    if verdict == "better_model":
        unknown = _unknown_spread(pair, found, names)
        return f" This compares trained models, not methods: {unknown}."
    if verdict == "better_within_seeds":
        low, high = _turned(found["seeds"]["ci95"], turned=turned)
        return (
            f" There is no winner between the methods: over the seeds ({counts}) the difference "
            f"lies between {low:+.3f} and {high:+.3f}, so other seeds may reverse it."
        )
    return _borderline(found) + _needed(found)


def probability_in_words(value: float | None) -> str:
    """Format with three decimals, never as 0 or 1."""
    if value is None:
        return "undefined"
    if value > 0.999:
        return "above 0.999"
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def p_in_words(value: float | None) -> str:
    """Format p with three decimals, or four if it is small."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def about(count: int) -> str:
    """Round to one significant digit: 1,234 is about 1,000."""
    digits = floor(log10(max(count, 1)))
    return f"{round(count, -digits):,}"


def _numbers(pair: Pair, names: Sequence[str], score: str, *, turned: bool, synthetic: bool) -> str:
    """List the numbers from the perspective of the group with the better score."""
    found = pair["metrics"][pair["headline"]]
    first, values = names[not turned], (found["b"], found["a"])
    difference, chance = found["difference"], found["probability_b_better"]
    if turned:
        values, difference, chance = values[::-1], -difference, 1 - chance
    low, high = _turned(found["ci95"], turned=turned)
    holm = found["p_holm_all"] if found["p_holm"] is None else found["p_holm"]
    adjusted = ""
    if pair["num_comparisons"] > 1:
        adjusted = f" ({p_in_words(holm)} by Holm, {pair['num_comparisons']} comparisons)"
    whom = "patients" if pair["grouped"] and not synthetic else "images"
    return (
        f"{score} {values[0]:.3f} against {values[1]:.3f}, difference {difference:+.3f} "
        f"(95 % interval {low:+.3f} to {high:+.3f}), permutation p {p_in_words(found['p'])}"
        f"{adjusted}; the probability that {first} is truly better on other {whom} like these is "
        f"{probability_in_words(chance)}"
    )


def a_scored_better(pair: Pair, task: str) -> bool:
    """Return True if A scored better, in which case A is named first."""
    found, score = pair["metrics"].get(pair["headline"]), score_named(str(pair["headline"]), task)
    if found is None or score is None:
        return False
    return bool(found["difference"] > 0 if score.better == "lower" else found["difference"] < 0)


def _unknown_spread(pair: Pair, found: Mapping[str, Any], names: Sequence[str]) -> str:
    """Name the group whose spread over seeds is unknown, and the spread of the other group."""
    few = [name for name, count in zip(names, pair["num_seeds"], strict=True) if count < 2]
    if len(few) == 2:
        return "with one seed each, other seeds may differ as much"
    known = found["seeds"]["std_b" if few[0] == names[0] else "std_a"]
    other = next(name for name in names if name != few[0])
    return (
        f"with one seed of {few[0]} its spread over seeds is unknown (that of {other} has a "
        f"standard deviation of {known:.3f})"
    )


def _borderline(found: Mapping[str, Any]) -> str:
    """Explain why there is no winner although one of the numbers suggests one."""
    apart = found["ci95"][0] > 0 or found["ci95"][1] < 0
    if apart and found["p"] < LEVEL:
        return (
            " On its own it would count as a difference; with so many comparisons it may be chance."
        )
    if apart or found["p"] < LEVEL:
        return " Interval and p disagree: a borderline case, counted as no difference."
    return ""


def _capital(name: str) -> str:
    """Capitalise words of this page only; names of experiments are unchanged."""
    return f"G{name[1:]}" if name.startswith("group ") else name


def _turned(ends: Sequence[float], *, turned: bool) -> tuple[float, float]:
    return (-ends[1], -ends[0]) if turned else (ends[0], ends[1])


def _units(pair: Pair, found: Mapping[str, Any]) -> str:
    """State the number of test images, and of their groups."""
    count, groups = found["num_images"], found["num_units"]
    images = "one test image" if count == 1 else f"{count:,} test images"
    return f"{images} in {groups:,} group{'s' * (groups != 1)}" if pair["grouped"] else images


def _needed(found: Mapping[str, Any]) -> str:
    needed = found["images_needed"]
    if needed is None or needed <= found["num_images"]:
        return ""
    return (
        f" To detect a true difference of this size in 8 of 10 such tests, about {about(needed)} "
        f"test images would be needed; there are {found['num_images']:,}."
    )
