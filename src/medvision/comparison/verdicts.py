"""Paired comparison of groups of runs, image by image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvision.comparison.caveats import image_size
from medvision.comparison.runs import Group, Member
from medvision.errors import MedvisionError
from medvision.reports.verdicts import LEVEL, a_scored_better, claim_of, sentence_of
from medvision.scores import score_at_file_size, scores_at

if TYPE_CHECKING:
    from medvision.metrics.paired import PairedDifference, PairedScore, SeedSpread


Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairedImages:
    """Scores of all groups on the same images.

    Attributes:
        scores: Paired scores by metric, the headline first; the contenders are the groups, in
            order.
        of_seeds: Scores of each group with each of its seeds, by metric.
        grouped: If True, some images belong to the same group.
    """

    scores: Mapping[str, "PairedScore"]
    of_seeds: Mapping[str, Sequence[Sequence[float]]]
    grouped: bool


def read_pairs(groups: Sequence[Group]) -> PairedImages:
    """Match the predictions of all runs by image, and average those of each group over its seeds.

    Groups of images come from the runs' splits.csv; images that any run keeps together stay
    together here. Classifiers are compared by accuracy and balanced accuracy of the classes that
    they predicted, with the threshold in use, and by AUROC (for three or more classes the mean of
    one-against-the-rest). Other models are compared by the scores of each image, at the original
    image size where input sizes differ and the score is available there.

    Args:
        groups: Groups accepted by ``require_comparable``.

    Raises:
        MedvisionError: If a table lacks a column or a value is not a number.
    """
    paths = [row["path"] for run in groups[0].members[0] for row in run.predictions]
    order = {path: place for place, path in enumerate(paths)}
    unit = _units(groups, order)
    read = _classified if groups[0].runs[0].classes else _measured
    scores, of_seeds = read(groups, order, unit)
    known = {name: score for name, score in scores.items() if not np.isnan(score.scores).any()}
    return PairedImages(
        scores=known,
        of_seeds={name: of_seeds[name] for name in known},
        grouped=bool(len(unit) and unit.max() + 1 < len(unit)),
    )


def _measured(
    groups: Sequence[Group], order: Mapping[str, int], unit: NDArray[np.intp]
) -> tuple[dict[str, "PairedScore"], dict[str, list[list[float]]]]:
    from medvision.metrics.paired import mean_score

    sizes = {repr(image_size(run)) for group in groups for run in group.runs}
    task = groups[0].runs[0].task
    scores, of_seeds = {}, {}
    for score in scores_at("comparison", task):
        if not score.per_image:
            continue
        name = score.name
        if len(sizes) > 1 and (at_file_size := score_at_file_size(name, task)) is not None:
            name = at_file_size.name
        values = [[_numbers(member, name, order) for member in group.members] for group in groups]
        scores[name] = mean_score(
            np.stack([np.mean(of, axis=0) for of in values], axis=1),
            unit,
            lower_is_better=score.better == "lower",
            in_unit_interval=score.bounded,
        )
        undefined = np.isnan([value for of in values for value in of]).any(axis=0)
        of_seeds[name] = [[float(v[~undefined].mean()) for v in of] for of in values]
    return scores, of_seeds


def _classified(
    groups: Sequence[Group], order: Mapping[str, int], unit: NDArray[np.intp]
) -> tuple[dict[str, "PairedScore"], dict[str, list[list[float]]]]:
    from medvision.metrics.paired import (
        auroc_score,
        balanced_accuracy_score,
        mean_score,
    )
    from medvision.metrics.ranking import class_ranks, placements

    classes = groups[0].runs[0].classes
    truth = _texts(groups[0].members[0], "target", order)
    target = np.array([classes.index(name) for name in truth])
    right, placed = [], []
    ranked = [1] if len(classes) == 2 else [k for k in range(len(classes)) if (target == k).any()]
    for group in groups:
        hits, places = [], []
        for member in group.members:
            hits.append(np.array(_texts(member, "predicted", order)) == np.array(truth))
            columns = [_numbers(member, f"probability/{name}", order) for name in classes]
            ranks_of = class_ranks(np.stack(columns, axis=1))
            places.append([placements(ranks_of[:, k], target == k) for k in ranked])
        right.append(np.array(hits, dtype=np.float64))  # (seeds, N)
        placed.append(np.array(places))  # (seeds, classes, N)

    def scores_of(hits: Sequence[Floats], places: Sequence[Floats]) -> dict[str, "PairedScore"]:
        """Build the scores of contenders from (N,) and (classes, N) each."""
        answers = np.stack(hits, axis=1)
        ranks = {k: np.stack([of[row] for of in places], axis=1) for row, k in enumerate(ranked)}
        return {
            "accuracy": mean_score(answers, unit),
            "balanced_accuracy": balanced_accuracy_score(answers, target, unit),
            "auroc": auroc_score(ranks, target, unit),
        }

    scores = scores_of([of.mean(axis=0) for of in right], [of.mean(axis=0) for of in placed])
    of_seeds: dict[str, list[list[float]]] = {name: [] for name in scores}
    for answers, ranks in zip(right, placed, strict=True):
        for name, score in scores_of(list(answers), list(ranks)).items():
            of_seeds[name].append([float(value) for value in score.scores])
    return scores, of_seeds


def _texts(member: Member, column: str, order: Mapping[str, int]) -> list[str]:
    """Read a column for all test images of a run, or of its folds, in one order."""
    found = [""] * len(order)
    for run in member:
        if column not in run.predictions[0]:
            raise MedvisionError(
                f"missing column {column}", where=str(run.folder / "predictions_test.csv")
            )
        for row in run.predictions:
            found[order[row["path"]]] = row[column]
    return found


def _numbers(member: Member, column: str, order: Mapping[str, int]) -> Floats:
    """Read a column as numbers; a blank cell (an undefined score) is NaN."""
    cells = _texts(member, column, order)
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError as error:
        raise MedvisionError(
            f"expected numbers in column {column}: {error}",
            where=str(member[0].folder / "predictions_test.csv"),
        ) from error


def _units(groups: Sequence[Group], order: Mapping[str, int]) -> NDArray[np.intp]:
    """Number the unit of each image, (N,); without known groups each image is its own unit.

    Groups may differ between runs, because each run joins the near-duplicates that it found:
    images connected by a chain of groups of any run form one unit.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = {tuple(_groups_of(member, order)) for group in groups for member in group.members}
    first: dict[tuple[int, str], int] = {}  # first image of each group
    joined = [
        (place, first.setdefault((number, name), place))
        for number, names in enumerate(known)
        for place, name in enumerate(names)
        if name
    ]
    ends = np.array(joined, dtype=np.intp).reshape(-1, 2).T
    shape = len(order), len(order)
    graph = coo_array((np.ones(len(joined), bool), (ends[0], ends[1])), shape=shape)
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _groups_of(member: Member, order: Mapping[str, int]) -> Iterable[str]:
    found = [""] * len(order)
    for run in member:
        own = {row["path"] for row in run.predictions}
        for row in run.splits:
            if row.get("split") == "test" and row["path"] in own:
                found[order[row["path"]]] = row.get("group") or ""
    return found


