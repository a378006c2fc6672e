"""Check that runs can be compared, and list what may make a comparison unfair."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from medvision.comparison.runs import ComparedRun, Group, Member
from medvision.console import counted
from medvision.errors import MedvisionError
from medvision.scores import score_at_file_size, scores_at

MOST_NAMES = 3

Keys = frozenset[tuple[str, str]]
"""Path and target of every test image."""


def require_comparable(groups: Sequence[Group]) -> None:
    """Raise an error if the scores of the runs are not comparable.

    Runs must have test predictions, all on real images or all on phantoms, and must share the
    protocol, the list of classes, the set of test images and the definition of the scores. Data
    that differ elsewhere (more training images) may be compared if the summaries identify the test
    images; otherwise all data must be the same.

    Raises:
        MedvisionError: If they differ, naming the runs and the differences.
    """
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        _require_predictions(run)
    known = all(run.dataset.get("test_fingerprint") for run in runs)
    differences = [
        *_unlike(
            runs,
            "synthetic images beside real ones",
            lambda run: bool(run.dataset.get("synthetic")),
            lambda synthetic: "synthetic" if synthetic else "real",
        ),
        *_unlike(runs, "the protocols differ", lambda run: run.protocol, str),
        *_unlike(runs, "the classes differ", lambda run: tuple(run.class_names), ", ".join),
        *_unlike(
            runs,
            "the scores are defined differently (metric_definitions)",
            lambda run: run.summary.get("metric_definitions", 1),
            lambda version: f"version {version}",
        ),
        *([] if known else _unlike(runs, "the data differ", _fingerprint, str)),
    ]
    if differences:
        raise MedvisionError(
            f"cannot compare: {'; '.join(differences)}",
            where="RUN",
            hint="compare runs that agree in this",
        )
    _require_one_test_set(groups)


def sides(
    groups: Sequence[Group], value_of: Callable[[ComparedRun], Hashable]
) -> dict[Any, list[int | str]]:
    """Map each value to the groups that have it, or to single runs if a group is divided."""
    found: dict[Any, list[int | str]] = {}
    for number, group in enumerate(groups, start=1):
        values = [value_of(run) for run in group.runs]
        if len(set(values)) == 1:
            found.setdefault(values[0], []).append(number)
            continue
        for value, run in zip(values, group.runs, strict=True):
            found.setdefault(value, []).append(f"{run.name} of group {number}")
    return found


def names(members: Sequence[int | str]) -> str:
    """List groups by number, then single runs by name."""
    groups = [str(member) for member in members if isinstance(member, int)]
    runs = [member for member in members if isinstance(member, str)]
    shown = [
        *runs[:MOST_NAMES],
        *([f"{len(runs) - MOST_NAMES} more runs"] * (len(runs) > MOST_NAMES)),
    ]
    named = [f"group{'s' * (len(groups) > 1)} {', '.join(groups)}"] if groups else []
    return ", ".join([*named, *shown])


def _require_predictions(run: ComparedRun) -> None:
    if run.sealed:
        raise MedvisionError(
            "the run has no test predictions: its test images are sealed, because the run is"
            " part of a hyper-parameter selection",
            where=str(run.folder),
            hint="train the chosen setting once more outside the search and compare that run",
        )
    if not run.predictions:
        raise MedvisionError(
            "the run has no test predictions",
            where=str(run.folder),
            hint="compare runs that tested their best checkpoint",
        )


def _unlike(
    runs: Sequence[ComparedRun],
    what: str,
    value_of: Callable[[ComparedRun], Hashable],
    words: Callable[[Any], str],
) -> list[str]:
    """Describe a difference and which runs have which value; empty if all runs agree."""
    found: dict[Any, list[str]] = {}
    for run in runs:
        found.setdefault(value_of(run), []).append(run.name)
    parts = (f"{words(value)} in {names(which)}" for value, which in found.items())
    return [f"{what}: {', '.join(parts)}"] if len(found) > 1 else []


def _fingerprint(run: ComparedRun) -> str:
    return f"fingerprint {str(run.dataset.get('fingerprint', 'unknown'))[:8]}"


def _require_one_test_set(groups: Sequence[Group]) -> None:
    """Check that paths, targets and (where known) contents of the test images are the same."""
    members = [member for group in groups for member in group.members]
    first, images = members[0], _images(members[0])
    for member in members[1:]:
        others = _images(member)
        if images != others:
            raise _other_images(first, images, member, others)
        contents = _contents(first), _contents(member)
        if contents[0] != contents[1] and None not in (*contents[0], *contents[1]):
            raise MedvisionError(
                "cannot compare: the test images have the same names but different contents"
                f" (test_fingerprint) in {_name(first)} and in {_name(member)}",
                where="RUN",
                hint="train both on the same files",
            )


def _images(member: Member) -> Keys:
    """Collect path and target of all test images.

    Raises:
        MedvisionError: If an image is tested twice.
    """
    rows = [(row["path"], row.get("target", "")) for run in member for row in run.predictions]
    if len({path for path, _ in rows}) < len(rows):
        many = len(rows) - len({path for path, _ in rows})
        raise MedvisionError(
            f"the predictions of {_name(member)} contain {counted(many, 'test image')} twice",
            where=str(member[0].folder / "predictions_test.csv"),
            hint="test every image once",
        )
    return frozenset(rows)


def _contents(member: Member) -> list[Any]:
    return sorted((run.dataset.get("test_fingerprint") for run in member), key=str)


def _name(member: Member) -> str:
    return member[0].name if len(member) == 1 else f"the {len(member)} folds of {member[0].name}"


def _other_images(first: Member, images: Keys, member: Member, others: Keys) -> MedvisionError:
    paths, other_paths = ({path for path, _ in keys} for keys in (images, others))
    shared = len(paths & other_paths)
    hint = "compare runs that were tested on the same images"
    if paths == other_paths:
        unlike = sorted(path for path, _ in images - others)
        return MedvisionError(
            f"cannot compare: the targets of {counted(len(unlike), 'test image')} differ between"
            f" {_name(first)} and {_name(member)}, such as {unlike[0]}",
            where="RUN",
            hint=hint,
        )
    only = sorted(paths ^ other_paths)[0]
    return MedvisionError(
        f"cannot compare: the test images differ: {len(paths)} in {_name(first)}, "
        f"{len(other_paths)} in {_name(member)}, {shared or 'none'} in both; {only} is in only one",
        where="RUN",
        hint=hint,
    )


def doubts(groups: Sequence[Group]) -> list[str]:
    """List reasons to doubt a comparison of these groups.

    Returns:
        One sentence for each: phantoms, data that differ outside the test images, the leak of the
        merged protocol, different image sizes, pooled and missing folds, groups of one seed, and
        seeds that a group contains twice.
    """
    runs = [run for group in groups for run in group.runs]
    drawn = "all images are generated by code; scores on them do not apply to patients"
    return [
        *([drawn] if any(run.dataset.get("synthetic") for run in runs) else []),
        *_differing(
            groups,
            "the test images are the same, but the other data differ",
            lambda run: str(run.dataset.get("fingerprint", "unknown")),
            lambda name: f"fingerprint {name[:8]}",
        ),
        *_merged(groups),
        *_sizes(groups),
        *_folds(groups),
        *_seeds(groups),
    ]


def image_size(run: ComparedRun) -> Any:
    """Height and width of the network input, in pixels."""
    return run.settings.get("data.image_size")


def _differing(
    groups: Sequence[Group],
    what: str,
    value_of: Callable[[ComparedRun], Hashable],
    words: Callable[[Any], str],
) -> list[str]:
    found = sides(groups, value_of)
    parts = (f"{words(value)} in {names(which)}" for value, which in found.items())
    return [f"{what}: {'; '.join(parts)}"] if len(found) > 1 else []


def _merged(groups: Sequence[Group]) -> list[str]:
    merged = sides(groups, lambda run: run.protocol).get("merged")
    if merged is None:
        return []
    return [
        f"data leakage by the merged protocol in {names(merged)}: images of one patient and"
        " near-duplicates can be in both train and test"
    ]


def _sizes(groups: Sequence[Group]) -> list[str]:
    found = _differing(
        groups,
        "the image sizes differ",
        image_size,
        lambda size: "unknown" if size is None else f"{size} px",
    )
    task = groups[0].runs[0].task
    leading = next((score for score in scores_at("comparison", task) if score.per_image), None)
    if leading is None or score_at_file_size(leading.name, task) is None:
        return found
    basis = f"the verdict is based on {leading.title} at the size of the files"
    return [f"{note}; {basis}" for note in found]


def _folds(groups: Sequence[Group]) -> list[str]:
    """Describe how many folds are pooled, for the protocol kfold."""
    notes = []
    for number, group in enumerate(groups, start=1):
        folds = {run.fold for run in group.runs} - {None}
        if not folds:
            continue
        planned = group.runs[0].settings.get("data.folds")
        missing = planned is not None and len(folds) < int(planned)
        pooled = f"{len(folds)} of {planned} folds" if missing else counted(len(folds), "fold")
        note = f"group {number} pools {pooled}"
        if group.runs[0].classes:
            note += "; their AUROC ranks the probabilities of several models together"
        notes.append(note)
    return notes


def _seeds(groups: Sequence[Group]) -> list[str]:
    numbered = list(enumerate(groups, start=1))
    alone = [number for number, group in numbered if len(group.members) == 1]
    notes = []
    if alone:
        notes.append(f"only one seed, so no spread over seeds, in {names(alone)}")
    for number, group in numbered:
        if group.repeated_seeds:
            seeds = ", ".join(map(str, group.repeated_seeds))
            notes.append(
                f"more than one run has seed {seeds} in group {number}: no spread over seeds is"
                " given, and the mean counts each of these runs"
            )
    return notes
