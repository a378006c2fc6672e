from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.inference.model_card import ModelCard
from medvision.models import UNet
from medvision.registry import build_network


def make_card(name: str, arguments: dict[str, Any], **values: Any) -> ModelCard:
    """Model card of a network, by default for polyp segmentation."""
    half = (0.5,) * arguments["in_channels"]
    return ModelCard(
        **{
            "task": "segmentation",
            "name": f"medvision.models.{name}",
            "arguments": arguments,
            "architecture": name,
            "num_parameters": 1,
            "class_names": ("background", "polyp", "vessel")[: arguments["num_classes"]],
            "image_size": 32,
            "in_channels": arguments["in_channels"],
            "eval_transforms": {},
            "threshold": 0.5,
            "value_range": None,
            "precision": "32-true",
            "experiment": "trial",
            "dataset": "polyps",
            "synthetic": True,
            "mean": half,
            "std": half,
            **values,
        }
    )


def save_checkpoint(file: Path, card: ModelCard) -> Path:
    """Write a network with random weights like the best checkpoint of a run."""
    torch.manual_seed(1)
    network: nn.Module = build_network(card.name, card.arguments, where="test")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as of a trained network
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    if isinstance(network, UNet):  # logits on both sides of 0
        scenes = np.stack([draw_polyp_scene(k, size_px=32)[0] for k in range(4)])
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(scenes[..., : card.in_channels]).movedim(3, 1))
            scale = 4 / logits.std()
            network.head.bias.sub_(logits.median()).mul_(scale)
            network.head.weight.mul_(scale)
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "medvision": card.to_dict()}, file)
    return file


SMALL_UNET = {"in_channels": 3, "num_classes": 2, "base_channels": 4}


@pytest.fixture(scope="session")
def unet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a small U-Net outside a run folder; shared, read-only."""
    file = tmp_path_factory.mktemp("unet") / "unet.ckpt"
    return save_checkpoint(file, make_card("UNet", SMALL_UNET, threshold=0.4))


@pytest.fixture(scope="session")
def unet_onnx(unet_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as ONNX; shared, read-only."""
    from medvision.export import export_model

    out = tmp_path_factory.mktemp("unet_onnx") / "unet.onnx"
    return export_model(unet_checkpoint, format="onnx", out=out, report=lambda line: None).path


@pytest.fixture
def lines() -> list[str]:
    """Lines reported by an export with ``lines.append``."""
    return []


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint of a network by class name and arguments."""

    def make(name: str, arguments: dict[str, Any], **values: Any) -> Path:
        return save_checkpoint(tmp_path / f"{name}.ckpt", make_card(name, arguments, **values))

    return make
