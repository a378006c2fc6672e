import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Trainer

import medvision.run.training.experiment as job
from medvision.callbacks import BestAndLast, Interruption
from medvision.comparison.compare import compare
from medvision.errors import Stopped
from medvision.export import export_model
from medvision.inference import load_model, predict_files
from medvision.run import main
from medvision.run.evaluation.evaluate import evaluate_run

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "data.image_size=32",
    "data.batch_size=4",
    "data.num_workers=0",
)
POLYP = ("experiment=polyp_unet", "model.base_channels=2", "trainer.max_epochs=3")
CHEST = (
    "experiment=chest_xray_cnn",
    "model.base_channels=2",
    "model.dropout=0.5",
    "scheduler=plateau",
    "scheduler.patience=0",
    "trainer.max_epochs=3",
)


class KilledError(BaseException):
    """Stand-in for kill -9: nothing catches it or cleans up."""


def train(folder: Path | str, *overrides: str) -> int:
    kept = [o for o in SMALL if not o.startswith("trainer.max")]
    return main([*kept, "data.num_images=30", *overrides, f"run_dir={folder}"])


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the program in an empty folder into a folder of that name; return the exit code."""
    monkeypatch.chdir(tmp_path)
    return train


@pytest.fixture(scope="session")
def whole_of(shared_folder: Callable[..., Path]) -> Callable[..., Path]:
    """The run of a recipe without an interruption, shared: read it, never write to it."""

    def run(*recipe: str) -> Path:
        def fill() -> None:
            assert train("run", *recipe) == 0

        return shared_folder(f"whole_{zlib.crc32(repr(recipe).encode())}", fill) / "run"

    return run


def arrange(patched: pytest.MonkeyPatch, step: int, happen: Callable[[], None]) -> None:
    """Call a function once, after a step of the optimizer."""
    plain, left = Interruption.on_train_batch_end, [happen]

    def hook(self: Interruption, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == step and left:
            left.pop()()
        plain(self, trainer, *rest)

    patched.setattr(Interruption, "on_train_batch_end", hook)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Call a function once, after a step of the optimizer."""
    return partial(arrange, monkeypatch)


