import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from faults import as_nobody
from medvision.cli import program

COMMAND = str(Path(sys.executable).parent / "medvision")
VERBS = ("train", "predict", "evaluate", "export", "compare", "audit", "data")


def medvision(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medvision", *arguments])
        with pytest.raises(SystemExit) as ended:
            program.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(tmp_path: Path, arguments: list[str]) -> None:
    done = medvision(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)
    assert "research use only" in done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "numpy", "cv2", "hydra", "omegaconf", "matplotlib", "jinja2", "scipy")
    code = (
        "import sys; sys.argv = ['medvision', *sys.argv[1:]]\n"
        "from medvision.cli import main\n"
        "try: main()\n"
        f"finally: print('LOADED', [m for m in {heavy} if m in sys.modules])"
    )
    for arguments in (["--help"], ["predict", "--help"], ["data", "list"]):
        started_s = time.perf_counter()
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == "LOADED []", arguments
        print(f"{arguments}: {time.perf_counter() - started_s:.2f} s")


def test_an_unknown_command_is_one_line(tmp_path: Path) -> None:
    done = medvision("trian", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such command 'trian'")
    assert done.stderr.count("\n") == 1


def test_train_passes_everything_on(tmp_path: Path) -> None:
    done = medvision("train", "experiment=polyp_unte", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean polyp_unet?" in done.stderr
    assert "Experiments" in medvision("train", "--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["predict", "none", "a.png", "--out", "o"], "no such file or folder", id="run"
        ),
        pytest.param(["predict", "none"], "Missing argument", id="argument"),
        pytest.param(
            ["predict", "none", "a.png"],
            "Missing option '--out' (command line); name a new folder, such as --out results; see",
            id="option",
        ),
        pytest.param(["audit", ""], "an argument is empty (command line)", id="empty"),
        pytest.param(["audit", "none", "--mask-suffix", ""], "does not exist (none)", id="suffix"),
        pytest.param(["evaluate", "."], "not a run folder", id="evaluate"),
        pytest.param(["evaluate", ".", "--split", "tset"], "'tset' is not one of", id="split"),
        pytest.param(
            ["export", "none", "--format", "torchscript"],
            "'torchscript' is not one of 'onnx', 'safetensors', 'web' (command line);"
            " see medvision export --help",
            id="format",
        ),
        pytest.param(["export", "none", "--format", "onnx"], "no such file or folder", id="export"),
        pytest.param(["compare", "none", "nothing"], "none", id="compare"),
        pytest.param(["data", "download", "kvasir", "--root", "r"], "kvasir_seg", id="data"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run_here: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, errors = run_here(*arguments)
    assert code == 2
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "verb",
    [
        ("evaluate", "{}"),
        ("predict", "{}", "a.png", "--out", "o"),
        ("export", "{}", "--format", "onnx"),
        ("compare", "{}", "none"),
        ("train", "resume={}"),
    ],
    ids=lambda verb: verb[0],
)
def test_a_folder_of_runs_is_answered_with_its_newest_run(
    run_here: Run, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    for number, name in enumerate(("new", "old")):
        run = tmp_path / "runs" / "polyp_unet" / name
        run.mkdir(parents=True)
        (run / "summary.json").write_text("{}")
        os.utime(run / "summary.json", (2e9 - number, 2e9 - number))
    for folder in ("runs/polyp_unet", "runs"):
        code, _, errors = run_here(*(part.format(folder) for part in verb))
        assert code == 2
        assert "; give one of the runs in it; the newest is runs/polyp_unet/new" in errors


def test_predicting_a_folder_with_a_broken_image_ends_with_1(
    run_here: Run, tmp_path: Path, finished: Path
) -> None:
    folder = tmp_path / "My images (2026)"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        cv2.imwrite(str(folder / name), np.full((50, 40, 3), 90, np.uint8))
    arguments = ("predict", str(finished), str(folder), "--probabilities", "--tta")
    code, output, errors = run_here(*arguments, "--out", "whole")
    assert (code, errors) == (0, "")
    assert "2 images in" in output
    assert "research use only" in output
    (folder / "c.png").write_text("broken")
    code, output, errors = run_here(*arguments, "--out", "part")
    assert code == 1
    assert errors.splitlines() == [
        f"not processed: {folder / 'c.png'}: not an image in a supported format: the file is text",
        "error: 1 of 3 images could not be processed (part/predictions.csv, column error);"
        " fix or remove them",
    ]
    for kind in ("masks", "overlays", "probabilities"):
        assert {path.name for path in (tmp_path / "part" / kind).iterdir()} == {"a.png", "b.png"}


def test_the_model_of_a_killed_run_is_used_and_that_is_said(
    run_here: Run, tmp_path: Path, finished: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "summary.json").read_text()
    (run / "summary.json").write_text(text.replace('"status": "finished"', '"status": "running"'))
    cv2.imwrite(str(tmp_path / "a.png"), np.full((50, 40, 3), 90, np.uint8))
    note = "note: the run has not finished: its status is interrupted; its best checkpoint so far"
    for arguments in (
        ("predict", "run", "a.png", "--out", "out"),
        ("export", "run", "--format", "safetensors", "--out", "out.safetensors"),
    ):
        code, output, errors = run_here(*arguments)
        assert (code, errors) == (0, "")
        assert note in output


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ("export run --format safetensors", "run/checkpoints"),
        ("export run --format safetensors --out closed/new/a.safetensors", "closed/new"),
        ("audit set --out closed/new", "closed/new"),
        ("compare run run --out closed", "closed"),
        ("data shard set closed/new", "closed"),
    ],
)
def test_a_read_only_folder_is_found_before_anything_is_computed(
    run_here: Run, tmp_path: Path, finished: Path, arguments: str, where: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for name in ("closed", "set/a", "set/b"):
        (tmp_path / name).mkdir(parents=True)
    with as_nobody(tmp_path / "mine"):
        code, _, errors = run_here(*arguments.split())
    assert code == 2
    assert errors.startswith(f"error: the folder is read-only ({where}); give ")


def test_a_list_whose_reader_has_ended_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [COMMAND, "data", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(b"error: no space left on the disk")


def test_on_a_terminal_a_bar_shows_rate_and_time_left(
    run_here: Run, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()

    def terminal(**options: object) -> Console:
        return Console(file=shown, force_terminal=True, width=120)

    for index in range(17):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((50, 40, 3), 90, np.uint8))
    monkeypatch.setattr("rich.console.Console", terminal)
    assert run_here("predict", str(finished), str(tmp_path), "--out", "out")[0] == 0
    assert "17/17" in shown.getvalue()
    assert "images/s" in shown.getvalue()
    assert "left" in shown.getvalue()


def test_a_bug_is_one_line_and_its_traceback_is_kept(
    run_here: Run, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("broke")

    monkeypatch.setattr("medvision.inference.load_model", fail, raising=False)
    code, _, errors = run_here("predict", str(finished), "x", "--out", "o")
    assert code == 3
    assert errors == "error: RuntimeError: broke; the traceback is in medvision_traceback.txt\n"
    assert "in fail" in (tmp_path / "medvision_traceback.txt").read_text()


def test_ctrl_c_is_one_line(run_here: Run, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medvision.inference.load_model", stop, raising=False)
    assert run_here("predict", str(finished), "x", "--out", "o") == (130, "", "interrupted\n")


def test_comparing_two_runs_prints_a_table_and_writes_a_page(
    run_here: Run, tmp_path: Path, train: Callable[..., Path]
) -> None:
    runs = [str(train("experiment=polyp_unet", "model.base_channels=2", f"seed={k}")) for k in "01"]
    code, output, errors = run_here("compare", *runs, "--out", "page")
    assert (code, errors) == (0, "")
    assert "polyp_unet" in output
    assert (tmp_path / "page" / "comparison.html").exists()


def test_the_catalogue_is_listed(run_here: Run) -> None:
    code, output, _ = run_here("data", "list")
    assert code == 0
    assert "kvasir_seg" in output


def test_inspect_says_how_a_folder_is_read_and_how_far_annotators_agree(
    run_here: Run, tmp_path: Path
) -> None:
    """Masks of 12 and of 6 columns in each image: Dice 2 * 6 / 18, IoU 6 / 12."""
    rng = np.random.default_rng(0)
    for number in range(4):
        name = f"set/Image_{number}L"
        (tmp_path / "set").mkdir(exist_ok=True)
        cv2.imwrite(f"{name}.jpg", rng.integers(0, 255, (20, 24, 3), np.uint8))
        for annotator, columns in (("1stHO", 12), ("2ndHO", 6)):
            mask = np.zeros((20, 24), np.uint8)
            mask[:, 4 : 4 + columns] = 255
            cv2.imwrite(f"{name}_{annotator}.png", mask)
    code, out, err = run_here("data", "inspect", "set")
    assert (code, out) == (2, "")
    assert err == (
        "error: each image has 2 masks: 1stHO, 2ndHO (set); set data.annotator=1stHO to read one of"
        " them, or data.mask_merge=majority or union to combine them\n"
    )
    code, out, err = run_here("data", "inspect", "set", "data.annotator=2ndHO")
    assert (code, err) == (0, "")
    rows = dict(line.strip().split(maxsplit=1) for line in out.splitlines()[1:])
    assert rows["task"] == "segmentation, 4 images"
    assert rows["pairs"] == "the mask of an image is that of 2ndHO"
    assert rows["agreement"] == "1stHO, 2ndHO: mean Dice 0.667, IoU 0.500 over 4 images"
    assert rows["example"] == "Image_0L.jpg -> Image_0L_2ndHO.png"
    assert rows["audit"].endswith("medvision audit set data.annotator=2ndHO")
    assert rows["train"].endswith("experiment=segmentation data.root=set data.annotator=2ndHO")


def test_inspect_shows_masks_that_a_training_would_refuse(run_here: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for name in "abc":
        cv2.imwrite(f"set/images/{name}.png", rng.integers(0, 255, (9, 8, 3), np.uint8))
        cv2.imwrite(f"set/masks/{name}.png", np.repeat([[0, 1, 2, 255]], 9, 0).astype(np.uint8))
    cv2.imwrite("set/masks/c.png", np.repeat([[0, 255]], 9, 0).astype(np.uint8))
    rows = [line.split(maxsplit=1) for line in run_here("data", "inspect", "set")[1].splitlines()]
    (unread,) = (text for name, *text in rows if name == "unread")
    assert unread[0].startswith(
        "masks/a.png: a mask of two classes contains the values 0, 1, 2, 255"
    )
    assert "set data.class_names, and data.ignore_index=255" in unread[0]
    keys = ("data.ignore_index=255", "data.class_names=[none,a,b,c]")
    assert "unread" not in run_here("data", "inspect", "set", *keys)[1]
