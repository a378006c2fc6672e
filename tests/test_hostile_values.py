"""Values from strangers that would take hours, fill the memory, open files or steer a terminal."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from medvision import files
from medvision.console import screen
from medvision.data.readers.images import read_image
from medvision.data.samples import Sample, SampleTable
from medvision.data.shards.table import read_columns
from medvision.data.splits import groups
from medvision.data.splits.groups import group_by_pattern
from medvision.errors import MedvisionError
from medvision.files import check_finished, read_plain, read_rows
from medvision.hardware.processes import memory_mb
from medvision.inference.engine import OnnxEngine
from medvision.registry import Purpose, build_network
from medvision.reports.run_files import RunFiles
from medvision.run.config.stored import check_stored_config
from medvision.run.storage.saved_run import read_history
from medvision.run.training.results import print_scores


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("^(?:([a-z0-9_/.]+)+)+~", "takes more than"),
        ("(a{99999999999})", "is not a regular expression: the repetition number is too large"),
        ("(" * 3000 + "a" + ")" * 3000, "is not a regular expression: .*recursion"),
    ],
)
def test_a_pattern_that_would_take_for_ever_is_refused(
    pattern: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "MATCHING_S", 0.1)
    table = SampleTable.of([Sample(path=f"a/{'a' * 40}{k}.png", target="a") for k in range(9)])
    with pytest.raises(MedvisionError, match=message) as error:
        group_by_pattern(table, pattern)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg_overlay", "cache_dir"])
@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "SmpSegmenter", "architecture": "Unet", "encoder": "tu-resnet18"},
        {"_target_": "SmpSegmenter", "architecture": "Unet", "encoder": "resnet18"},
        {"_target_": "TimmClassifier", "name": "resnet18"},
    ],
)
def test_a_network_from_a_file_opens_no_other_file(
    option: str, network: dict[str, str], tmp_path: Path
) -> None:
    """Timm before 1.0.20 unpickles what ``checkpoint_path`` names."""
    arguments = dict(network)
    name = f"medvision.models.{arguments.pop('_target_')}"
    with pytest.raises(MedvisionError, match=f"has no option {option} .*set model.weights"):
        build_network(name, {**arguments, option: str(tmp_path / "x")}, where="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: 1" + ":1" * 20_000, "a value of more than 10000 characters"),
        ("x: [" + "1," * 500_000 + "1]", "more than 1000000 characters"),
        ("x: !!bool abc", "the YAML tag"),
        ("x: !!timestamp abc", "the YAML tag"),
        ("x: !!set {a, b}", "the YAML tag"),
        ("x: &a [1]\ny: *a", "YAML aliases"),
        ('x: "\\ud800"', "surrogates"),
    ],
)
def test_yaml_that_would_take_hours_or_is_more_than_values_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "summary.json").write_text('{"task": "segmentation"}')
    with pytest.raises(ValueError, match=message):
        read_plain(tmp_path / "config.yaml")
    with pytest.raises(MedvisionError, match=message):  # a report reads it again
        RunFiles.read(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', "[]"]
)
def test_a_report_refuses_odd_json_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"task": "segmentation"}')
    (tmp_path / "environment.json").write_text(text)
    with pytest.raises(MedvisionError, match=r"cannot read environment\.json"):
        RunFiles.read(tmp_path)


@pytest.mark.parametrize("key", ["seed", "metrics", "experiment", "dataset", "warnings", "status"])
def test_a_summary_with_another_type_is_refused(key: str, tmp_path: Path) -> None:
    summary = {"status": "finished", "seed": 0, key: {"a": 1} if key == "seed" else 1.5}
    with pytest.raises(MedvisionError, match=rf"summary\.json: {key} is .*, expected"):
        check_finished(tmp_path, summary)


def test_a_small_table_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_CELLS", 10_000)
    table = tmp_path / "predictions_test.csv"
    table.write_text(",".join(map(str, range(500))) + "\n" + "1\n" * 30)
    with pytest.raises(MedvisionError, match="more than 10000 cells"):
        read_rows(table)
    table.write_text("a,b\n1,2\n3,4\n")
    assert read_rows(table) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    table.write_text("a\n" + "x" * 200_000)
    with pytest.raises(MedvisionError, match="cannot read the table: field larger"):
        read_rows(table)
    (tmp_path / "metrics.csv").write_text("epoch,val/loss\n0,x\n")
    with pytest.raises(MedvisionError, match="not a table of epochs"):
        read_history(tmp_path)


def test_columns_of_shards_that_share_their_bytes_are_refused() -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, a=np.zeros(1000, np.uint8))
    data = content.getvalue()
    assert list(read_columns(io.BytesIO(data))) == ["a"]
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    ending = bytearray(data[end:])
    ending[8:12] = (50).to_bytes(2, "little") * 2
    ending[12:16] = (50 * (end - start)).to_bytes(4, "little")
    with pytest.raises((ValueError, zipfile.BadZipFile), match="larger than their file"):
        read_columns(io.BytesIO(data[:start] + data[start:end] * 50 + bytes(ending)))


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path: Path) -> None:
    """Each empty scan of a large picture takes as long as a full one."""
    content = io.BytesIO()
    Image.new("L", (16, 16)).save(content, "JPEG", progressive=True)
    data = content.getvalue()
    first = data.index(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg", channels=1).shape == (16, 16, 1)
    (tmp_path / "a.jpg").write_bytes(data[:first] + data[first:-2] * 50 + b"\xff\xd9")
    with pytest.raises(MedvisionError, match=r"picture: \d+ scans"):
        read_image(tmp_path / "a.jpg", channels=1)


def test_a_small_onnx_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, finished: Path
) -> None:
    from onnx import TensorProto, helper

    card = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)["medvision"]
    size = helper.make_tensor("size", TensorProto.INT64, [1], [memory_mb() * 2**20 * 6 // 10 // 4])
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("ReduceMean", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["pixels", "zero"], ["logits"]),
        ],
        "large",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [size],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 10
    helper.set_model_props(proto, {"medvision": json.dumps(card)})
    (tmp_path / "large.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(MedvisionError, match="the network fails on an image"):
        OnnxEngine(tmp_path / "large.onnx").logits(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({"RandomScale": {"scale_limit": [2000, 2000]}}, "scale_limit is '2000', more than 100"),
        ({"TextImage": {"font_path": "/dev/zero"}}, "font_path names a file"),
    ],
)
def test_transforms_of_a_stored_config_neither_grow_images_nor_open_files(
    transforms: dict[str, object], message: str
) -> None:
    data = {"image_size": 64, "batch_size": 2, "train_transforms": transforms}
    with pytest.raises(MedvisionError, match=message):
        check_stored_config(
            OmegaConf.create({"data": data}), Purpose.EVALUATE, where="config.yaml", hint=""
        )


def test_no_text_of_a_summary_steers_the_terminal(
    finished_brain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((finished_brain / "summary.json").read_text())
    odd = "\x1b]0;owned\x07\u202e[red]\nowned"
    summary["dataset"].update(protocol=odd, fold=odd, folds=odd)
    print_scores({**summary, "experiment": odd, "warnings": [odd]})
    said = capsys.readouterr().out
    assert "[red]" in said
    assert all(char.isprintable() or char == "\n" for char in said)
    screen().print("a\x1b[2Jb", markup=False)
    assert capsys.readouterr().out == "a\\x1b[2Jb\n"
