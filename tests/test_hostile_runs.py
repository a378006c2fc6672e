"""Run folders from strangers: no verb writes, fetches or waits where such a folder wants it to."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from medvision import registry
from medvision.cli import program
from medvision.errors import MedvisionError
from medvision.files import check_links
from medvision.registry import Purpose, check_classes
from medvision.run import main
from medvision.run.config.schema import SCHEMA
from medvision.run.config.store import CONF
from medvision.run.evaluation.evaluate import choose_target, evaluate_run
from medvision.run.storage.resume import InterruptedRun
from medvision.run.storage.run_folder import RunFolder, is_own_run
from medvision.run.storage.saved_run import StoredRun

BEFORE = Path(__file__).parent / "fixtures" / "run_before"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, which nothing may change but what a test allows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDVISION_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run", copy_function=os.link))


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A copy of an interrupted run."""
    return Path(shutil.copytree(BEFORE / "interrupted", tmp_path / "run"))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder of the user's, which is the same after the test."""
    folder = tmp_path / "victim"
    for name in ("test/mine.txt", "best.ckpt", "config.yaml", "mine.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")

    def content() -> dict[str, str]:
        return {str(p): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}

    before = content()
    yield folder
    assert content() == before
    assert len(list(folder.rglob("*"))) == 5


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that is asked for; none is reached."""
    asked: list[Any] = []

    def refuse(self: Any, address: Any, *rest: Any) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: refuse(None, given))
    return asked


def linked(run: Path, name: str, target: Path) -> None:
    """Replace what a run holds under a name by a link."""
    path = run / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


def ends(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """Run a command that is refused; return its one line."""
    capfd.readouterr()
    if arguments[0].startswith("resume="):
        code: Any = main(list(arguments))
    else:
        monkeypatch.setattr(sys, "argv", ["medvision", *arguments])
        with pytest.raises(SystemExit) as ended:
            program.main()
        code = ended.value.code
    said = capfd.readouterr().err
    assert code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


FOLDERS = ("checkpoints", "evaluation", "plots", "predictions_test", "predictions_val")
IN_PLACE = (".lock", ".summary.json.1.tmp", "tensorboard/hparams.yaml")
"""Names under which a file is written without being replaced."""


@pytest.mark.parametrize("to", ["", "new", "config.yaml"])
def test_a_link_out_of_a_run_folder_ends_every_verb_that_writes_there(
    run: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr("medvision.run.evaluation.evaluate.load_network", None)
    what = (
        "expected a folder" if to == "config.yaml" else "a symbolic link points outside the folder"
    )
    for name in (*FOLDERS, "evaluation/test", "evaluation/val", "tensorboard", *IN_PLACE):
        if to == "config.yaml" and name in ("evaluation/test", "evaluation/val", "tensorboard"):
            continue  # nothing is written into a file
        linked(run, name, victim / to)
        with pytest.raises(
            MedvisionError, match="a symbolic link points" if name in IN_PLACE else what
        ):
            RunFolder.reopen(run)
        with pytest.raises(MedvisionError):
            evaluate_run(run)
        (run / name).unlink()
    assert not (run / ".lock").exists()


def test_evaluate_and_resume_refuse_a_link_in_one_line(
    run: Path, victim: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(run, "evaluation", victim)
    line = ends(capfd, monkeypatch, "evaluate", str(run))
    assert line == (
        f"error: a symbolic link points outside the folder, to {victim} ({run / 'evaluation'});"
        " remove it\n"
    )
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").unlink()
    (run / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    assert ends(capfd, monkeypatch, f"resume={run}") == line


def test_links_to_files_are_replaced_and_what_the_user_keeps_beside_results_stays(
    run: Path, victim: Path
) -> None:
    linked(run, "report.html", victim / "config.yaml")
    (run / "evaluation" / "test" / "plots").mkdir(parents=True)
    (run / "evaluation" / "test" / "mine.txt").write_text("mine")
    with pytest.raises(MedvisionError, match="the folder is not empty"):
        evaluate_run(run)
    (run / "evaluation" / "test" / "summary.json").write_text('{"evaluated": {}}')
    linked(run, "evaluation/test/linked", run / "plots")
    (run / "evaluation" / "test" / "plots" / "mine.png").write_text("mine")
    evaluate_run(run)
    kept = run / "evaluation" / "test"
    assert (kept / "mine.txt").read_text() == "mine"
    assert (kept / "plots" / "mine.png").read_text() == "mine"
    assert (kept / "linked").is_symlink()
    assert json.loads((kept / "summary.json").read_text())["evaluated"]["split"] == "test"
    assert not (run / "report.html").is_symlink()
    assert (run / "plots").is_dir()


def test_a_link_of_the_user_to_a_run_or_within_it_is_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    (run / "newest").symlink_to("plots")
    (run / "best.ckpt").symlink_to(run / "checkpoints" / "best.ckpt")
    check_links(tmp_path / "link")
    folder = RunFolder.reopen(tmp_path / "link")
    folder.release()


def test_an_export_leaves_a_linked_folder_of_checkpoints_alone(
    run: Path, victim: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(run, "checkpoints", victim)
    line = ends(capfd, monkeypatch, "export", str(run), "--format", "safetensors")
    assert "a symbolic link points outside the run folder" in line
    assert line.endswith("name the file to write with --out\n")


def test_predict_leaves_linked_folders_of_results_alone(
    run: Path, victim: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.parent / "out").mkdir()
    linked(run.parent / "out", "masks", victim)
    picture = next((run / "predictions_test").glob("*.png"))
    given = ("predict", str(run), str(picture), "--out", "out", "--overwrite")
    assert "a symbolic link points outside the folder" in ends(capfd, monkeypatch, *given)


# What a stored config says.


def changed(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A run whose config a stranger has changed."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.unlink()
    path.write_text(yaml.safe_dump(config))
    return run


def test_folders_are_derived_from_the_place_of_the_run(interrupted: Path, victim: Path) -> None:
    def hostile(config: dict[str, Any]) -> None:
        config["run_dir"] = str(victim)
        config["callbacks"]["epoch_log"]["dirpath"] = str(victim)
        config["callbacks"]["checkpoint"]["dirpath"] = f"{victim}/../victim"
        config["logger"] = {
            "_target_": "medvision.callbacks.LateTensorBoard",
            "save_dir": str(victim),
            "name": "",
            "version": "tensorboard",
        }

    assert main([f"resume={changed(interrupted, hostile)}"]) == 0
    assert (interrupted / "tensorboard").is_dir()
    assert json.loads((interrupted / "summary.json").read_text())["status"] == "finished"


LOGGERS = "pytorch_lightning.loggers"
ADDED: dict[str, dict[str, Any]] = {
    "callbacks.more": {
        "_target_": "pytorch_lightning.callbacks.ModelCheckpoint",
        "dirpath": "VICTIM",
        "save_last": True,
    },
    "callbacks.predictions": {
        "_target_": "medvision.callbacks.SegmentationPredictions",
        "folder": "VICTIM",
    },
    "callbacks.log": {"_target_": "medvision.callbacks.EpochLog", "folder": "VICTIM"},
    "callbacks.stop": {
        "_target_": "pytorch_lightning.callbacks.EarlyStopping",
        "_args_": ["val/loss"],
    },
    "callbacks.loss": {"_target_": "torch.nn.BCEWithLogitsLoss"},
    "logger": {"_target_": f"{LOGGERS}.MLFlowLogger", "tracking_uri": "http://127.0.0.1:9/"},
    "logger.": {"_target_": f"{LOGGERS}.WandbLogger", "project": "x", "save_dir": "VICTIM"},
    "logger..": {
        "_target_": "medvision.callbacks.LateTensorBoard",
        "save_dir": "x",
        "version": "../../victim",
    },
    "logger...": {"_target_": f"{LOGGERS}.CSVLogger", "save_dir": "x", "name": "/VICTIM"},
    "trainer.default_root_dir": {"_target_": "torch.optim.SGD"},
    "loss.criterion": {"_target_": "medvision.models.TimmClassifier", "name": "resnet18"},
}


@pytest.mark.parametrize("key", ADDED)
def test_callbacks_and_loggers_that_write_or_send_elsewhere_are_refused(
    interrupted: Path,
    victim: Path,
    no_network: list[Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    text = json.dumps(ADDED[key]).replace("VICTIM", str(victim))
    part, _, name = key.partition(".")

    def hostile(config: dict[str, Any]) -> None:
        if name.strip("."):
            config[part][name] = json.loads(text)
        else:
            config[part] = json.loads(text)

    line = ends(capfd, monkeypatch, f"resume={changed(interrupted, hostile)}")
    assert "config.yaml" in line
    assert not no_network


@pytest.mark.parametrize("key", ["default_root_dir", "profiler", "plugins", "callbacks", "logger"])
def test_keys_of_the_trainer_that_name_folders_or_code_are_refused(run: Path, key: str) -> None:
    changed(run, lambda config: config["trainer"].update({key: "x"}))
    with pytest.raises(MedvisionError, match=f"sets {key} of pytorch_lightning.Trainer"):
        StoredRun.read(run)


def test_the_users_own_run_may_send_and_a_changed_config_is_no_longer_theirs(
    interrupted: Path,
) -> None:
    def sends(config: dict[str, Any]) -> None:
        config["logger"] = {
            "_target_": f"{LOGGERS}.MLFlowLogger",
            "experiment_name": "medvision",
            "tracking_uri": "http://127.0.0.1:9/",
        }

    content = yaml.safe_load(changed(interrupted, sends).joinpath("config.yaml").read_text())
    assert not is_own_run(interrupted)
    RunFolder(interrupted).write_config(content)
    assert is_own_run(interrupted)
    read = InterruptedRun.read(interrupted)
    assert read.cfg.logger.tracking_uri == "http://127.0.0.1:9/"
    changed(interrupted, lambda config: config.update(seed=2))
    with pytest.raises(MedvisionError, match=r"names .*MLFlowLogger.*add trust=pytorch_lightning"):
        InterruptedRun.read(interrupted)


def test_a_callback_of_a_trusted_package_keeps_its_own_keys(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "from pytorch_lightning import Callback\n\n\nclass Count(Callback):\n"
        "    def __init__(self, dirpath):\n        self.dirpath = dirpath\n\n"
        "    def on_train_end(self, trainer, pl_module):\n        print('kept', self.dirpath)\n"
    )
    (interrupted.parent / "own_counts.py").write_text(source)
    monkeypatch.syspath_prepend(interrupted.parent)
    monkeypatch.setattr(registry, "_TRUSTED", set())
    own = {"_target_": "own_counts.Count", "dirpath": "elsewhere"}
    changed(interrupted, lambda config: config["callbacks"].update(own=own))
    assert main([f"resume={interrupted}"]) == 2
    assert main([f"resume={interrupted}", "trust=own_counts"]) == 0
    assert "kept elsewhere" in capsys.readouterr().out


def test_a_trial_of_a_stranger_reports_to_no_search(interrupted: Path) -> None:
    changed(interrupted, lambda config: config["sweep"].update(trial=3))
    assert InterruptedRun.read(interrupted).cfg.sweep.trial is None
    assert InterruptedRun.read(interrupted, is_own=True).cfg.sweep.trial == 3


def test_every_class_that_the_package_configures_may_be_named() -> None:
    """Each option of the config groups passes, with the keys that it has."""
    for part in ("callbacks", "logger", "trainer", "optimizer", "scheduler", "loss", "task"):
        for path in (CONF / part).glob("*.yaml"):
            node = yaml.safe_load(path.read_text()) or {}
            if "_target_" in node or part == "callbacks":
                check_classes({part: node}, Purpose.RESUME_OWN, where=path.name, hint="")


HOSTILE: tuple[Any, ...] = (
    [{"_target_": "builtins.eval"}],
    "\x1b]0;owned\x07" * 2000,
    -(2**70),
    "http://127.0.0.1:9/../set",
    {"a": {"b": None}},
)


def keys_below(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from keys_below(value, (*path, key))


def with_value(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of a config in which one key has another value."""
    made = json.loads(json.dumps(config))
    node = made
    for key in path[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            return made
    node[path[-1]] = value
    return made


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_key_of_a_stored_config_set_to_a_hostile_value_is_refused_or_harmless(
    interrupted: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Each key of the schema; what is accepted names no other folder, address or class.

    One of ``step`` changes is tried; as 4 does not divide the number of values, each key has one.
    """
    config = yaml.safe_load((interrupted / "config.yaml").read_text())
    schema = {tuple(key.split(".")) for key in SCHEMA if not key.startswith("sweep")}
    keys = sorted({*keys_below(config), *schema})
    changes = [(path, value) for path in keys for value in HOSTILE][::step]
    read: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "medvision.run.storage.resume.read_plain",
        lambda path: read.pop() if path.suffix == ".yaml" else {"status": "running"},
    )
    accepted, lines = 0, list[str]()
    for path, value in changes:
        read[:] = [with_value(config, path, value)]
        try:
            cfg = InterruptedRun.read(interrupted).cfg
        except MedvisionError as refusal:
            lines.append(str(refusal))
            continue
        accepted += 1
        assert cfg.run_dir == str(interrupted)
        for node in cfg.callbacks.values():
            assert node is None or node.get("dirpath", str(interrupted)) == str(interrupted)
        assert "://" not in str(cfg.data.get("root"))
        text = json.dumps(OmegaConf.to_container(cfg))
        assert not re.search(r"builtins|owned|1180591620717411303424", text)
        assert cfg.data.get("image_size", 0) <= 8192
        assert cfg.data.get("batch_size", 0) <= 65_536
    assert not [line for line in lines if not line.isprintable()]
    assert len(changes) > 600 / step
    assert 0 < accepted < len(changes) / 2
    assert not Path("made").exists()
    assert not no_network


def test_parts_that_are_missing_or_no_parts_are_one_line(interrupted: Path) -> None:
    whole = yaml.safe_load((interrupted / "config.yaml").read_text())
    for part in ("data", "model", "task", "trainer", "callbacks", "checkpoint"):
        for value in (None, 3, []):
            changed(interrupted, lambda old, new={**whole, part: value}: old.update(new))
            with pytest.raises(
                MedvisionError, match=f"invalid value in the config of the run: {part} is"
            ):
                InterruptedRun.read(interrupted)
    changed(interrupted, lambda old: old.update({**whole, "callbacks": {"more": "x"}}))
    with pytest.raises(
        MedvisionError, match=r"invalid value in the config of the run: callbacks\.more is 'x'"
    ):
        InterruptedRun.read(interrupted)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 1_000_000),
        ("batch_size", 10**9),
        ("num_workers", 100_000),
        ("num_images", 10**12),
        ("batch_size", 65_536),  # of the largest images
    ],
)
def test_numbers_that_would_fill_the_memory_are_refused_before_anything_is_made(
    run: Path, key: str, value: int
) -> None:
    size = {"image_size": 8192} if value == 65_536 else {}
    changed(run, lambda config: config["data"].update({**size, key: value}))
    with pytest.raises(MedvisionError, match="invalid value in the config of the run"):
        StoredRun.read(run)


# Data that a stored config names.

ADDRESS = "http://127.0.0.1:9/set"


def fetches(config: dict[str, Any]) -> None:
    config["data"]["root"] = ADDRESS


def test_an_address_that_only_the_config_names_is_not_asked(
    run: Path,
    no_network: list[Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ends(capfd, monkeypatch, "evaluate", str(changed(run, fetches)))
    assert line == (
        f"error: the config of the run names data at {ADDRESS}, an address that is used only on"
        f" request, because you did not start this run ({run / 'config.yaml'});"
        f" if you trust it, add --data {ADDRESS}\n"
    )
    assert not no_network


def test_an_address_is_not_asked_to_continue_a_run(
    interrupted: Path,
    no_network: list[Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ends(capfd, monkeypatch, f"resume={changed(interrupted, fetches)}")
    assert line.endswith(f"if you trust it, add data.root={ADDRESS}\n")
    assert not no_network
    assert InterruptedRun.read(interrupted, root=f"{ADDRESS}/").cfg.data.root == ADDRESS
    RunFolder(interrupted).write_config(yaml.safe_load((interrupted / "config.yaml").read_text()))
    assert InterruptedRun.read(interrupted).cfg.data.root == ADDRESS


def test_an_address_that_the_user_names_again_is_the_data_set_of_the_run(
    run: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medvision.data.shards.location.WAIT_S", 0)
    stored = StoredRun.read(changed(run, fetches))
    with pytest.raises(MedvisionError, match=r"cannot fetch shards\.json"):
        choose_target(stored, f"{ADDRESS}/", None)
    assert no_network


def test_a_folder_that_the_config_names_is_read_and_announced(
    run: Path, make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(8)
    lines = [f"test,images/case_{k:02d}.png,masks/case_{k:02d}.png," for k in range(8)]
    (run / "splits.csv").unlink()
    (run / "splits.csv").write_text("\n".join(["split,path,target,group", *lines, ""]))
    stored = StoredRun.read(changed(run, lambda config: config["data"].update(root=str(root))))
    target = choose_target(stored, None, None)
    assert not target.external
    assert (
        f"reading the data in {root}, as stated in the config of the run" in capsys.readouterr().out
    )
    again = choose_target(stored, root, None)
    assert (again.external, again.name) == (False, "test")
    assert list(again.data.tables["test"]) == list(target.data.tables["test"])
    assert "reading" not in capsys.readouterr().out


def test_a_stored_config_downloads_nothing(interrupted: Path, tmp_path: Path) -> None:
    new = {"root": str(tmp_path / "new"), "download": "kvasir_seg"}
    changed(interrupted, lambda config: config["data"].update(new))
    assert InterruptedRun.read(interrupted).cfg.data.download is None
    assert main([f"resume={interrupted}"]) == 2
    assert not (tmp_path / "new").exists()
    named = InterruptedRun.read(interrupted, root=new["root"])
    assert named.cfg.data.download == "kvasir_seg"
