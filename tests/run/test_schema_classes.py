import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medvision.errors import MedvisionError
from medvision.run.config.schema import check_targets


def check(target: str) -> None:
    check_targets(OmegaConf.create({"part": {"terms": [{"_target_": target}]}}))


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("torch.optim.Admw", "torch.optim has no Admw (KEY); did you mean AdamW?"),
        ("medvision.models.Unet", "medvision.models has no Unet (KEY); did you mean UNet?"),
        (
            "medvision.tasks.schedules.constnt",
            "medvision.tasks.schedules has no constnt (KEY); did you mean constant?",
        ),
        (
            "pytorch_lightning.callbacks.EarlyStoping",
            "pytorch_lightning.callbacks has no EarlyStoping (KEY); did you mean EarlyStopping?",
        ),
        ("medvision.models.UNett", "medvision.models has no UNett (KEY); did you mean UNet?"),
        ("medvision.losses.Dicee", "medvision.losses has no Dicee (KEY); fix the name"),
        (
            "medvision.callbacks.EpochLgo",
            "medvision.callbacks has no EpochLgo (KEY); did you mean EpochLog?",
        ),
        ("torch.nn.Zzz", "torch.nn has no Zzz (KEY); fix the name"),
        ("trch.optim.Adam", "cannot find the package trch (KEY); install it, or fix the name"),
    ],
)
def test_a_missing_class_is_named_with_the_nearest_name(target: str, line: str) -> None:
    with pytest.raises(MedvisionError) as refused:
        check(target)
    assert str(refused.value) == line.replace("KEY", "part.terms.0._target_")


@pytest.mark.parametrize(
    "module",
    [
        "torch.optim",
        "torch.optim.lr_scheduler",
        "torch.nn",
        "pytorch_lightning",
        "pytorch_lightning.callbacks",
        "pytorch_lightning.loggers",
        "medvision.callbacks",
        "medvision.data",
        "medvision.losses",
        "medvision.models",
        "medvision.tasks",
        "os.path",
        "numpy",
        "math",
    ],
)
def test_no_existing_class_is_refused(module: str) -> None:
    names = [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    assert names
    for name in names:
        check(f"{module}.{name}")


def test_names_that_a_module_may_create_on_import_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plain_part.py").write_text("if True:\n    class Known: ...\n")
    (tmp_path / "star_part.py").write_text("from plain_part import *\n")
    (tmp_path / "making_part.py").write_text("globals()['Made'] = dict\n")
    (tmp_path / "asking_part.py").write_text("def __getattr__(name): return dict\n")
    (tmp_path / "broken_part.py").write_text("class\n")
    (tmp_path / "late_part.py").write_text("__getattr__, __dir__, __all__ = attach_stub()\n")
    for target in (
        "plain_part.Known",
        "star_part.Known",
        "making_part.Made",
        "asking_part.Any",
        "late_part.Any",
        "broken_part.Any",
    ):
        check(target)
    for target in ("plain_part.Made", "star_part.Made"):
        with pytest.raises(MedvisionError, match="_part has no Made "):
            check(target)


def test_names_inside_a_class_are_not_checked() -> None:
    check("medvision.data.SegmentationData.whatever")
    check("torch.optim.Adam.whatever.it_is")


def test_a_target_set_by_a_reference_is_not_checked() -> None:
    check_targets(OmegaConf.create({"a": {"_target_": None}, "b": {"_target_": "${oc.env:X}"}}))


def test_config_for_a_callback_that_is_not_enabled_is_refused() -> None:
    cfg = OmegaConf.create({"callbacks": {"early": None, "finetuning": {"frozen_epochs": 3}}})
    with pytest.raises(MedvisionError, match=r"\(callbacks\.finetuning\); remove it"):
        check_targets(cfg)
