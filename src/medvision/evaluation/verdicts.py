"""Who is better, for every pair of groups: numbers, and what they allow to say."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from medvision.evaluation.paired_images import PairedImages, read_pairs
from medvision.evaluation.run_groups import Group
from medvision.reports.verdict_words import LEVEL, claim_of, sentence_of

if TYPE_CHECKING:  # scipy loads when something is compared
    from medvision.metrics.differences import PairedDifference
    from medvision.metrics.seeds import SeedSpread

LONGEST_NAME = 48  # characters that a sentence can carry twice


def compare_pairs(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What ``comparison.json`` holds under ``pairs``; those with the first group come first.

    Groups are numbered from 1, and differences are those of ``b`` to ``a``. For every score:
    both values, ``difference`` with ``ci95``, ``p`` of ``num_permutations`` exchanges, ``p_holm``
    (adjusted over the comparisons with the first group; None for other pairs), ``p_holm_all``
    (adjusted over all pairs), ``probability_b_better``, ``standard_error`` over images,
    ``images_needed``, ``num_images``, ``num_units``, ``alike`` (no image differs), and ``seeds``
    with ``std_a``, ``std_b``, ``standard_error`` and ``ci95`` of the difference over seeds.

    The first score decides. ``verdict`` is

    - ``better``: a group wins, by images and by seeds;
    - ``better_model``: by images, and too few seeds tell the spread over them;
    - ``better_within_seeds``: by images, and other seeds may turn it around;
    - ``no_winner``: not by images;
    - ``alike``: no image differs;
    - ``unknown``: one independent unit, or a score that is undefined.

    By images means that p, adjusted by Holm, lies below 0.05 and that the interval leaves 0 out;
    by seeds, that Welch's interval does. ``winner`` is the number of the group that scored better
    in the first three cases; ``claim`` says who is better, ``sentence`` adds the numbers.

    Raises:
        MedvisionError: If predictions cannot be read.
    """
    if len(groups) < 2:
        return []
    images = read_pairs(groups)
    found = list(combinations(range(len(groups)), 2))  # those with the first group lead
    metrics = _metrics(groups, images, found)
    names = _names(groups)
    pairs = []
    for row, (a, b) in enumerate(found):
        pair: dict[str, Any] = {
            "a": a + 1,
            "b": b + 1,
            "num_seeds": [groups[a].num_seeds, groups[b].num_seeds],
            "grouped": images.grouped,
            "num_comparisons": len(groups) - 1 if a == 0 else len(found),
            "headline": next(iter(metrics), None),
            "metrics": {name: of_pairs[row] for name, of_pairs in metrics.items()},
        }
        pair["verdict"], pair["winner"] = _verdict(pair)
        synthetic = any(run.dataset.get("synthetic") for run in groups[a].runs)
        pair["claim"] = claim_of(pair, (names[a], names[b]))
        pair["sentence"] = sentence_of(
            pair, (names[a], names[b]), task=groups[0].runs[0].task, synthetic=synthetic
        )
        pairs.append(pair)
    return pairs


def _metrics(
    groups: Sequence[Group], images: PairedImages, pairs: Sequence[tuple[int, int]]
) -> dict[str, list[dict[str, Any]]]:
    """For every score what is told of each pair."""
    from medvision.metrics.differences import holm_adjusted, paired_differences
    from medvision.metrics.seeds import seed_spread

    if not images.scores:
        return {}
    num_first = len(groups) - 1
    metrics = {}
    for name, found in paired_differences(images.scores, pairs).items():
        of_first = holm_adjusted([difference.p_value for difference in found[:num_first]])
        of_all = holm_adjusted([difference.p_value for difference in found])
        metrics[name] = [
            _metric(
                difference,
                seed_spread(*(_seed_values(groups[g], images.of_seeds[name][g]) for g in pair)),
                of_first[row] if row < num_first else None,
                of_all[row],
            )
            for row, (difference, pair) in enumerate(zip(found, pairs, strict=True))
        ]
    return metrics


def _seed_values(group: Group, values: Sequence[float]) -> Sequence[float]:
    """None of them tells a spread where two runs share a seed."""
    return values[:1] if group.repeated_seeds else values


def _metric(
    found: "PairedDifference", seeds: "SeedSpread", p_holm: float | None, p_holm_all: float
) -> dict[str, Any]:
    return {
        "a": found.a,
        "b": found.b,
        "difference": found.difference,
        "ci95": None if found.interval is None else list(found.interval),
        "p": found.p_value,
        "p_holm": p_holm,
        "p_holm_all": p_holm_all,
        "num_permutations": found.num_permutations,
        "probability_b_better": found.probability_better,
        "standard_error": found.standard_error,
        "images_needed": found.images_needed,
        "num_images": found.num_images,
        "num_units": found.num_units,
        "alike": found.alike,
        "seeds": {
            "std_a": seeds.std_a,
            "std_b": seeds.std_b,
            "standard_error": seeds.standard_error,
            "ci95": None if seeds.interval is None else list(seeds.interval),
        },
    }


def _verdict(pair: dict[str, Any]) -> tuple[str, int | None]:
    found = pair["metrics"].get(pair["headline"])
    if found is None or found["ci95"] is None:
        return "unknown", None
    if found["alike"]:
        return "alike", None
    p = found["p_holm_all"] if found["p_holm"] is None else found["p_holm"]
    if p >= LEVEL or not _apart(found["ci95"]):
        return "no_winner", None
    winner = pair["b"] if found["difference"] > 0 else pair["a"]
    ends = found["seeds"]["ci95"]
    if ends is None:
        return "better_model", winner
    return ("better" if _apart(ends) else "better_within_seeds"), winner


def _apart(ends: Sequence[float]) -> bool:
    """Whether 0 lies outside."""
    return ends[0] > 0 or ends[1] < 0


def _names(groups: Sequence[Group]) -> list[str]:
    """The experiment where it tells the groups apart, else the label, or its number."""
    experiments = [group.runs[0].experiment for group in groups]

    def name(number: int, group: Group) -> str:
        if experiments.count(experiments[number - 1]) == 1:
            return experiments[number - 1]
        return group.label if len(group.label) <= LONGEST_NAME else f"group {number}"

    return [name(number, group) for number, group in enumerate(groups, start=1)]
