"""Shortcut detection: test if file properties alone predict the class.

A network may then score by them. A decision tree of depth 3 is cross-validated, keeping
near-duplicates and groups together, so that it cannot score by memorising copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import Finding
from medvision.data.duplicates.search import join
from medvision.metrics.intervals import expanded_tail

MARGIN = 0.1
"""Margin above chance that a family's interval must exceed to count as predictive."""

NEAR_PERFECT = 0.9
"""Lower bound of the interval above which properties of the content are a warning as well.

A network can then be right for nine of ten images without the finding. Content alone may come
close: bytes per pixel tell pneumonia in 5840 chest X-rays with 0.83 (0.82 to 0.84), a note.
"""

MAX_IMAGES = 20_000
"""Images beyond this number are subsampled, because a small tree does not need more."""

MIN_CLASS_IMAGES = 20
"""Smallest number of images of a class that is evaluated; fewer give a noisy recall."""

_FOLDS = 5
_RESAMPLES = 1000
_ALL = "all together"
_MASK_CLASSES = ("empty mask", "foreground")
_CONTENT = {
    "border": "the outer 4 % on each side: black bars, frames, rulers, burned-in text",
    "bytes per pixel": "what compresses well or badly: bars, burned-in text, blur, noise",
}
"""Properties that may also depend on the anatomy, and where to look for another cause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Score of predicting the class from one family of properties.

    Attributes:
        features: The family, such as ``size``.
        balanced_accuracy: Mean recall over the classes, by cross-validation, [0, 1].
        ci95: Its 95 % bootstrap interval over groups.
        predicts: True if the interval's lower bound exceeds chance by more than ``MARGIN``.
    """

    features: str
    balanced_accuracy: float
    ci95: tuple[float, float]
    predicts: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortcuts:
    """Class prediction from file properties by a small tree.

    Attributes:
        class_names: Predicted classes.
        left_out: Classes with fewer than ``MIN_CLASS_IMAGES`` images.
        chance: Balanced accuracy of guessing, 1 / number of classes.
        num_images: Number of evaluated images.
        num_eligible: Number of images of those classes; more than ``num_images`` if sampled.
        scores: Score of each family that is not constant over all images, and of all combined.
        constant: Families that are constant over all images.
    """

    class_names: tuple[str, ...]
    left_out: tuple[str, ...]
    chance: float
    num_images: int
    num_eligible: int
    scores: tuple[Score, ...]
    constant: tuple[str, ...]

    @property
    def target(self) -> str:
        """Predicted target, in words."""
        of_masks = self.class_names == _MASK_CLASSES
        return "if the mask is empty" if of_masks else "the class"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "class_names": list(self.class_names),
            "left_out": list(self.left_out),
            "chance": self.chance,
            "margin": MARGIN,
            "folds": _FOLDS,
            "num_images": self.num_images,
            "num_eligible": self.num_eligible,
            "scores": [
                {
                    "features": score.features,
                    "balanced_accuracy": score.balanced_accuracy,
                    "balanced_accuracy_ci95": list(score.ci95),
                    "predicts": score.predicts,
                }
                for score in self.scores
            ],
            "constant": list(self.constant),
        }


def shortcut_scores(data: AuditedSet) -> Shortcuts | None:
    """Cross-validate a small tree on each family of file properties and on all combined.

    For segmentation, the classes are masks with and without foreground. The scores are
    deterministic.

    Returns:
        The scores, or None if fewer than two classes have ``MIN_CLASS_IMAGES`` images, or there are
        neither classes nor masks.
    """
    if not data.has_classes and not data.has_masks:
        return None
    labels, names = _labels(data)
    enough = np.flatnonzero(np.bincount(labels, minlength=len(names)) >= MIN_CLASS_IMAGES)
    if len(enough) < 2:
        return None
    rows = np.flatnonzero(np.isin(labels, enough))
    num_eligible = len(rows)
    if num_eligible > MAX_IMAGES:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MAX_IMAGES])
    classes = np.searchsorted(enough, labels[rows])
    groups = np.unique(_groups(data)[rows], return_inverse=True)[1]
    families = {name: values[rows] for name, values in _families(data).items()}
    constant = tuple(name for name, values in families.items() if not np.ptp(values, axis=0).any())
    varying = {name: values for name, values in families.items() if name not in constant}
    if len(varying) > 1:
        varying[_ALL] = np.concatenate(list(varying.values()), axis=1)
    chance = 1 / len(enough)
    fold = _folds(classes, groups)
    right = [_predicted(values, classes, fold) == classes for values in varying.values()]
    scores = [
        Score(features=name, balanced_accuracy=score, ci95=ci95, predicts=ci95[0] > chance + MARGIN)
        for name, (score, ci95) in zip(
            varying, _balanced_accuracies(right, classes, groups), strict=True
        )
    ]
    return Shortcuts(
        class_names=tuple(names[k] for k in enough),
        left_out=tuple(names[k] for k in range(len(names)) if k not in enough),
        chance=chance,
        num_images=len(rows),
        num_eligible=num_eligible,
        scores=tuple(scores),
        constant=constant,
    )


