"""Initialise a run with the weights of a finished one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvision.errors import MedvisionError
from medvision.models import AlexNet, LoadedWeights, SimpleCNN, SmpSegmenter, TimmClassifier
from medvision.models.matching import fill

LITE0 = "tf_efficientnet_lite0"


def run_of(model: nn.Module, folder: Path) -> str:
    """Write the checkpoint of a run that trained this model."""
    path = folder / "best.ckpt"
    torch.save(
        {
            "epoch": 3,
            "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
            "medvision": {"model": {"name": f"medvision.models.{type(model).__name__}"}},
        },
        path,
    )
    return str(path)


def assert_taken(model: nn.Module, source: nn.Module) -> None:
    """Check that exactly the used tensors equal those of the source."""
    ours, theirs = model.network.state_dict(), source.network.state_dict()
    for name in model.loaded_weights.taken:
        assert torch.equal(ours[name], theirs[name]), name
    for name in (line.split(":")[0] for line in model.loaded_weights.left):
        if name in theirs and ours[name].shape == theirs[name].shape and name.endswith("t"):
            assert not torch.equal(ours[name], theirs[name]), name


def test_all_weights_of_a_run_with_the_same_classes_are_used(tmp_path: Path) -> None:
    source = TimmClassifier(name="resnet18", num_classes=4)
    source.normalize.mean.fill_(0.25)
    path = run_of(source, tmp_path)
    model = TimmClassifier(name="resnet18", num_classes=4, weights=path)
    assert model.loaded_weights.taken == tuple(source.network.state_dict())
    assert model.loaded_weights.left == model.loaded_weights.unused == ()
    assert_taken(model, source)
    assert torch.equal(model.normalize.mean, source.normalize.mean)
    assert model.loaded_weights.report() == [
        f"weights from {path}: 122 of 122 tensors used "
        "(conv1, bn1, layer1, layer2, layer3, layer4, fc)"
    ]


def test_the_head_of_another_number_of_classes_is_reported_as_not_used(tmp_path: Path) -> None:
    source = TimmClassifier(name="resnet18", num_classes=4)
    path = run_of(source, tmp_path)
    model = TimmClassifier(name="resnet18", weights=path)
    assert_taken(model, source)
    assert len(model.loaded_weights.taken) == 120
    assert model.loaded_weights.left == (
        "fc.weight: (4, 512) in the file, (1, 512) here",
        "fc.bias: (4,) in the file, (1,) here",
    )
    assert model.loaded_weights.unused == ("model.network.fc.weight", "model.network.fc.bias")
    assert model.loaded_weights.report() == [
        f"weights from {path}: 120 of 122 tensors used "
        "(conv1, bn1, layer1, layer2, layer3, layer4)",
        "not used, trained from scratch: "
        "fc (2 tensors: weight (4, 512) in the file, (1, 512) here)",
    ]


@pytest.mark.parametrize("channels", [(3, 1), (1, 3)])
def test_weights_of_grey_and_rgb_runs_give_the_same_features(
    channels: tuple[int, int], tmp_path: Path
) -> None:
    source = TimmClassifier(name="resnet18", in_channels=channels[0]).eval()
    path = run_of(source, tmp_path)
    model = TimmClassifier(name="resnet18", in_channels=channels[1], weights=path).eval()
    grey = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        theirs = source(grey.expand(-1, channels[0], -1, -1))
        ours = model(grey.expand(-1, channels[1], -1, -1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("encoder", "name"), [("resnet18", "resnet18"), (f"tu-{LITE0}", LITE0)])
def test_classifier_weights_initialise_an_encoder_and_vice_versa(
    encoder: str, name: str, tmp_path: Path
) -> None:
    classifier = TimmClassifier(name=name)
    segmenter = SmpSegmenter(encoder=encoder, weights=run_of(classifier, tmp_path))
    ours = segmenter.network.encoder.state_dict()
    theirs = classifier.network.state_dict()
    for tensor_name, tensor in ours.items():
        assert torch.equal(tensor, theirs[tensor_name.removeprefix("model.")]), tensor_name
    assert len(segmenter.loaded_weights.taken) == len(ours)

    back = TimmClassifier(name=name, weights=run_of(segmenter, tmp_path))
    assert len(back.loaded_weights.taken) == len(ours)
    for tensor_name in back.loaded_weights.taken:
        assert torch.equal(back.network.state_dict()[tensor_name], theirs[tensor_name])
    left = {line.split(".")[0] for line in back.loaded_weights.left}
    assert left == ({"fc"} if name == "resnet18" else {"conv_head", "bn2", "classifier"})


def test_missing_and_unused_weights_of_a_segmentation_run_are_reported(tmp_path: Path) -> None:
    path = run_of(SmpSegmenter(encoder=f"tu-{LITE0}"), tmp_path)
    model = TimmClassifier(name=LITE0, weights=path)
    assert model.loaded_weights.report() == [
        f"weights from {path}: 288 of 295 tensors used (conv_stem, bn1, blocks)",
        "not used, trained from scratch: conv_head (1 tensor: not in the file), "
        "bn2 (4 tensors: not in the file), classifier (2 tensors: not in the file)",
        "unused in the file: decoder (60 tensors), segmentation_head (2 tensors)",
    ]


def test_a_new_decoder_is_reported(tmp_path: Path) -> None:
    path = run_of(TimmClassifier(name="resnet18"), tmp_path)
    report = SmpSegmenter(encoder="resnet18", weights=path).loaded_weights.report()
    assert report == [
        f"weights from {path}: 120 of 182 tensors used (encoder)",
        "not used, trained from scratch: decoder (60 tensors: new for this task), "
        "segmentation_head (2 tensors: new for this task)",
        "unused in the file: fc (2 tensors)",
    ]


def test_features_that_smp_flattened_are_found(tmp_path: Path) -> None:
    path = run_of(SmpSegmenter(encoder="tu-convnext_atto"), tmp_path)
    model = TimmClassifier(name="convnext_atto", weights=path)
    assert len(model.loaded_weights.taken) == 124
    assert {line.split(".")[0] for line in model.loaded_weights.left} == {"head"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: TimmClassifier(name="resnet34"), "all 120 backbone .* have 96 more"),
        (lambda: TimmClassifier(name="resnet50"), r"first mismatch layer1\.0\.conv1\.weight \(64"),
        (lambda: TimmClassifier(name=LITE0), r"1 of 101 backbone .* conv1\.weight is missing"),
        (lambda: SmpSegmenter(encoder="resnet34"), "all 120 backbone .* have 96 more"),
        (
            lambda: SmpSegmenter(
                encoder="tu-resnet18", encoder_depth=4, decoder_channels=[16, 8, 8, 4]
            ),
            r"90 of 115 backbone .* layer4\.0\.conv1\.weight is missing",
        ),
        (lambda: SimpleCNN(image_size=32), "backbone tensors match"),
    ],
)
def test_weights_of_another_architecture_are_counted(
    other: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    path = run_of(other(), tmp_path)
    with pytest.raises(MedvisionError, match=f"different architecture: .*{message}.*model.name"):
        TimmClassifier(name="resnet18", weights=path)


def test_weights_that_do_not_fit_change_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wrong = {**before, "0.weight": torch.zeros(4, 3, 5, 5), "1.weight": torch.zeros(2, 4)}
    with pytest.raises(MedvisionError, match=r"3 of 4 backbone .* \(4, 3, 5, 5\) instead of"):
        fill(network, wrong, where="model.weights", part="backbone", hint="")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_final_layer_is_omitted_only_as_a_whole_and_only_if_it_is_small() -> None:
    def make(width: int) -> nn.Module:
        return nn.ModuleDict({"a": nn.Conv2d(1, 9, 3), "b": nn.Linear(9, width)})

    def fill_from(network: nn.Module, *names: str) -> tuple[str, ...]:
        tensors = {name: t for name, t in make(2).state_dict().items() if name in names}
        options = {"where": "x", "part": "backbone", "hint": "", "final": ["b"]}
        return fill(network, tensors, **options).left

    assert fill_from(make(2), "a.weight", "a.bias") == (
        "b.weight: not in the file",
        "b.bias: not in the file",
    )
    for network, names in [(make(2), ("a.weight", "a.bias", "b.bias")), (make(99), ("a.weight",))]:
        with pytest.raises(MedvisionError, match="different architecture"):
            fill_from(network, *names)


def test_simple_cnn_starts_from_its_own_run(tmp_path: Path) -> None:
    source = SimpleCNN(image_size=32, base_channels=2, mean=0.3, std=0.2)
    path = run_of(source, tmp_path)
    model = SimpleCNN(image_size=32, base_channels=2, num_classes=4, weights=path)
    assert_taken(model, source)
    assert [line.split(":")[0] for line in model.loaded_weights.left] == [
        "head.weight",
        "head.bias",
    ]
    assert model.normalize.mean.item() == pytest.approx(0.3)
    with pytest.raises(MedvisionError, match=r"first mismatch hidden\.0\.weight .*image_size"):
        SimpleCNN(image_size=64, base_channels=2, weights=path)


def test_simple_cnn_keeps_its_mean_and_std_with_bare_tensors(tmp_path: Path) -> None:
    source = SimpleCNN(image_size=32, base_channels=2)
    torch.save(source.network.state_dict(), tmp_path / "bare.pt")
    options = {"image_size": 32, "base_channels": 2, "weights": str(tmp_path / "bare.pt")}
    assert SimpleCNN(**options, mean=0.4).normalize.mean.item() == pytest.approx(0.4)


def test_alexnet_starts_from_its_own_run(tmp_path: Path) -> None:
    source = AlexNet()
    model = AlexNet(num_classes=3, weights=run_of(source, tmp_path))
    assert_taken(model, source)
    assert len(model.loaded_weights.taken) == 14


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "DeepLabV3Plus", "Linknet", "PSPNet"])
def test_head_of_a_segmenter_is_all_but_its_encoder(architecture: str) -> None:
    model = SmpSegmenter(architecture=architecture, encoder="resnet18")
    head = {p for module in model.head_modules() for p in module.parameters()}
    encoder = set(model.network.encoder.parameters())
    assert not head & encoder
    assert head | encoder == set(model.parameters())


def test_a_report_names_a_few_layers() -> None:
    taken = tuple(f"layer{i}.weight" for i in range(20))
    loaded = LoadedWeights(source="x.ckpt", mean=(0.5,), std=(0.5,), taken=taken)
    (line,) = loaded.report()
    assert line.startswith("weights from x.ckpt: 20 of 20 tensors used (layer0, layer1")
    assert line.endswith("layer7, ...)")


@pytest.mark.parametrize(
    ("network", "frozen", "trained"),
    [
        ("tf_efficientnet_lite0", {"conv_stem", "bn1", "blocks.0", "blocks.1"}, {"blocks.2"}),
        ("resnet18", {"conv1", "bn1", "act1", "maxpool", "layer1"}, {"layer2"}),
    ],
)
@pytest.mark.parametrize("of_segmentation", [False, True])
def test_two_stages_are_the_layers_up_to_stride_4(
    network: str, frozen: set[str], trained: set[str], of_segmentation: bool
) -> None:
    if of_segmentation:
        model: Any = SmpSegmenter(encoder=f"tu-{network}")
        inside = model.network.encoder.model
    else:
        model = TimmClassifier(name=network)
        inside = model.network
    stages = {id(module) for module in model.first_stages(2)}
    held = {id(p) for module in model.first_stages(2) for p in module.parameters(recurse=False)}
    for names, expected in ((frozen, True), (trained, False)):
        for name in names:
            leaves = [m for m in inside.get_submodule(name).modules() if not list(m.children())]
            assert {id(leaf) in stages for leaf in leaves} == {expected}
            parameters = inside.get_submodule(name).parameters()  # also those of batch norms
            assert {id(p) in held for p in parameters} <= {expected}
    assert model.first_stages(0) == []


def test_stages_that_a_network_does_not_have_are_refused() -> None:
    with pytest.raises(MedvisionError, match="at most 5 stages, got 6"):
        TimmClassifier(name="resnet18").first_stages(6)
    with pytest.raises(MedvisionError, match="ResNetEncoder does not name its stages"):
        SmpSegmenter(encoder="resnet18").first_stages(1)
