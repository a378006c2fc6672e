"""Runs that are killed, or whose disk fails, before any of their file operations.

No finished file is lost, and no unfinished file looks finished: files under their final names are
complete, a run with the status finished has all of its files, and any other run resumes to the
same weights and scores or reports that it must be started again.
"""

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from faults import OF_SPACE, Ended, Fault, Operation, attempt, full, kill
from medvision.run import main
from whole_files import check_file

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "data.image_size=32",
    "data.num_images=30",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.max_epochs=2",
    "model.base_channels=2",
)
RECIPES = {
    "masks": ("experiment=polyp_unet",),
    "classes": ("experiment=chest_xray_cnn", "task.threshold=validation"),
}
FIRST_RESUMABLE = "run/summary.json"
"""File without which a run cannot be resumed."""

FEW = (
    "os.mkdir run/checkpoints",
    "os.rename run/checkpoints/.last.ckpt.*.tmp run/checkpoints/last.ckpt",
    "os.rename run/.report.html.*.tmp run/report.html",
)
"""Operations of three stages of a run, tried in every suite; all of them in the slow one."""


def train(*recipe: str) -> int:
    return main([*SMALL, *recipe, "run_dir=run"])


class Place:
    """Empty folder for one program, with its own caches and state."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.run = folder, folder / "run"

    def attempt(self, program: Callable[[], int], **options: object) -> Ended:
        def inside() -> int:
            os.environ["MEDVISION_STATE_DIR"] = str(self.folder / "state")
            os.environ["MEDVISION_CACHE_DIR"] = str(self.folder / "cache")
            return program()

        return attempt(inside, self.folder, self.folder, **options)  # type: ignore[arg-type]


def files_of(run: Path) -> set[str]:
    """Files under their final names."""
    found = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return {str(path) for path in found if not path.name.startswith(".")}


def check_left(run: Path, whole: Path) -> str:
    """Check the files of a run; return the status in its summary."""
    for name in files_of(run):
        check_file(run / name)
    if not (run / "summary.json").exists():
        return "never began"
    status = str(json.loads((run / "summary.json").read_text())["status"])
    if status == "finished":
        check_finished(run, whole)
    return status


def check_finished(run: Path, whole: Path) -> None:
    """Check that all files exist, with the weights, rows and scores of the run without a fault."""
    assert files_of(run) - {"traceback.txt"} == files_of(whole)
    for name in ("best", "last"):
        a, b = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for folder in (run, whole)
        )
        assert all(torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in b["state_dict"])
    for name in ("metrics.csv", "predictions_test.csv", "predictions_val.csv", "splits.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (run, whole))
    assert a["metrics"] == b["metrics"]
    assert a["status"] == b["status"] == "finished"


def check_resumed(place: Place, whole: Place, status: str) -> str:
    """Resume after a fault; return how the resumed run ended."""
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    ended = place.attempt(lambda: main(["resume=run"]))
    if ended.code == 0:
        check_finished(place.run, whole.run)
        hidden = {p.name for p in place.run.rglob(".*") if p.is_file()}
        assert not hidden - ({".lock"} if status == "finished" else set())
        return "was finished" if status == "finished" else "resumed"
    assert ended.code == 2, ended.err
    assert status == "never began"
    assert len(ended.errors) == 1
    assert ended.errors[0].endswith(("start the run again", "give a run folder"))
    assert before.items() <= {p: p.read_bytes() for p in before if p.exists()}.items()
    return "starts again"


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Place, Ended]]:
    """Run of a recipe without a fault, and its file operations."""
    made: dict[str, tuple[Place, Ended]] = {}

    def run(recipe: str) -> tuple[Place, Ended]:
        if recipe not in made:
            folder = tmp_path_factory.mktemp("imported")  # here, and not in every fork
            assert main([*SMALL, *RECIPES[recipe], f"run_dir={folder / 'run'}"]) == 0
            os.environ.pop("MEDVISION_RUN_DIR", None)
            place = Place(tmp_path_factory.mktemp("whole") / recipe)
            ended = place.attempt(partial(train, *RECIPES[recipe]))
            assert ended.code == 0, ended.err
            made[recipe] = place, ended
        return made[recipe]

    return run


def taken_away(operation: Operation) -> None:
    """Remove the run folder while it is written."""
    shutil.rmtree("run", ignore_errors=True)


def broken(operation: Operation) -> None:
    """Let every further disk access fail."""
    raise OSError(errno.EIO, os.strerror(errno.EIO), operation.paths[-1])


def read_only(operation: Operation) -> None:
    """Make the file system read-only."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), operation.paths[-1])


def try_one(
    place: Place, whole: Place, recipe: str, at: int, fault: Fault, *, stays: bool
) -> tuple[Ended, str]:
    """Run with a fault, check the files, and resume."""
    ended = place.attempt(partial(train, *RECIPES[recipe]), at=at, fault=fault, stays=stays)
    assert "Traceback" not in ended.err, ended.err
    status = check_left(place.run, whole.run)
    return ended, check_resumed(place, whole, status)


def numbers_of(operations: list[Operation], patterns: tuple[str, ...]) -> list[int]:
    """Numbers of the last operation that matches each pattern."""
    from fnmatch import fnmatch

    found = [
        [number for number, operation in enumerate(operations) if fnmatch(str(operation), pattern)]
        for pattern in patterns
    ]
    assert all(found), [p for p, numbers in zip(patterns, found, strict=True) if not numbers]
    return [numbers[-1] for numbers in found]