def shortcut_findings(shortcuts: Shortcuts | None) -> list[Finding]:
    """Report file properties that alone predict the class clearly above chance."""
    if shortcuts is None:
        return []
    found = sorted(
        (score for score in shortcuts.scores if score.predicts),
        key=lambda score: -score.balanced_accuracy,
    )
    if not found:
        return []
    certain = [score for score in found if score.ci95[0] >= NEAR_PERFECT]
    shown = [score for score in found if score.features != _ALL]
    if not shown or (certain and certain[0] not in shown):
        shown = found
    scores = ", ".join(
        f"{score.balanced_accuracy:.2f} ({score.ci95[0]:.2f} to {score.ci95[1]:.2f}) by"
        f" {score.features}"
        for score in shown
    )
    causes = {score.features for score in shown}
    if _ALL in causes:
        causes = {score.features for score in shortcuts.scores} - {_ALL}
    content = causes <= _CONTENT.keys()
    of = f" of {' and '.join(shortcuts.class_names)}" if shortcuts.left_out else ""
    others = (
        f" ({', '.join(shortcuts.left_out)} left out: fewer than {MIN_CLASS_IMAGES} images)"
        if shortcuts.left_out
        else ""
    )
    advice = (
        "a network can exploit them: find what differs between the sources of the images, store"
        " all alike, and compare its score with this one"
    )
    if content:
        advice = (
            "the image content may also cause this: compare the images of each, and compare the"
            " score of a network with this one"
        )
    if content and certain:
        places = "; ".join(f"{name}: {place}" for name, place in _CONTENT.items() if name in causes)
        advice = (
            f"compare images of each ({places}); crop or cover what does not belong to the finding,"
            " because a network learns it; if the anatomy itself differs, compare the score of a"
            " network with this one"
        )
    return [
        Finding(
            kind="shortcuts",
            severity="warning" if certain or not content else "note",
            text=f"file properties alone {'almost perfectly ' if certain else ''}predict"
            f" {shortcuts.target}{of}{others}: a small tree"
            f" reaches a balanced accuracy (95 % interval) of {scores}; chance is"
            f" {shortcuts.chance:.2f}",
            count=shortcuts.num_images,
            advice=advice,
        )
    ]


def _labels(data: AuditedSet) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if data.properties.mask is None:
        return data.labels, data.class_names
    return (data.properties.mask.foreground > 0).astype(np.int64), _MASK_CLASSES


def _groups(data: AuditedSet) -> NDArray[np.int64]:
    """Return groups of near-duplicates, joined if they share a given group."""
    groups = np.asarray(data.near_duplicates.groups, np.int64)
    named = np.flatnonzero(~data.samples.groups.equal(""))
    number = data.samples.groups.select(named).numbered()[1]
    first = np.unique(number, return_index=True)[1]
    return join(groups, groups[named], groups[named[first]][number])


def _families(data: AuditedSet) -> dict[str, NDArray[np.float64]]:
    """Return each family of features, (N, features)."""
    facts = data.properties
    height, width = facts.height.astype(np.float64), facts.width.astype(np.float64)
    formats = np.unique(facts.file_format)
    columns = {
        "size": np.stack([height, width], axis=1),
        "aspect ratio": (width / height)[:, None],
        "file format": facts.file_format[:, None] == formats,
        "JPEG quality": facts.jpeg_quality[:, None],
        "bit depth and colour": np.stack([facts.bits, facts.colour], axis=1),
        "bytes per pixel": (facts.num_bytes / (height * width))[:, None],
        "border": facts.border,
    }
    return {name: np.asarray(values, np.float64) for name, values in columns.items()}


def _folds(classes: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Assign whole groups to folds class by class, large groups first; return each image's fold.

    ``StratifiedGroupKFold`` of scikit-learn takes seconds for thousands of groups.
    """
    _, first, which, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    shuffled = np.random.default_rng(0).permutation(len(first))
    order = np.lexsort((shuffled, -sizes, classes[first]))
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % _FOLDS
    return fold[which]


def _predicted(
    values: NDArray[np.float64], classes: NDArray[np.int64], fold: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Predict the class of each image with a tree that was not trained on its fold."""
    from sklearn.tree import DecisionTreeClassifier

    predicted = np.full(len(classes), -1)
    for held_out in range(_FOLDS):
        seen = fold != held_out
        tree = DecisionTreeClassifier(
            max_depth=3,
            min_samples_leaf=max(5, len(classes) // 200),
            class_weight="balanced",
            random_state=0,
        )
        if seen.any() and not seen.all():
            predicted[~seen] = tree.fit(values[seen], classes[seen]).predict(values[~seen])
    return predicted


def _balanced_accuracies(
    right: list[NDArray[np.bool_]], classes: NDArray[np.int64], groups: NDArray[np.int64]
) -> list[tuple[float, tuple[float, float]]]:
    """Return the mean recall of each family and its 95 % bootstrap interval over groups."""
    num_groups, num_classes = int(groups.max()) + 1, int(classes.max()) + 1
    cells, num_cells = groups * num_classes + classes, num_groups * num_classes
    counts = [np.bincount(cells, minlength=num_cells).astype(float)]
    counts += [np.bincount(cells, weights=hits, minlength=num_cells) for hits in right]
    table = np.stack(counts).reshape(-1, num_groups, num_classes)
    rng = np.random.default_rng(0)
    means = np.empty((_RESAMPLES, len(right)))
    for draw in range(_RESAMPLES):
        weights = np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
        means[draw] = _mean_recalls(weights.astype(float) @ table)
    tail = expanded_tail(num_groups, 0.95)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    score = _mean_recalls(table.sum(axis=1))
    return [(float(score[k]), (float(low[k]), float(high[k]))) for k in range(len(right))]


def _mean_recalls(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the mean recall over the present classes, from totals (1, K) above hits (F, K)."""
    there = sums[0] > 0
    return np.asarray((sums[1:, there] / sums[0, there]).mean(axis=1), np.float64)
