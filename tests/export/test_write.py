from __future__ import annotations

import copy
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.errors import MedvisionError
from medvision.export import default_name, export_model
from medvision.inference import load_model, load_network
from medvision.registry import build_network


def silent(line: str) -> None:
    """Discard the report."""


def test_safetensors_give_exactly_the_same_network(
    unet_checkpoint: Path, tmp_path: Path, lines: list[str]
) -> None:
    out = tmp_path / "unet.safetensors"
    done = export_model(unet_checkpoint, format="safetensors", out=out, report=lines.append)
    ours, card = load_network(unet_checkpoint)
    again, its_card = load_network(out)
    assert its_card == card
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in ours.state_dict().items())
    assert (done.largest_difference, done.same_percent) == (0, 100)
    names = ["unet.json", "unet.md", "unet.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert "exported without its run folder" in (tmp_path / "unet.md").read_text()


def test_the_json_rebuilds_the_network_without_a_config(
    unet_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "unet.safetensors"
    export_model(unet_checkpoint, format="safetensors", out=out, report=silent)
    values = json.loads(out.with_suffix(".json").read_text())
    assert values["file"] == "unet.safetensors"
    assert values["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert values["description"]["class_names"] == '["background", "polyp"]'

    model = values["medvision"]["model"]
    network = build_network(model["name"], model["arguments"], where="test")
    network.load_state_dict(load_file(out))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    ours, _ = load_network(unet_checkpoint)
    with torch.inference_mode():
        assert torch.equal(network.eval()(images), ours(images))


def test_a_file_with_other_results_is_refused_and_removed(
    unet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = torch.onnx.export

    def export_other_weights(model: torch.nn.Module, *args: Any, **options: Any) -> Any:
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(other.parameters()).mul_(1.01)
        return export(other, *args, **options)

    monkeypatch.setattr(torch.onnx, "export", export_other_weights)
    out = tmp_path / "unet.onnx"
    out.write_text("an earlier one")
    with pytest.raises(MedvisionError, match="the exported network differs from PyTorch") as error:
        export_model(unet_checkpoint, format="onnx", out=out, report=silent)
    assert error.value.exit_code == 3
    assert error.value.where == str(out)
    assert [file.name for file in tmp_path.iterdir()] == ["unet.onnx"]
    assert out.read_text() == "an earlier one"


def test_a_network_that_cannot_be_exported_is_a_one_line_error(
    unet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(MedvisionError) as error:
        export_model(unet_checkpoint, format="onnx", out=tmp_path / "unet.onnx", report=silent)
    assert str(error.value) == (
        "the network cannot be exported to ONNX: no such operator (UNet); export to safetensors"
    )
    assert error.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_cannot_be_run_is_removed(
    unet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = torch.onnx.export

    def export_one_image(*args: Any, **options: Any) -> Any:
        return export(*args, **{**options, "dynamic_shapes": None})

    monkeypatch.setattr(torch.onnx, "export", export_one_image)  # only of two images
    with pytest.raises(MedvisionError, match="ONNX Runtime cannot run the exported") as error:
        export_model(unet_checkpoint, format="onnx", out=tmp_path / "unet.onnx", report=silent)
    assert error.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_reported_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    (tmp_path / "model.ckpt").write_text("never read")
    with pytest.raises(MedvisionError) as error:
        export_model(
            tmp_path / "model.ckpt", format="onnx", out=tmp_path / "model.onnx", report=silent
        )
    assert str(error.value) == (
        "onnxscript is not installed (--format onnx);"
        " run: pip install -e '.[onnx]' (in the medvision checkout)"
    )


def test_wrong_names_are_refused_with_the_right_one(unet_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "model.json").write_text('{"mine": 1}')
    (tmp_path / "other.onnx").touch()
    cases: list[tuple[Path, Any, Path, str]] = [
        (
            unet_checkpoint,
            "onnx",
            tmp_path / "m.pt",
            f"ending in .onnx (--out {tmp_path / 'm.pt'})",
        ),
        (
            unet_checkpoint,
            "onnx",
            tmp_path,
            f"expected a file, got a folder (--out {tmp_path}); give a file",
        ),
        (unet_checkpoint, "onnx", tmp_path / "file" / "m.onnx", "cannot write the file: "),
        (
            unet_checkpoint,
            "safetensors",
            tmp_path / "model.safetensors",
            "overwrite an unrelated file",
        ),
        (tmp_path / "other.onnx", "onnx", tmp_path / "m.onnx", "cannot be exported"),
        (tmp_path / "none", "onnx", tmp_path / "m.onnx", "no such file or folder"),
    ]
    before = sorted(tmp_path.iterdir())
    for source, kind, out, message in cases:
        with pytest.raises(MedvisionError) as error:
            export_model(source, format=kind, out=out, report=silent)
        assert message in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_the_source_model_is_never_overwritten(unet_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "unet.safetensors"
    export_model(unet_checkpoint, format="safetensors", out=out, report=silent)
    with pytest.raises(MedvisionError, match="would overwrite its source model"):
        export_model(out, format="safetensors", out=default_name(out, "safetensors"), report=silent)


def test_the_file_is_written_beside_the_checkpoint_by_default(finished: Path) -> None:
    assert default_name(finished, "onnx") == finished / "checkpoints" / "best.onnx"
    last = finished / "checkpoints" / "last.ckpt"
    assert default_name(last, "safetensors") == last.with_suffix(".safetensors")


def test_the_export_is_checked_on_the_given_images(
    unet_checkpoint: Path, tmp_path: Path, lines: list[str]
) -> None:
    picture = tmp_path / "scene.png"
    cv2.imwrite(str(picture), draw_polyp_scene(0, size_px=50)[0])
    out = tmp_path / "unet.safetensors"
    done = export_model(
        unet_checkpoint, format="safetensors", out=out, images=[picture], report=lines.append
    )
    assert (done.num_checked, done.checked_on) == (1, "1 image given")
    assert lines[1].startswith("checked on 1 image given: logits differ by at most 0.0e+00 (")
    assert lines[1].endswith("100.000 % of pixels get the same class")


def test_an_unreadable_given_image_stops_the_export(unet_checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(MedvisionError, match=r"broken\.png"):
        export_model(
            unet_checkpoint,
            format="safetensors",
            out=tmp_path / "unet.safetensors",
            images=[broken],
            report=silent,
        )
    assert [file.name for file in tmp_path.iterdir()] == ["broken.png"]


def test_a_finished_run_is_exported_unchanged(finished: Path, tmp_path: Path) -> None:
    done = export_model(
        finished, format="safetensors", out=tmp_path / "polyp.safetensors", report=silent
    )
    assert done.checked_on == "8 phantoms, because the run was trained on phantoms"
    ours, theirs = load_model(finished), load_model(done.path)
    assert theirs.card == ours.card
    image = draw_polyp_scene(2, size_px=64)[0]
    np.testing.assert_array_equal(theirs.predict(image).mask, ours.predict(image).mask)


def test_a_finished_classifier_keeps_its_classes_and_threshold(
    finished_chest: Path, tmp_path: Path
) -> None:
    done = export_model(finished_chest, format="onnx", out=tmp_path / "model.onnx", report=silent)
    assert load_model(done.path).card == load_model(finished_chest).card
    assert done.same_percent == 100


def test_a_damaged_safetensors_file_is_a_one_line_error(
    unet_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "unet.safetensors"
    export_model(unet_checkpoint, format="safetensors", out=out, report=silent)
    content = out.read_bytes()
    out.write_bytes(content[: len(content) // 2])
    with pytest.raises(MedvisionError, match="cannot be read as safetensors") as error:
        load_model(out)
    assert error.value.where == str(out)

    save_file({"a": torch.zeros(1)}, out)
    with pytest.raises(MedvisionError, match="expected a medvision model"):
        load_model(out)

    save_file({"a": torch.zeros(1)}, out, metadata={"medvision": "{"})
    with pytest.raises(MedvisionError, match="cannot be read as safetensors"):
        load_model(out)
