from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from medvision.errors import MedvisionError
from medvision.hardware.processes import num_cores
from medvision.inference.engine import OnnxEngine
from medvision.inference.model import load_model
from medvision.inference.results import SegmentationResult

SIZE_PX = 16

CARD = {
    "format": 1,
    "task": "segmentation",
    "model": {"name": "medvision.models.UNet", "arguments": {}},
    "num_parameters": 1,
    "class_names": ["background", "bright"],
    "image_size": SIZE_PX,
    "in_channels": 3,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "threshold": 0.5,
}


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph whose logit is the mean of the channels minus 100."""

    def make(**metadata: str) -> Path:
        shape = ["batch", 3, SIZE_PX, SIZE_PX]
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", ["pixels", "channels"], ["grey"], keepdims=1),
                helper.make_node("Sub", ["grey", "offset"], ["logits"]),
            ],
            "bright",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, *shape[2:]])],
            [
                helper.make_tensor("channels", TensorProto.INT64, [1], [1]),
                helper.make_tensor("offset", TensorProto.FLOAT, [], [100.0]),
            ],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        proto.ir_version = 10
        helper.set_model_props(proto, metadata)
        path = tmp_path / "bright.onnx"
        onnx.save(proto, path)
        return path

    return make


def test_the_engine_gives_the_logits_of_the_graph_for_any_batch(
    make_onnx: Callable[..., Path],
) -> None:
    engine = OnnxEngine(make_onnx(medvision=json.dumps(CARD)))
    rng = np.random.default_rng(0)
    for count in (1, 3):
        images = rng.integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        logits = engine.logits(images)
        assert logits.dtype == np.float32
        expected = images.mean(axis=3, dtype=np.float64)[:, None] - 100
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_the_engine_reads_its_card(make_onnx: Callable[..., Path]) -> None:
    engine = OnnxEngine(make_onnx(medvision=json.dumps(CARD)))
    assert engine.card.class_names == ("background", "bright")
    assert engine.card.image_size == SIZE_PX
    assert engine.threads == num_cores()


def test_parallel_threads_give_the_same_result_as_one(make_onnx: Callable[..., Path]) -> None:
    engine = OnnxEngine(make_onnx(medvision=json.dumps(CARD)))
    images = np.arange(4 * SIZE_PX * SIZE_PX * 3).reshape(4, SIZE_PX, SIZE_PX, 3).astype(np.uint8)
    alone = engine.logits(images)
    found: list[Any] = [None] * 4

    def work(row: int) -> None:
        engine.start_thread()
        found[row] = engine.logits(images[row : row + 1])

    with engine.side_by_side():
        threads = [threading.Thread(target=work, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    np.testing.assert_array_equal(np.concatenate(found), alone)
    np.testing.assert_array_equal(engine.logits(images), alone)


def test_a_model_predicts_with_it_at_the_size_of_the_image(make_onnx: Callable[..., Path]) -> None:
    model = load_model(make_onnx(medvision=json.dumps(CARD)))
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 24:] = 200
    result = model.predict(image)
    assert isinstance(result, SegmentationResult)
    assert result.mask.shape == (32, 48)
    assert result.mask[:, :22].max() == 0
    assert result.mask[:, 26:].min() == 1


def test_prediction_does_not_need_torch(make_onnx: Callable[..., Path]) -> None:
    path = make_onnx(medvision=json.dumps(CARD))
    picture = path.with_suffix(".png")
    cv2.imwrite(str(picture), np.zeros((20, 24, 3), np.uint8))
    code = (
        "import sys, medvision\n"
        f"result = medvision.load_model({str(path)!r}).predict({str(picture)!r})\n"
        "assert result.mask.shape == (20, 24)\n"
        "heavy = {'torch', 'pytorch_lightning', 'timm', 'onnx', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_of_another_program_is_refused_with_a_hint(make_onnx: Callable[..., Path]) -> None:
    for metadata in ({}, {"medvision": "{"}, {"medvision": "[1]"}, {"medvision": "3"}):
        path = make_onnx(**metadata)
        with pytest.raises(MedvisionError) as error:
            load_model(path)
        assert str(error.value) == (
            f"expected a medvision model, but the model card is missing ({path}); give a run"
            " folder, or a .ckpt, .onnx or .safetensors file of medvision"
        )


def test_a_damaged_file_is_a_one_line_error(make_onnx: Callable[..., Path]) -> None:
    path = make_onnx(medvision=json.dumps(CARD))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"no graph", b""):
        path.write_bytes(damaged)
        with pytest.raises(MedvisionError, match="cannot be read as ONNX") as error:
            load_model(path)
        assert error.value.where == str(path)
        assert error.value.hint == "give a file written by medvision export"


def test_an_impossible_card_names_the_value(make_onnx: Callable[..., Path]) -> None:
    path = make_onnx(medvision=json.dumps({**CARD, "image_size": 0}))
    with pytest.raises(MedvisionError, match="invalid image_size in the model card: '0'"):
        load_model(path)


def test_a_missing_runtime_is_reported_with_the_install_command(
    make_onnx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_onnx(medvision=json.dumps(CARD))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MedvisionError) as error:
        load_model(path)
    assert str(error.value) == (
        f"ONNX Runtime is not installed ({path});"
        " run: pip install -e '.[onnx]' (in the medvision checkout)"
    )
