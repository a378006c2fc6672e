"""Broken class folders: an error is one line, and skipped files are counted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.errors import MedvisionError
from medvision.run import main
from medvision.run.config.compatibility import check_class_names

SMALL = (
    "experiment=chest_xray_cnn",
    "model.base_channels=2",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "logger=csv",
    "data.image_size=32",
    "data.batch_size=4",
    "data.num_workers=0",
)
TYPE = "not an image in a supported format: the file is text"
LAYOUT = "expected FOLDER/<class>/*, FOLDER/{train,val,test}/<class>/*, or FOLDER/splits.csv"
SPLIT = {
    "train/a": 12,
    "train/b": 12,
    **{f"{stage}/{name}": 4 for stage in ("val", "test") for name in "ab"},
}


def spoil(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes(b"x")


def copies(root: Path) -> None:
    """Make all images of all classes identical."""
    first, *others = sorted(root.rglob("*.png"))
    for other in others:
        shutil.copy(first, other)


def into_the_root(root: Path) -> None:
    for path in sorted(root.rglob("*.png")):
        path.rename(root / f"{path.parent.name}_{path.name}")
    for name in "ab":
        (root / name).rmdir()


Case = tuple[dict[str, int], Callable[[Path], object], str]

SPOILT: dict[str, Case] = {
    "a class without one good image": (
        {"a": 3, "b": 12},
        lambda root: spoil(root, *(f"a/case_{k:02d}.png" for k in range(3))),
        f"cannot use 3 of 15 images: a/case_00.png: {TYPE}, a/case_01.png: {TYPE},"
        f" a/case_02.png: {TYPE} (ROOT); fix or remove them, or set data.on_error=skip",
    ),
    "all images the same": (
        {"a": 12, "b": 12},
        copies,
        "too few groups for a split: 1, none left for test (data.val_fraction,"
        " data.test_fraction); add images, or set the fraction of an unneeded split to 0",
    ),
    "images in no class": (
        {"a": 2, "b": 2},
        into_the_root,
        "4 images outside the class folders: a_case_00.png, a_case_01.png, b_case_00.png,"
        f" b_case_01.png (ROOT); move or remove them: {LAYOUT}",
    ),
    "classes of one name": (
        {"A": 12, "a": 12},
        lambda root: None,
        "the classes A (12) and a (12) differ only by case or spaces (ROOT); did you mean A? give"
        " a class the same name everywhere",
    ),
    "broken images in given splits": (
        SPLIT,
        lambda root: spoil(root, "test/a/case_00.png", "val/b/case_01.png"),
        f"cannot use 2 of 40 images: test/a/case_00.png: {TYPE}, val/b/case_01.png: {TYPE}"
        " (ROOT); fix or remove them, or set data.on_error=skip",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_broken_folder_ends_in_one_line_and_leaves_nothing(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_class_folder: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    counts, change, line = SPOILT[case]
    root, workplace = make_class_folder(counts), tmp_path / "workplace"
    change(root)
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    assert main([*SMALL, f"data.root={root}"]) == 2
    captured = capfd.readouterr()
    assert captured.err.replace(str(root), "ROOT") == f"error: {line}\n"
    assert captured.out == ""
    assert not list(workplace.iterdir())


@pytest.mark.draws
@pytest.mark.parametrize(("stage", "lacking"), [("train", "val, test"), ("test", "train")])
def test_a_class_missing_from_a_split_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_class_folder: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    stage: str,
    lacking: str,
) -> None:
    counts = {f"{part}/b": 6 for part in ("train", "val", "test")}
    root = make_class_folder({f"{stage}/a": 1, **counts})
    monkeypatch.chdir(tmp_path)
    code = main([*SMALL, f"data.root={root}", "run_dir=run"])
    out, err = capfd.readouterr()
    if lacking == "train":
        assert code == 2
        assert err.startswith("error: test has the class a, but train does not (")
    else:
        assert code == 0
        for part in ("val", "test"):
            assert f"note: {part} has no image of a class that other splits contain: a; " in out
            assert f"{part} (6 images)" not in out


def test_files_skipped_in_validation_and_test_are_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_class_folder: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = make_class_folder(SPLIT)
    spoil(root, "test/a/case_00.png", "val/b/case_01.png")
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, f"data.root={root}", "data.on_error=skip", "run_dir=run"]) == 0
    skipped = (
        "SKIPPED 2 of 40 images (1 in test of class a, 1 in val of class b) because of"
        " data.on_error=skip:"
        f" test/a/case_00.png: {TYPE}, val/b/case_01.png: {TYPE}"
    )
    loudly = (
        "skipped 2 images of the given val and test splits: scores are not comparable"
        " with those on the whole splits"
    )
    out = capfd.readouterr().out
    summary = json.loads(Path("run/summary.json").read_text())
    report = Path("run/report.html").read_text()
    for note in (skipped, loudly):
        assert f"note: {note}" in out
        assert note in summary["warnings"]
        assert note in report
    assert summary["dataset"]["num_images"] == {"train": 24, "val": 7, "test": 7}


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)<",
        pytest.param("'\U0001f9e0' \"b\" error: c", marks=pytest.mark.slow),
    ],
)
def test_a_class_may_have_any_name_of_one_line(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_class_folder: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = make_class_folder({"a": 12})
    (root / name).mkdir()
    rng = np.random.default_rng(1)
    for index in range(12):
        image = rng.integers(0, 255, (40, 40), dtype=np.uint8)
        (root / name / f"d{index:02d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, f"data.root={root}", "run_dir=run"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert not any(line.startswith("error: ") for line in captured.out.splitlines())
    assert "<script" not in Path("run/report.html").read_text()
    with Path("run/predictions_test.csv").open(newline="") as stream:
        assert stream.readline().startswith("path,target")


def test_a_class_name_with_a_line_break_is_refused() -> None:
    with pytest.raises(MedvisionError, match="contains a line break") as refused:
        check_class_names(["a", "b\nerror: c"])
    assert refused.value.hint == "rename the class: its name must not contain a line break"