@pytest.mark.parametrize(
    "pattern", [pytest.param(pattern, marks=pytest.mark.slow) for pattern in (FEW[1], *FEW[::2])]
)
def test_a_killed_run_resumes_or_starts_again(
    tmp_path: Path, whole_of: Callable, pattern: str
) -> None:
    whole, ended = whole_of("masks")
    (at,) = numbers_of(ended.operations, (pattern,))
    killed, outcome = try_one(Place(tmp_path / "a"), whole, "masks", at, kill, stays=False)
    assert killed.code == -9
    early = at < numbers_of(ended.operations, (f"os.rename run/.* {FIRST_RESUMABLE}",))[0]
    assert outcome in ("starts again", "resumed") if early else outcome == "resumed"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_kill_before_any_operation(tmp_path: Path, whole_of: Callable, recipe: str) -> None:
    whole, ended = whole_of(recipe)
    outcomes: Counter[str] = Counter()
    for at, operation in enumerate(ended.operations):
        killed, outcome = try_one(Place(tmp_path / str(at)), whole, recipe, at, kill, stays=False)
        assert killed.code == -9
        outcomes[outcome] += 1
        print(f"{at:3d} {operation}: {outcome}")
    print(f"{recipe}, killed before each of {len(ended.operations)} operations: {dict(outcomes)}")
    assert outcomes["starts again"] <= 17  # the mark of the user's own runs is one of them
    assert outcomes.total() == len(ended.operations)


FAILURES: dict[str, tuple[Fault, tuple[str, ...] | None]] = {
    "full disk": (full, OF_SPACE),
    "broken disk": (broken, None),
    "read-only disk": (read_only, None),
}
WORDS = {
    "full disk": "o space left on",
    "broken disk": ("the disk failed", "Input/output error"),
    "read-only disk": ("the disk is read-only", "Read-only file system"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stays", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_the_disk_at_any_operation(
    tmp_path: Path, whole_of: Callable, failure: str, stays: bool
) -> None:
    whole, ended = whole_of("masks")
    fault, names = FAILURES[failure]
    outcomes: Counter[str] = Counter()
    for at, operation in enumerate(ended.operations):
        if names is not None and operation.name not in names:
            continue
        failed, outcome = try_one(Place(tmp_path / str(at)), whole, "masks", at, fault, stays=stays)
        print(f"{at:3d} {operation}: {failed.code} {failed.errors} {outcome}")
        check_line(failed, WORDS[failure])
        outcomes[f"{failed.code}, {outcome}"] += 1
    print(f"{failure}, stays={stays}: {dict(outcomes)}")


def check_line(failed: Ended, words: str | tuple[str, ...]) -> None:
    """Check that one line names the failure, unless the run does not need the failed file."""
    if failed.code == 0:
        assert not failed.errors
        return
    assert failed.code in (2, 3)
    (line,) = failed.errors
    assert any(word in line for word in ([words] if isinstance(words, str) else words)), line


@pytest.mark.slow
def test_a_run_folder_that_is_removed_at_any_operation(tmp_path: Path, whole_of: Callable) -> None:
    _, ended = whole_of("masks")
    operations = ended.operations
    first = numbers_of(operations, ("os.mkdir run/plots",))[0]
    outcomes: Counter[str] = Counter()
    for at in range(first + 1, len(operations)):
        place = Place(tmp_path / str(at))
        failed = place.attempt(partial(train, *RECIPES["masks"]), at=at, fault=taken_away)
        print(f"{at:3d} {operations[at]}: {failed.code} {failed.errors}")
        assert "Traceback" not in failed.err, failed.err
        if failed.code:
            assert len(failed.errors) == 1
            assert failed.code == 3
            assert not (place.run / "summary.json").exists()
        outcomes[str(failed.code)] += 1
    print(f"taken away: {dict(outcomes)}")


@pytest.mark.slow
def test_a_removed_run_folder_ends_in_one_line(tmp_path: Path, whole_of: Callable) -> None:
    _, ended = whole_of("masks")
    (at,) = numbers_of(ended.operations, ("open run/.metrics.csv.*.tmp",))
    place = Place(tmp_path / "a")
    failed = place.attempt(partial(train, *RECIPES["masks"]), at=at, fault=taken_away)
    assert failed.code == 3
    assert failed.errors == [
        "error: the run folder was removed during the run (run); start the run again"
    ]
    assert not place.run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["open run/.metrics.csv.*.tmp"])
def test_the_error_of_a_full_disk_names_the_command_to_resume(
    tmp_path: Path, whole_of: Callable, pattern: str
) -> None:
    whole, ended = whole_of("masks")
    (at,) = numbers_of(ended.operations, (pattern,))
    place = Place(tmp_path / "a")
    failed, outcome = try_one(place, whole, "masks", at, full, stays=True)
    assert outcome == "resumed"
    assert failed.code == 3
    name = pattern.split("/.")[1].removesuffix(".*.tmp")
    assert failed.errors == [
        f"error: no space left on the disk (run/{name}); free some space; then continue with"
        " python train.py resume=run"
    ]
