from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

import medvision.models
from medvision.errors import MedvisionError
from medvision.models import UNet, count_parameters, load_weights_strict

CONF = Path(__file__).parents[2] / "conf"


def test_strict_loading_copies_every_tensor() -> None:
    first, second = UNet(base_channels=2), UNet(base_channels=2, mean=0.1)
    load_weights_strict(second, first.state_dict(), "best.ckpt")
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (UNet(base_channels=4), "0 tensors missing, 0 unexpected, 45 of another shape, first down"),
        (
            UNet(base_channels=2, num_classes=4),
            r"2 of another shape, first head.weight \(4, 2, 1, 1\) instead of \(1, 2, 1, 1\)",
        ),
        (
            UNet(base_channels=2, batch_norm=True),
            r"27 tensors missing, 99 unexpected, 0 of .* first down.0.0.bias",
        ),
        (nn.Linear(1, 1), "48 tensors missing, 2 unexpected, 0 of another shape, first normalize"),
    ],
)
def test_weights_of_another_model_are_counted_and_change_nothing(
    other: nn.Module, message: str
) -> None:
    model = UNet(base_channels=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MedvisionError, match=rf"{message}.* \(best.ckpt\)"):
        load_weights_strict(model, other.state_dict(), "best.ckpt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_parameters_are_counted_once_and_buffers_never() -> None:
    shared = nn.Linear(3, 2)
    assert count_parameters(nn.Sequential(shared, nn.BatchNorm1d(2), shared)) == 8 + 4


@pytest.mark.slow
def test_own_networks_do_not_import_smp_or_timm() -> None:
    code = (
        "import sys, medvision.models as models;"
        "models.UNet(); models.SimpleCNN(image_size=32);"
        "print({'segmentation_models_pytorch', 'timm', 'torchvision'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_only_public_names_are_available() -> None:
    for name in medvision.models.__all__:
        assert getattr(medvision.models, name).__name__ == name
    with pytest.raises(AttributeError, match="attribute Unet"):
        _ = medvision.models.Unet


PARAMETERS = {
    "unet": 31_031_745,
    "unet_small": 1_942_577,
    "smp_unet": 24_436_369,
    "smp_unet_lite0": 5_198_161,
    "smp_fpn_lite0": 3_092_705,
    "monai": 1_979_009,  # MONAI's BasicUNet
    "simple_cnn": 4_788_289,
    "alexnet": 57_007_937,
    "alexnet_2012": 56_872_321,
    "timm_classifier": 11_177_025,
    "efficientnet_b0": 4_008_829,
    "efficientnet_b0_packaged": 4_008_829,  # weights select Lite0 and are omitted
    "efficientnet_lite0": 3_372_289,
}


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_shipped_configs_build_networks(name: str) -> None:
    given = ["data.in_channels=3", "data.num_classes=2", "data.image_size=224"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["experiment=polyp_unet", f"model={name}", *given])
    if "weights" in config.model:
        config.model.weights = "none"  # no download
    assert count_parameters(instantiate(config.model)) == PARAMETERS[name]