LONGEST_NAME = 48  # a sentence can contain two names of this length


def compare_pairs(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Build the entry ``pairs`` of ``comparison.json``; pairs with the first group come first.

    Groups are numbered from 1, and differences are ``b`` minus ``a``. For every score: both
    values, ``difference`` with ``ci95``, ``p`` of ``num_permutations`` exchanges, ``p_holm``
    (adjusted over the comparisons with the first group; None for other pairs), ``p_holm_all``
    (adjusted over all pairs), ``probability_b_better``, ``standard_error`` over images,
    ``images_needed``, ``num_images``, ``num_units``, ``alike`` (no image differs), and ``seeds``
    with ``std_a``, ``std_b``, ``standard_error`` and ``ci95`` of the difference over seeds.

    The first score decides. ``verdict`` is

    - ``better``: a group wins, by images and by seeds;
    - ``better_model``: by images, with too few seeds to know the spread over seeds;
    - ``better_within_seeds``: by images, but other seeds may reverse the result;
    - ``no_winner``: not by images;
    - ``alike``: no image differs;
    - ``unknown``: a single independent unit, or an undefined score.

    By images means that p, adjusted by Holm, is below 0.05 and that the interval excludes 0; by
    seeds, that Welch's interval excludes 0. ``winner`` is the number of the better group in the
    first three cases; ``claim`` states which group is better, ``sentence`` adds the numbers.

    Raises:
        MedvisionError: If predictions cannot be read.
    """
    if len(groups) < 2:
        return []
    images = read_pairs(groups)
    found = list(combinations(range(len(groups)), 2))  # pairs with the first group come first
    metrics = _metrics(groups, images, found)
    names, task = _names(groups), groups[0].runs[0].task
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
        pair["verdict"], pair["winner"] = _verdict(pair, task)
        synthetic = any(run.dataset.get("synthetic") for run in groups[a].runs)
        between = (names[a], names[b])
        pair["claim"] = claim_of(pair, between, task=task)
        pair["sentence"] = sentence_of(pair, between, task=task, synthetic=synthetic)
        pairs.append(pair)
    return pairs


def _metrics(
    groups: Sequence[Group], images: PairedImages, pairs: Sequence[tuple[int, int]]
) -> dict[str, list[dict[str, Any]]]:
    """Collect the reported values of each pair, for every score."""
    from medvision.metrics.paired import holm_adjusted, paired_differences, seed_spread

    if not images.scores:
        return {}
    num_first = len(groups) - 1
    metrics = {}
    for name, found in paired_differences(images.scores, pairs).items():
        of_first = holm_adjusted([difference.p_value for difference in found[:num_first]])
        of_all = holm_adjusted([difference.p_value for difference in found])
        metrics[name] = [
            {
                **_plain(difference),
                "p_holm": of_first[row] if row < num_first else None,
                "p_holm_all": of_all[row],
                "seeds": _plain(
                    seed_spread(*(_seed_values(groups[g], images.of_seeds[name][g]) for g in pair))
                ),
            }
            for row, (difference, pair) in enumerate(zip(found, pairs, strict=True))
        ]
    return metrics


def _seed_values(group: Group, values: Sequence[float]) -> Sequence[float]:
    """Return the values, or none if two runs share a seed: they then have no spread over seeds."""
    return values[:1] if group.repeated_seeds else values


NAMES = {"p_value": "p", "interval": "ci95", "probability_better": "probability_b_better"}
"""Names in ``comparison.json`` that differ from the fields of ``PairedDifference``."""


def _plain(found: "PairedDifference | SeedSpread") -> dict[str, Any]:
    """Convert to a dict with the names of ``comparison.json``, intervals as lists."""
    return {
        NAMES.get(name, name): list(value) if isinstance(value, tuple) else value
        for name, value in vars(found).items()
    }


def _verdict(pair: dict[str, Any], task: str) -> tuple[str, int | None]:
    found = pair["metrics"].get(pair["headline"])
    if found is None or found["probability_b_better"] is None:
        return "unknown", None
    if found["alike"]:
        return "alike", None
    p = found["p_holm_all"] if found["p_holm"] is None else found["p_holm"]
    if p >= LEVEL or not _apart(found["ci95"]):
        return "no_winner", None
    winner = pair["a"] if a_scored_better(pair, task) else pair["b"]
    ends = found["seeds"]["ci95"]
    if ends is None:
        return "better_model", winner
    return ("better" if _apart(ends) else "better_within_seeds"), winner


def _apart(ends: Sequence[float]) -> bool:
    """Return True if the interval excludes 0."""
    return ends[0] > 0 or ends[1] < 0


def _names(groups: Sequence[Group]) -> list[str]:
    """Name groups by experiment if that distinguishes them, else by label, or by number."""
    experiments = [group.runs[0].experiment for group in groups]

    def name(number: int, group: Group) -> str:
        if experiments.count(experiments[number - 1]) == 1:
            return experiments[number - 1]
        return group.label if len(group.label) <= LONGEST_NAME else f"group {number}"

    return [name(number, group) for number, group in enumerate(groups, start=1)]
