"""Where a comparison of runs that can be compared may still not be fair."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from medvision.evaluation.comparable import names, sides
from medvision.evaluation.finished_runs import FinishedRun
from medvision.evaluation.run_groups import Group


def doubts(groups: Sequence[Group]) -> list[str]:
    """What a reader should know before believing a comparison of these groups.

    Returns:
        A sentence for each: images drawn by code, other data than the test images, the leak of
        the merged protocol, another image size, pooled and missing folds, groups of one seed, and
        seeds that a group holds twice.
    """
    return [
        *_synthetic(groups),
        *_differing(
            groups,
            "the test images are the same, but the data differ",
            lambda run: str(run.dataset.get("fingerprint", "unknown")),
            lambda name: f"fingerprint {name[:8]}",
        ),
        *_merged(groups),
        *_sizes(groups),
        *_folds(groups),
        *_seeds(groups),
    ]


def image_size(run: FinishedRun) -> Any:
    """Height and width that the network sees, in pixels."""
    return run.settings.get("data.image_size")


def _differing(
    groups: Sequence[Group],
    what: str,
    value_of: Callable[[FinishedRun], Hashable],
    words: Callable[[Any], str],
) -> list[str]:
    found = sides(groups, value_of)
    if len(found) < 2:
        return []
    return [f"{what}: " + "; ".join(f"{words(v)} in {names(which)}" for v, which in found.items())]


def _synthetic(groups: Sequence[Group]) -> list[str]:
    if not any(run.dataset.get("synthetic") for group in groups for run in group.runs):
        return []
    return ["every image is drawn by code; scores on them say nothing about patients"]


def _merged(groups: Sequence[Group]) -> list[str]:
    merged = sides(groups, lambda run: run.protocol).get("merged")
    if merged is None:
        return []
    return [
        f"the merged protocol leaks in {names(merged)}: images of one patient and near-duplicates"
        " lie in train and in test"
    ]


def _sizes(groups: Sequence[Group]) -> list[str]:
    found = _differing(
        groups,
        "the image sizes differ",
        image_size,
        lambda size: "unknown" if size is None else f"{size} px",
    )
    if groups[0].runs[0].task == "segmentation":
        return [f"{note}; who is better is told by Dice at the size of the files" for note in found]
    return found


def _folds(groups: Sequence[Group]) -> list[str]:
    """How many folds are pooled, where the protocol is kfold."""
    notes = []
    for number, group in enumerate(groups, start=1):
        folds = {run.fold for run in group.runs} - {None}
        if not folds:
            continue
        planned = group.runs[0].settings.get("data.folds")
        missing = planned is not None and len(folds) < int(planned)
        note = f"{len(folds)}{f' of {planned}' * missing} folds are pooled in group {number}"
        if group.runs[0].task == "classification":
            note += "; their AUROC ranks the probabilities of several models together"
        notes.append(note)
    return notes


def _seeds(groups: Sequence[Group]) -> list[str]:
    numbered = list(enumerate(groups, start=1))
    alone = [number for number, group in numbered if len(group.members) == 1]
    notes = []
    if alone:
        notes.append(f"one seed alone, so no spread over seeds, in {names(alone)}")
    for number, group in numbered:
        if group.repeated_seeds:
            seeds = ", ".join(map(str, group.repeated_seeds))
            notes.append(
                f"more than one run has seed {seeds} in group {number}: no spread over seeds is"
                " given, and the mean counts each of these runs"
            )
    return notes
