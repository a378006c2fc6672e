"""Reading an untrusted run folder executes, expands and looks up nothing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvision.errors import MedvisionError
from medvision.files import MOST_BYTES, read_plain
from medvision.run.storage.saved_run import StoredRun, largest_difference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder that looks like a finished run."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    summary = {"status": "finished", "task": "segmentation"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "config.yaml").write_text("data: {root: null}\n")
    return tmp_path


FID = "torchmetrics.image.FrechetInceptionDistance"

LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 30)
)


@pytest.mark.parametrize(
    ("config", "reported"),
    [
        ("", "expected names with values"),
        ("[1, 2]", "expected names with values"),
        ("data: 3", "config.yaml has no key data"),
        ("seed: 0", "config.yaml has no key data"),
        ("data: {a: [}", "while parsing a flow node"),
        ("data: {}\n" + LAUGHS, "it contains YAML aliases"),
        ("data: " + "[" * 5000, "nested too deep"),
        ("data: {root: '${oc.env:HOME}'}", "config.yaml contains references (${...})"),
        ("data: !!python/object/apply:os.system ['touch trace']", "could not determine a construc"),
        ("data: {}\n#" + "x" * MOST_BYTES, "more than 16 MB"),
        ("data: {when: 2026-11-22}", "config.yaml: Value 'date' is not a supported primitive"),
    ],
)
def test_a_hostile_config_is_refused_in_one_line(
    folder: Path, config: str, reported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "config.yaml").write_text(config)
    with pytest.raises(MedvisionError) as error:
        StoredRun.read(folder)
    assert error.value.what.startswith(f"not a run folder: {reported}")
    assert error.value.where == str(folder)
    assert not (folder / "trace").exists()


@pytest.mark.parametrize(
    ("summary", "reported"),
    [
        ("", "not a run folder: Expecting value"),
        ("[]", "not a run folder: expected names with values"),
        ("[" * 100_000, "not a run folder: nested too deep"),
        (
            '{"status": "finished", "task": "../secret"}',
            "not a run folder: unknown task",
        ),
        (
            '{"status": "running", "task": "segmentation"}',
            "the run did not finish: its status is interrupted",
        ),
    ],
)
def test_a_hostile_summary_is_refused_in_one_line(
    folder: Path, summary: str, reported: str
) -> None:
    (folder / "summary.json").write_text(summary)
    with pytest.raises(MedvisionError) as error:
        StoredRun.read(folder)
    assert error.value.what.startswith(reported)


def test_a_class_of_another_package_is_not_built(folder: Path) -> None:
    (folder / "config.yaml").write_text("data: {}\nloss: {_target_: os.system, command: touch x}\n")
    with pytest.raises(MedvisionError) as error:
        StoredRun.read(folder)
    assert (
        error.value.what
        == "the config of the run names os.system, which must not be built from a file"
    )


def test_only_what_an_untrusted_loss_or_metric_computes_is_left_out(folder: Path) -> None:
    kappa = {"_target_": "torchmetrics.classification.BinaryCohenKappa"}
    config = {
        "data": {},
        "loss": {"_target_": "my_package.Loss"},
        "metrics": {
            "mine": {"_target_": "medvision.metrics.PerImage", "metric": {"_target_": "a.B"}},
            "kappa": kappa,
            "fid": {"_target_": FID},  # downloads
        },
        "task": {},
        "trainer": {},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run = StoredRun.read(folder)
    assert run.unmeasured == {"loss": "my_package.Loss", "mine": "a.B", "fid": FID}
    assert run.cfg.loss is None
    assert run.cfg.metrics == {"kappa": kappa}


@pytest.mark.parametrize(
    ("part", "node", "words"),
    [
        ("loss", {"_target_": "monai.losses.one_hot"}, "names monai.losses.one_hot"),
        ("loss", {"_target_": "torch.nn.MSELoss", "reduction": "/etc/passwd"}, "'/etc/passwd'"),
        ("loss", {"_target_": "my_package.Loss", "extra": {"_target_": "os.system"}}, "os.system"),
        ("metrics", {"x": {"_target_": "os.system"}}, "names os.system"),
        ("metrics", {"x": {"_target_": "torchmetrics.functional.dice"}}, "torchmetrics.functional"),
        ("metrics", 3, "metrics is '3'"),
    ],
)
def test_a_hostile_loss_or_metric_is_refused_not_left_out(
    folder: Path, part: str, node: Any, words: str
) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {}, part: node}))
    with pytest.raises(MedvisionError) as error:
        StoredRun.read(folder)
    assert words in str(error.value)


def test_an_interval_that_is_no_longer_defined_differs() -> None:
    assert largest_difference({"x_ci95": [0.0, 1.0]}, {"x_ci95": None}) == (2, math.inf, "x_ci95")
    assert largest_difference({"x_ci95": None}, {"x_ci95": [0.0, 1.0]}) == (2, math.inf, "x_ci95")
    assert largest_difference({"x_ci95": [0.0, 1.0]}, {"x_ci95": [0.0, 0.5]}) == (2, 0.5, "x_ci95")


def test_plain_values_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, null, 'x * y']}\n")
    assert read_plain(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, None, "x * y"]}}
    (tmp_path / "a.json").write_text('{"a": "*"}')
    assert read_plain(tmp_path / "a.json") == {"a": "*"}
