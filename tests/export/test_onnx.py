from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import medvision
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.export import export_model
from medvision.inference import load_model, load_network
from medvision.inference.model_card import ModelCard

CLASSES = ("glioma", "meningioma", "none", "pituitary")

NETWORKS = [
    pytest.param(
        "UNet",
        {"in_channels": 1, "num_classes": 3, "base_channels": 4, "batch_norm": True},
        {"image_size": 40},  # not a multiple of the stride: padded
        id="unet",
    ),
    pytest.param(
        "SimpleCNN",
        {"in_channels": 1, "num_classes": 2, "image_size": 32, "base_channels": 2},
        {"task": "classification", "class_names": ("normal", "pneumonia")},
        id="cnn",
    ),
    pytest.param(
        "TimmClassifier",
        {"name": "test_resnet", "in_channels": 1, "num_classes": 4},
        {"task": "classification", "class_names": CLASSES},
        id="timm",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "AlexNet",
        {"in_channels": 1, "num_classes": 4},  # pools adaptively, from sizes that 6 does not divide
        {"task": "classification", "class_names": CLASSES, "image_size": 64},
        id="alexnet",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "SmpSegmenter",
        {"architecture": "Unet", "encoder": "tu-tf_efficientnet_lite0", "in_channels": 3}
        | {"num_classes": 2, "weights": "none"},
        {"image_size": 64},
        id="smp-lite0",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "SmpSegmenter",
        {"architecture": "Unet", "encoder": "resnet18", "in_channels": 3}
        | {"num_classes": 2, "weights": "none"},
        {"image_size": 64},
        id="smp-resnet18",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "TimmClassifier",
        {"name": "tf_efficientnet_lite0", "in_channels": 1, "num_classes": 4},
        {"task": "classification", "class_names": CLASSES, "image_size": 64},
        id="timm-lite0",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("name", "arguments", "values"), NETWORKS)
def test_every_exported_network_gives_its_logits_at_any_batch_size(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    lines: list[str],
    capfd: pytest.CaptureFixture[str],
    name: str,
    arguments: dict[str, Any],
    values: dict[str, Any],
) -> None:
    checkpoint = make_checkpoint(name, arguments, **values)
    out = tmp_path / "out" / "model.onnx"
    done = export_model(checkpoint, format="onnx", out=out, report=lines.append)

    network, card = load_network(checkpoint)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch_size in (1, 5):
        shape = (batch_size, card.in_channels, card.image_size, card.image_size)
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(images))
        logits, probability = session.run(["logits", "probability"], {"image": images})
        assert logits.shape == tuple(wanted.shape)
        np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-4, atol=1e-4)
        meaning = wanted.sigmoid() if wanted.shape[1] == 1 else wanted.softmax(1)
        np.testing.assert_allclose(probability, meaning.numpy(), atol=1e-4)
    assert (done.path, done.num_checked) == (out, 8)
    assert 0 <= done.largest_difference < 1e-4
    assert sorted(file.name for file in out.parent.iterdir()) == ["model.md", "model.onnx"]
    assert lines[-1].startswith(f"wrote {out} (")
    assert capfd.readouterr() == ("", "")  # exporting prints nothing else


def test_the_graph_names_its_input_and_outputs(unet_onnx: Path) -> None:
    proto = onnx.load(unet_onnx)
    onnx.checker.check_model(proto, full_check=True)
    (image,) = proto.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert (image.name, dims) == ("image", ["batch", 3, 32, 32])
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [output.name for output in proto.graph.output] == ["logits", "probability"]
    assert proto.opset_import[0].version == 18
    assert proto.ir_version <= 10  # supported by ONNX Runtime 1.20


def test_the_metadata_describe_how_the_file_is_used(unet_checkpoint: Path, unet_onnx: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(unet_onnx).metadata_props}
    _, card = load_network(unet_checkpoint)
    assert ModelCard.from_dict(json.loads(metadata["medvision"]), where="test") == card
    assert json.loads(metadata["class_names"]) == ["background", "polyp"]
    assert json.loads(metadata["mean"]) == json.loads(metadata["std"]) == [0.5, 0.5, 0.5]
    assert (metadata["image_size"], metadata["in_channels"]) == ("32", "3")
    assert metadata["threshold"] == "0.4"
    assert metadata["medvision_version"] == medvision.__version__
    assert metadata["input"] == (
        "image: uint8 (N, 3, 32, 32), RGB, 0-255; resize to 32 x 32: area when shrinking,"
        " bilinear when growing"
    )
    assert metadata["normalisation"].startswith("inside the network")
    assert metadata["output"].startswith("logits: float32 (N, 1, 32, 32) of polyp; probability:")
    assert metadata["postprocessing"].endswith("polyp where sigmoid(logit) >= 0.4, else background")
    assert "not a medical device" in metadata["notice"]


def test_the_file_contains_no_local_path(unet_onnx: Path) -> None:
    content = unet_onnx.read_bytes()
    assert b".py" not in content
    assert b"site-packages" not in content


def test_the_exported_model_predicts_the_masks_of_the_checkpoint(
    unet_checkpoint: Path, unet_onnx: Path
) -> None:
    ours, theirs = load_model(unet_checkpoint), load_model(unet_onnx)
    same = total = foreground = 0
    for index in range(10):
        image = draw_polyp_scene(index, size_px=96, seed=3)[0]
        a, b = ours.predict(image).mask, theirs.predict(image).mask
        same, total, foreground = same + int((a == b).sum()), total + a.size, foreground + a.sum()
    assert same / total >= 0.999
    assert 0.05 < foreground / total < 0.95