def send(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def kill() -> None:
    raise KilledError


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def summary_of(run: str | Path) -> dict[str, Any]:
    return json.loads((Path(run) / "summary.json").read_text())


def assert_same(run: str, whole: Path) -> None:
    """Check weights, optimizer, schedule, rows and scores against an uninterrupted run."""
    for file in ("best", "last"):
        a, b = (read(Path(path, "checkpoints", f"{file}.ckpt")) for path in (run, whole))
        assert all(
            torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in b["state_dict"]
        )
        assert repr(a["optimizer_states"]) == repr(b["optimizer_states"])
        assert a["lr_schedulers"] == b["lr_schedulers"]
    assert Path(run, "metrics.csv").read_bytes() == Path(whole, "metrics.csv").read_bytes()
    a, b = summary_of(run), summary_of(whole)
    for key in ("metrics", "best_epoch", "epochs", "status", "threshold"):
        assert a[key] == b[key]


@pytest.mark.parametrize(
    ("recipe", "step", "signum", "code"),
    [
        pytest.param(POLYP, 3, signal.SIGINT, 130, id="in the first epoch"),
        pytest.param(
            POLYP, 12, signal.SIGTERM, 143, id="at an epoch's last step", marks=pytest.mark.slow
        ),
        pytest.param(
            CHEST, 8, signal.SIGUSR1, 143, id="dropout and a plateau", marks=pytest.mark.slow
        ),
        pytest.param(
            (*CHEST, "data.num_workers=1", "trainer.accumulate_grad_batches=2"),
            4,
            signal.SIGTERM,
            143,
            id="a loader process, gradients of two steps added up",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stopped_run_resumes_to_the_same_weights(
    go: Callable,
    whole_of: Callable,
    at_step: Callable,
    capfd: pytest.CaptureFixture[str],
    recipe: tuple[str, ...],
    step: int,
    signum: int,
    code: int,
) -> None:
    whole = whole_of(*recipe)
    at_step(step, send(signum))
    assert go("run", *recipe) == code
    assert summary_of("run")["status"] == "interrupted"
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "to continue: python train.py resume=run"
    assert err.splitlines()[-2:] == [
        "ending after this step, to continue later; repeat to end at once",
        "interrupted",
    ]
    assert main(["resume=run"]) == 0
    assert_same("run", whole)


def test_a_killed_run_resumes_from_the_middle_of_an_epoch(
    go: Callable, whole_of: Callable, at_step: Callable
) -> None:
    often = (*CHEST, "checkpoint.every_minutes=1e-9")
    whole = whole_of(*often)
    at_step(10, kill)
    with pytest.raises(KilledError):
        go("run", *often)
    assert summary_of("run")["status"] == "running"
    state = read(Path("run/checkpoints/last.ckpt"))["continuation"]
    assert state["batches"] > 0
    assert main(["resume=run"]) == 0
    assert_same("run", whole)


LIBRARIES = {
    "model/segformer.yaml": "_target_: segmentation_models_pytorch.Segformer\n"
    "encoder_name: resnet18\nencoder_weights: null\nin_channels: 3\nclasses: 2\n",
    "model/timm.yaml": "_target_: timm.create_model\nmodel_name: test_resnet\nin_chans: 1\n"
    "num_classes: 2\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            (
                *("experiment=polyp_unet", "model=monai", "+model.features=[4,4,8,8,8,4]"),
                *("loss=monai", "loss.name=DiceCELoss"),
            ),
            id="BasicUNet of MONAI",
        ),
        pytest.param(("experiment=polyp_unet", "model=segformer"), id="Segformer of smp"),
        pytest.param(("experiment=chest_xray_cnn", "model=timm"), id="test_resnet of timm"),
        pytest.param(
            ("experiment=chest_xray_cnn", "model=timm", "model.model_name=test_efficientnet"),
            id="test_efficientnet of timm",
        ),
    ],
)
def test_a_killed_run_of_library_classes_resumes_and_serves_every_command(
    go: Callable, at_step: Callable, tmp_path: Path, recipe: tuple[str, ...]
) -> None:
    for name, text in LIBRARIES.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    recipe = (*recipe, "--config-dir=conf", "data.image_size=64", "trainer.max_epochs=2")
    assert go("whole", *recipe) == 0
    os.environ.pop("MEDVISION_RUN_DIR", None)
    at_step(8, kill)
    with pytest.raises(KilledError):
        go("run", *recipe)
    assert main(["resume=run"]) == 0
    assert_same("run", Path("whole"))
    assert evaluate_run(Path("run"))["evaluated"]["largest_difference"] <= 1e-6
    image = tmp_path / "image.png"
    Image.effect_noise((70, 60), 50).save(image)
    assert predict_files(load_model(Path("run")), [image], out=tmp_path / "out").num_done == 1
    export_model(Path("run"), format="onnx", out=tmp_path / "m.onnx", report=lambda _: None)
    assert predict_files(load_model(tmp_path / "m.onnx"), [image], out=tmp_path / "m").num_done == 1
    compare([Path("run"), Path("whole")], out=tmp_path / "compared")
    assert (tmp_path / "compared" / "comparison.html").exists()


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    go: Callable, whole_of: Callable, at_step: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = whole_of(*POLYP)
    at_step(2, kill)
    with pytest.raises(KilledError):
        go("run", *POLYP)
    assert main(["resume=run"]) == 0
    assert (
        "continuing from the start, because it had written no checkpoint" in capsys.readouterr().out
    )
    assert_same("run", whole)


@pytest.mark.slow
def test_a_run_stopped_twice_and_moved_resumes_in_its_new_folder(
    stopped: Path, whole_of: Callable, at_step: Callable, tmp_path: Path
) -> None:
    whole = whole_of(*POLYP)
    at_step(9, send(signal.SIGTERM))
    (tmp_path / "else where").mkdir()
    shutil.move("run", "else where/moved")
    assert main(["resume=else where/moved"]) == 143
    assert main(["resume='else where/moved'"]) == 0
    assert_same("else where/moved", whole)
    parts = json.loads(Path("else where/moved/environment.json").read_text())["resumed"]
    assert len(parts) == 2


@pytest.mark.slow
def test_early_stopping_continues_its_count(
    go: Callable, whole_of: Callable, at_step: Callable
) -> None:
    recipe = (
        "experiment=brain_mri_cnn",
        "model.base_channels=2",
        "trainer.max_epochs=9",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
        "scheduler=cosine",
    )
    whole = whole_of(*recipe)
    assert summary_of(whole)["epochs"] < 9
    at_step(summary_of(whole)["epochs"] * 5 - 7, send(signal.SIGTERM))
    assert go("run", *recipe) == 143
    assert main(["resume=run"]) == 0
    assert_same("run", whole)


@pytest.mark.slow
def test_a_run_stopped_in_its_evaluation_resumes_it(
    go: Callable,
    whole_of: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = whole_of(*POLYP)
    with monkeypatch.context() as patched:

        def stop(*_: Any) -> None:
            raise Stopped(signal.SIGINT)

        patched.setattr(job, "measure", stop)
        assert go("run", *POLYP) == 130
    assert main(["resume=run"]) == 0
    assert "continuing after 3 epochs, with the evaluation" in capsys.readouterr().out
    assert_same("run", whole)


def flip(path: Path) -> None:
    """Change a bit in the middle of a file without changing its size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # best.ckpt may be the same file
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip, id="a flipped bit"),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:1000]),
            id="a cut file",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_previous_checkpoint_replaces_a_damaged_last_one(
    go: Callable,
    whole_of: Callable,
    at_step: Callable,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    whole = whole_of(*POLYP)
    at_step(14, send(signal.SIGTERM))
    assert go("run", *POLYP) == 143
    damage(Path("run/checkpoints/last.ckpt"))
    assert main(["resume=run"]) == 0
    reported = "last.ckpt is damaged, previous.ckpt is used instead"
    assert f"note: {reported}" in capsys.readouterr().out
    assert reported in summary_of("run")["warnings"]
    assert_same("run", whole)


def test_without_a_readable_checkpoint_nothing_is_changed(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run/checkpoints/last.ckpt").write_bytes(b"no")
    before = Path("run/summary.json").read_bytes()
    assert main(["resume=run"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: cannot read last.ckpt: damaged, or from another version (run/checkpoints);"
        " start the run again"
    )
    assert Path("run/summary.json").read_bytes() == before


def test_a_full_disk_keeps_the_previous_checkpoint_and_is_reported(
    go: Callable,
    whole_of: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = whole_of(*POLYP)
    plain, calls = Trainer.save_checkpoint, []

    def save(self: Trainer, path: Path, *rest: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        plain(self, path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save_checkpoint", save)
        assert go("run", *POLYP) == 3
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: cannot write a checkpoint: no space left on the disk"
        " (run/checkpoints/last.ckpt); the previous one is intact; free some space, then"
        " continue with python train.py resume=run"
    )
    assert summary_of("run")["status"] == "failed"
    assert sorted(p.name for p in Path("run/checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert main(["resume=run"]) == 0
    assert_same("run", whole)


def test_resuming_a_finished_run_changes_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert main([f"resume={run}"]) == 0
    assert capsys.readouterr().out == f"{run}: already finished, nothing to do\n"
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.fixture(scope="session")
def stopped_once(shared_folder: Callable[..., Path]) -> Path:
    """A run that SIGTERM stopped in its first epoch, shared: copy it, never write to it."""

    def fill() -> None:
        with pytest.MonkeyPatch.context() as patched:
            arrange(patched, 3, send(signal.SIGTERM))
            assert train("run", *POLYP) == 143

    return shared_folder("stopped", fill) / "run"


@pytest.fixture
def stopped(go: Callable, stopped_once: Path) -> Path:
    shutil.copytree(stopped_once, "run")
    return Path("run")


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_only_the_location_of_the_data_may_change(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, "resume=run", "optimizer.lr=1") == (
        "error: optimizer.lr=1 cannot be changed when resuming a run (resume); leave it out, or"
        " start a new run"
    )
    assert error_of(capsys, "-m", "resume=run") == (
        "error: -m cannot be combined with resume=RUN (resume); leave it out, or start a new run"
    )


def test_a_folder_that_is_not_a_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, "resume=no/run") == (
        "error: no/run is not a folder (resume); give a run folder"
    )
    assert error_of(capsys, f"resume={tmp_path}") == (
        f"error: {tmp_path} has no config.yaml: it is not a run folder, or the run ended"
        " before it started (resume); start the run again"
    )


def test_a_class_of_another_package_is_not_built(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["callbacks"]["more"] = {"_target_": "os.system", "command": "touch made"}
    path.write_text(yaml.safe_dump(config))
    assert error_of(capsys, "resume=run") == (
        "error: the config of the run names os.system, which must not be built from a file"
        " (run/config.yaml); start a new run, with ckpt_path=RUN/checkpoints/last.ckpt"
    )
    assert not Path("made").exists()


def test_a_package_that_the_config_trusts_is_not_imported(
    stopped: Path, at_step: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stopped / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["trust"] = "evil_package"
    path.write_text(yaml.safe_dump(config))
    (stopped.parent / "evil_package.py").write_text("open('made', 'w')")
    monkeypatch.syspath_prepend(stopped.parent)
    at_step(4, send(signal.SIGTERM))
    assert main(["resume=run"]) == 143
    assert not (stopped.parent / "made").exists()


def test_other_data_are_refused(
    go: Callable,
    at_step: Callable,
    make_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_folder()
    at_step(1, send(signal.SIGTERM))
    given = (f"data.root={root}", "experiment=polyp_unet", "model.base_channels=2")
    assert go("run", *given, "data.batch_size=2", "trainer.max_epochs=1") == 143
    moved = root.with_name("moved")
    root.rename(moved)
    assert "does not exist" in error_of(capsys, "resume=run")
    image, mask = (sorted((moved / name).iterdir())[0] for name in ("images", "masks"))
    kept = image.read_bytes()
    image.write_bytes(sorted((moved / "images").iterdir())[1].read_bytes())
    assert error_of(capsys, "resume=run", f"data.root={moved}") == (
        "error: the data differ from those at the start of the run: the content of an image or"
        f" mask has changed ({moved}); restore them, or start a new run"
    )
    image.unlink()
    mask.rename(moved / "mask")
    assert (
        "1 image was added, removed or moved to another split, such as images/case_00.png"
        in error_of(capsys, "resume=run", f"data.root={moved}")
    )
    image.write_bytes(kept)
    (moved / "mask").rename(mask)
    assert main(["resume=run", f"data.root={moved}"]) == 0


@pytest.mark.slow
def test_other_package_versions_are_reported(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "environment.json"
    environment = json.loads(path.read_text())
    environment["packages"]["torch"] = "1.0"
    environment["hardware"]["threads"] = 77
    path.write_text(json.dumps(environment))
    assert main(["resume=run"]) == 0
    (note,) = [n for n in summary_of("run")["warnings"] if "the run continues with torch" in n]
    assert " instead of 77" in note
    assert "note: the run continues with torch " in capsys.readouterr().out


def test_a_run_in_use_is_not_resumed(
    stopped: Path, at_step: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = (
        "import sys; from pathlib import Path;"
        " from medvision.run.storage.run_folder import lock_folder;"
        " unlock = lock_folder(Path('run')); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert error_of(capsys, "resume=run") == (
            "error: this run is already in use by another process (run); wait until it ends, or end"
            " that process"
        )
        other.kill()
    at_step(4, send(signal.SIGTERM))
    assert main(["resume=run"]) == 143
    assert not (stopped / ".lock").exists()


@pytest.mark.slow
def test_a_missing_best_checkpoint_is_written_when_resuming(
    go: Callable, whole_of: Callable, at_step: Callable
) -> None:
    whole = whole_of(*POLYP)
    plain = BestAndLast.save

    def save_and_die(self: BestAndLast, trainer: Trainer) -> None:
        plain(self, trainer)
        if trainer.current_epoch == summary_of(whole)["best_epoch"]:
            raise KilledError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BestAndLast, "save", save_and_die)
        with pytest.raises(KilledError):
            go("run", *POLYP)
    assert main(["resume=run"]) == 0
    assert_same("run", whole)
