import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree

import cv2
import numpy as np
import pytest
from rich.console import Console

from medvision.cli import program

MakeFolder = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medvision", "audit", *arguments])
        with pytest.raises(SystemExit) as ended:
            program.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def leaky(make_class_folder: MakeFolder) -> Path:
    """Two of four test images are in train: one unchanged, one with another class and format."""
    folders = {f"{s}/{c}": n for s, n in (("train", 8), ("test", 2)) for c in ("cat", "dog")}
    root = make_class_folder(folders, size_px=(64, 64))
    copyfile(root / "train/cat/case_00.png", root / "test/cat/case_00.png")
    image = cv2.imread(str(root / "train/cat/case_01.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(root / "test/dog/case_00.bmp"), image)
    (root / "test/dog/case_00.png").unlink()
    return root


def state_of(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_leaking_data_set_ends_with_1_and_is_unchanged(run_here: Run, leaky: Path) -> None:
    before = state_of(leaky)
    code, output, errors = run_here(str(leaky))
    assert (code, errors) == (1, "")
    words = " ".join(output.replace("│", " ").split())
    assert "set: classification, 20 images (train 16, test 4)" in words
    assert "leak 2 of 4 test images are identical to one in train" in words
    assert "test/cat/case_00.png, test/dog/case_00.bmp" in words
    assert "-> a score on them measures memorisation: data.protocol=grouped" in words
    assert "conflict 1 pair of identical images has contradicting classes" in words
    assert "A test score on this split is not valid: 2 of 4" in words
    assert "research use only" in words
    assert output.splitlines()[-2:] == ["audit/set/audit.json", "audit/set/audit.html"]
    assert state_of(leaky) == before
    content = json.loads(Path("audit/set/audit.json").read_text())
    assert content["exit_code"] == 1
    assert content["exact_duplicates"]["test_images_in_train"] == 2
    assert sorted(path.name for path in Path("audit/set").iterdir()) == ["audit.html", "audit.json"]
    page = Path("audit/set/audit.html").read_text()
    assert page.count("data:image/jpeg") >= 3
    assert "test/dog/case_00.bmp" in page.replace("<wbr>", "")


def test_the_audit_of_another_set_of_the_same_name_is_kept(
    run_here: Run, make_class_folder: MakeFolder, tmp_path: Path
) -> None:
    first = make_class_folder({"cat": 4, "dog": 4}, size_px=(64, 64))
    second = tmp_path / "other" / first.name
    copytree(first, second)
    assert run_here(str(first))[0] == 0
    before = Path("audit/set/audit.json").read_bytes()
    code, _, errors = run_here(str(second))
    assert (code, errors) == (
        2,
        f"error: contains the audit of another data set: {first} (audit/set); give a new folder"
        " with --out, or delete this one\n",
    )
    assert Path("audit/set/audit.json").read_bytes() == before
    assert run_here(f"{first}/../{first.name}")[0] == 0  # the same set again
    assert run_here(str(second), "--out", "audit/set")[0] == 0
    unnamed = json.loads(before) | {"roots": None}  # not known whose it is
    Path("audit/set/audit.json").write_text(json.dumps(unnamed))
    assert run_here(str(first))[0] == 0


def test_80_columns_are_enough(run_here: Run, leaky: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, output, _ = run_here(str(leaky), "--out", "o")
    assert max(map(len, output.splitlines())) <= 80
    assert "…" not in output


def test_a_clean_data_set_ends_with_0(run_here: Run, make_folder: MakeFolder) -> None:
    code, output, errors = run_here(str(make_folder(6)))
    assert (code, errors) == (0, "")
    assert "set: segmentation, 6 images, no split given" in output
    assert "each image left" in output
    assert "groups (patients)  none given" in output
    assert "there is no test split that could leak." in output


def test_the_source_and_number_of_groups_are_printed(
    run_here: Run, make_class_folder: MakeFolder
) -> None:
    root = make_class_folder({"a": 2, "b": 2})
    code, output, _ = run_here(str(root), r"data.group_pattern=a/case_(\d+)")
    assert code == 0
    assert "groups (patients)  2 with 2 of 4 images, from data.group_pattern" in output
    assert "no group (patient" not in output  # the note on the pattern says so


def test_two_folders_are_compared_with_each_other(
    run_here: Run, make_class_folder: MakeFolder
) -> None:
    one = make_class_folder({"a": 4, "b": 4}, name="one", size_px=(64, 64))
    other = make_class_folder({"a": 2, "b": 2}, name="two", size_px=(64, 64))  # the same images
    code, output, _ = run_here(str(one), "--against", str(other), "--out", "o")
    assert code == 1
    assert "one against two" in output
    assert "two/a/case_00.png" in output
    assert "two is not another set: 4 of its 4 images are near-duplicates of one in one" in output
    found = json.loads(Path("o/audit.json").read_text())
    assert found["num_images_by_split"] == {"train": 8, "test": 4}
    assert found["near_duplicates"]["pairs_across_splits"][0]["files"] == [
        "two/a/case_00.png",
        "one/a/case_00.png",
    ]


def test_a_comparison_does_not_replace_the_audit_of_the_first_set(
    run_here: Run, make_class_folder: MakeFolder
) -> None:
    one = make_class_folder({"a": 2, "b": 2}, name="one", size_px=(64, 64))
    other = make_class_folder({"a": 2, "b": 2}, name="two", size_px=(64, 64))
    run_here(str(one), "--against", str(other))
    assert [path.name for path in Path("audit").iterdir()] == ["one-against-two"]
    assert Path("audit/one-against-two/audit.html").is_file()


def test_only_an_earlier_audit_is_replaced(run_here: Run, leaky: Path) -> None:
    assert run_here(str(leaky), "--out", "o")[0] == 1
    first = json.loads(Path("o/audit.json").read_text())
    (leaky / "test/dog/case_00.bmp").unlink()
    assert run_here(str(leaky), "--out", "o")[0] == 1
    again = json.loads(Path("o/audit.json").read_text())
    assert (first["num_images"], again["num_images"]) == (20, 19)
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    code, _, errors = run_here(str(leaky), "--out", "mine")
    assert code == 2
    assert errors == "error: exists and is not empty (mine); give a new folder with --out\n"
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_results_inside_the_data_are_refused(run_here: Run, leaky: Path) -> None:
    before = state_of(leaky)
    code, _, errors = run_here(str(leaky), "--out", str(leaky / "train" / "new"))
    assert code == 2
    assert "the results would be inside the data set" in errors
    assert errors.count("\n") == 1
    assert state_of(leaky) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "Missing argument 'ROOT'", id="argument"),
        pytest.param(["none"], "the data folder does not exist (none)", id="root"),
        pytest.param(
            [".", "--out", "../o"], "expected images with masks, or at least two", id="neither"
        ),
        pytest.param([".", "--num-classes", "1"], "value for '--num-classes'", id="classes"),
        pytest.param([".", "--out", "/dev/null"], "expected a folder, got a file", id="out"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run_here: Run, arguments: list[str], message: str
) -> None:
    code, _, errors = run_here(*arguments)
    assert code == 2
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_errors_name_options_instead_of_config_keys(run_here: Run, leaky: Path) -> None:
    code, _, errors = run_here(str(leaky), "--group-pattern", "person")
    assert code == 2
    assert "expected one capture group, got 0 in person (--group-pattern)" in errors
    assert "data." not in errors


def test_no_torch_is_imported(tmp_path: Path, leaky: Path) -> None:
    code = (
        "import sys; sys.argv = ['medvision', 'audit', *sys.argv[1:]]\n"
        "from medvision.cli import main\n"
        "try: main()\n"
        "finally: print('LOADED', [m for m in ('torch', 'pytorch_lightning', 'matplotlib',"
        " 'albumentations') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(leaky), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_on_a_terminal_a_bar_counts_the_files(
    run_here: Run, leaky: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    consoles: list[Console] = []

    def terminal(*, stderr: bool = False) -> Console:
        consoles.append(Console(file=shown, force_terminal=stderr, width=100))
        return consoles[-1]

    monkeypatch.setattr("rich.console.Console", terminal)
    assert run_here(str(leaky), "--out", "o")[0] == 1
    assert "20/20" in shown.getvalue()
    assert "read" in shown.getvalue()


def test_an_unreadable_file_is_a_finding_and_does_not_abort(run_here: Run, leaky: Path) -> None:
    (leaky / "train/cat/broken.png").write_bytes(np.zeros(9, np.uint8).tobytes())
    code, output, _ = run_here(str(leaky))
    assert code == 1
    assert "train/cat/broken.png" in output
    stored = json.loads(Path("audit/set/audit.json").read_text())
    assert stored["unusable"] == [
        {"path": "train/cat/broken.png", "reason": "not an image in a supported format"}
    ]
