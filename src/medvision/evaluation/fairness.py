"""Where a comparison of runs may not be fair."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from medvision.evaluation.finished_runs import FinishedRun
from medvision.evaluation.run_groups import Group

MOST_NAMES = 3


def doubts(groups: Sequence[Group]) -> list[str]:
    """What a reader should know before comparing the scores of these groups.

    Returns:
        A sentence for each: other data, other test images, other classes, another protocol,
        another image size, images drawn by code, the leak of the merged protocol, runs without
        a test, groups of one seed, and seeds that a group holds twice.
    """
    runs = [run for group in groups for run in group.runs]
    return [
        *_synthetic(groups),
        *_differing(groups, "the classes differ", _class_names, ", ".join),
        *_differing(
            groups, "the data differ", _fingerprint, lambda name: f"fingerprint {name[:8]}"
        ),
        *_test_images(groups),
        *_differing(
            groups, "the protocols differ", lambda run: run.dataset.get("protocol"), _plain
        ),
        *_merged(groups),
        *_differing(
            groups, "the image sizes differ", lambda run: run.settings.get("data.image_size"), _px
        ),
        *_seeds(groups),
        *(f"{run.name} has no test predictions" for run in runs if run.test_images is None),
    ]


def _fingerprint(run: FinishedRun) -> str:
    return str(run.dataset.get("fingerprint", "unknown"))


def _class_names(run: FinishedRun) -> tuple[str, ...]:
    return tuple(run.files.class_names)


def _plain(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _px(value: Any) -> str:
    return f"{_plain(value)} px"


def _sides(
    groups: Sequence[Group], value_of: Callable[[FinishedRun], Hashable]
) -> dict[Any, list[int | str]]:
    """Each value, and the numbers of the groups that have it; of a divided group its runs."""
    sides: dict[Any, list[int | str]] = {}
    for number, group in enumerate(groups, start=1):
        values = [value_of(run) for run in group.runs]
        if len(set(values)) == 1:
            sides.setdefault(values[0], []).append(number)
            continue
        for value, run in zip(values, group.runs, strict=True):
            sides.setdefault(value, []).append(f"{run.name} of group {number}")
    return sides


def _names(members: Sequence[int | str]) -> str:
    """Groups by number, then single runs by name."""
    groups = [str(member) for member in members if isinstance(member, int)]
    runs = [member for member in members if isinstance(member, str)]
    shown = [
        *runs[:MOST_NAMES],
        *([f"{len(runs) - MOST_NAMES} more runs"] * (len(runs) > MOST_NAMES)),
    ]
    named = [f"group{'s' * (len(groups) > 1)} {', '.join(groups)}"] if groups else []
    return ", ".join([*named, *shown])


def _differing(
    groups: Sequence[Group],
    what: str,
    value_of: Callable[[FinishedRun], Hashable],
    words: Callable[[Any], str],
) -> list[str]:
    sides = _sides(groups, value_of)
    if len(sides) < 2:
        return []
    return [f"{what}: " + "; ".join(f"{words(v)} in {_names(names)}" for v, names in sides.items())]


def _test_images(groups: Sequence[Group]) -> list[str]:
    sides = _sides(groups, lambda run: run.test_images)
    sides.pop(None, None)
    if len(sides) < 2:
        return []
    shared = len(frozenset.intersection(*sides))
    parts = "; ".join(f"{len(paths)} in {_names(names)}" for paths, names in sides.items())
    return [
        f"the test images differ: {parts}; {shared or 'no'} paths are in all of them;"
        " scores on different images cannot be compared"
    ]


def _synthetic(groups: Sequence[Group]) -> list[str]:
    sides = _sides(groups, lambda run: bool(run.dataset.get("synthetic")))
    if True not in sides:
        return []
    if len(sides) == 1:
        return ["every image is drawn by code; scores on them say nothing about patients"]
    return [
        f"images drawn by code in {_names(sides[True])}, real ones in {_names(sides[False])}:"
        " their scores have nothing to do with each other"
    ]


def _merged(groups: Sequence[Group]) -> list[str]:
    merged = _sides(groups, lambda run: run.dataset.get("protocol")).get("merged")
    if merged is None:
        return []
    return [
        f"the merged protocol leaks in {_names(merged)}: images of one patient and near-duplicates"
        " lie in train and in test"
    ]


def _seeds(groups: Sequence[Group]) -> list[str]:
    numbered = list(enumerate(groups, start=1))
    alone = [number for number, group in numbered if len(group.runs) == 1]
    notes = []
    if alone:
        notes.append(f"one seed alone, so no spread over seeds, in {_names(alone)}")
    for number, group in numbered:
        if group.repeated_seeds:
            seeds = ", ".join(map(str, group.repeated_seeds))
            notes.append(
                f"more than one run has seed {seeds} in group {number}: no spread over seeds is"
                " given, and the mean counts each of these runs"
            )
    return notes
