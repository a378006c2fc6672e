"""User-defined networks, losses and callbacks train and are tested like built-in ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from medvision.errors import MedvisionError
from medvision.hardware import choose_plan
from medvision.inference.model_card import ModelCard
from medvision.run import main
from medvision.run.training.build import make_optimizer
from medvision.run.training.experiment import _rebuilding_note

SOURCE = """
import torch.nn.functional as F
from pytorch_lightning import Callback
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs=1, stride=1):
        super().__init__()
        self.layers = nn.Conv2d(3, outputs, 3, padding=1, stride=stride)

    def forward(self, image):
        assert image.is_floating_point() and 0 <= image.min() <= image.max() <= 1
        return self.layers(image)

class Pooled(Net):
    def forward(self, image):
        return super().forward(image).mean((2, 3))

class Loss(nn.Module):
    def forward(self, logits, target):
        target = target.view_as(logits).float()
        return F.binary_cross_entropy_with_logits(logits, target.clamp(max=1), reduction="mean")

class Count(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        print("an epoch has ended")
"""

FILES = {
    "model/mine.yaml": "_target_: own_parts.Net\n",
    "model/pooled.yaml": "_target_: own_parts.Pooled\noutputs: 4\n",
    "loss/mine.yaml": "_target_: own_parts.Loss\n",
}


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folder with user-defined classes and their config files; the option that adds it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "own_parts.py").write_text(SOURCE)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    return f"--config-dir={folder}"


def test_a_user_defined_segmenter_loss_and_callback(
    train: Callable[..., Path], capsys: pytest.CaptureFixture[str], summary_of: Callable, own: str
) -> None:
    callback = "+callbacks.own._target_=own_parts.Count"
    few = "trainer.accumulate_grad_batches=6"
    run = train("experiment=polyp_unet", "model=mine", "loss=mine", callback, few, own)
    assert "an epoch has ended" in capsys.readouterr().out
    summary = summary_of(run)
    assert summary["status"] == "finished"
    assert summary["model"] == {"name": "Net", "num_parameters": 28}
    assert 0 <= summary["metrics"]["test/dice"] <= 1
    note = "trainer.accumulate_grad_batches=6 is more than the 5 batches of an epoch: one step an"
    assert f"{note} epoch" in summary["warnings"]
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert {"model.normalize.mean", "model.network.layers.weight"} <= set(checkpoint["state_dict"])
    card = ModelCard.from_dict(checkpoint["medvision"], where="best.ckpt")
    assert (card.name, card.mean, card.std) == ("own_parts.Net", (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("precision", "clip", "is_fused"),
    [("bf16-mixed", 1.0, False), ("bf16-mixed", None, True), ("32", 1.0, True)],
)
def test_gradients_that_mixed_precision_clips_have_no_fused_optimizer(
    precision: str, clip: float | None, is_fused: bool
) -> None:
    plan = choose_plan(
        accelerator="cpu", precision=precision, memory_format="auto", deterministic=False
    )
    cfg = OmegaConf.create(
        {
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1},
            "trainer": {"gradient_clip_val": clip},
        }
    )
    if clip is not None and precision != "32":
        fused = OmegaConf.merge(cfg, {"optimizer": {"fused": True}})
        with pytest.raises(
            MedvisionError, match="gradients of a fused optimizer cannot be clipped"
        ):
            make_optimizer(fused, plan)
    made = make_optimizer(cfg, plan)([torch.nn.Parameter(torch.zeros(1))])
    assert bool(made.defaults["fused"]) is is_fused


def test_a_network_that_no_command_can_rebuild_is_noted() -> None:
    note = _rebuilding_note("torchvision.models.resnet18")
    assert note is not None
    assert "torchvision.models.resnet18 is a function of a library" in note
    for name in (
        "my_package.Net",
        "my_package.make_net",
        "medvision.models.UNet",
        "timm.create_model",
    ):
        assert _rebuilding_note(name) is None


def test_a_user_defined_classifier(
    train: Callable[..., Path], summary_of: Callable, own: str
) -> None:
    options = ("model=pooled", "data.num_images=40", "data.in_channels=3")
    run = train("experiment=brain_mri_alexnet", *options, own)
    assert summary_of(run)["status"] == "finished"


def test_a_network_within_a_network_is_stored_by_its_config(
    train: Callable[..., Path], tmp_path: Path
) -> None:
    """Hydra builds what a dict names by ``_target_``, and the card would hold the network."""
    (tmp_path / "model").mkdir()
    inner = "_target_: timm.create_model\n  model_name: test_resnet\n  in_chans: 1\n"
    (tmp_path / "model" / "inner.yaml").write_text(
        "_target_: medvision.models.Normalized\nin_channels: 1\nnetwork:\n"
        f"  {inner}  num_classes: 4\n"
    )
    run = train("experiment=brain_mri_cnn", "model=inner", f"--config-dir={tmp_path}")
    card = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["medvision"]
    network = card["model"]["arguments"]["network"]
    assert network["_target_"] == "timm.create_model"


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (
            "+model.outputs=3",
            "error: expected logits (1, 1, 32, 32) or (1, 2, 32, 32) for 1 image, got"
            " (1, 3, 32, 32) from Net (model); two classes need one or two output channels, more"
            " classes one channel each\n",
        ),
        ("data.in_channels=1", "error: Net cannot take an image (1, 1, 32, 32): "),
    ],
)
def test_errors_of_a_user_defined_network_are_reported_before_training(
    small: tuple[str, ...], capsys: pytest.CaptureFixture[str], own: str, option: str, line: str
) -> None:
    assert main([*small, "experiment=polyp_unet", "model=mine", option, own]) == 2
    reported = capsys.readouterr().err
    assert reported.startswith(line)
    assert reported.count("\n") == 1
