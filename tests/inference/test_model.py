import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import medvision
from medvision.errors import MedvisionError
from medvision.files import take_lock
from medvision.inference import ClassificationResult, Model, SegmentationResult
from medvision.inference.load import find_model, unfinished_note
from medvision.inference.results import enlarge, sigmoid, softmax

MakeModel = Callable[..., Model]


def half_bright(size: tuple[int, int] = (60, 90)) -> Any:
    image = np.zeros((*size, 3), np.uint8)
    image[:, size[1] // 2 :] = 255
    return image


def test_a_mask_has_the_size_of_the_image(make_model: MakeModel) -> None:
    result = make_model().predict(half_bright())
    assert isinstance(result, SegmentationResult)
    assert result.mask.shape == result.probability.shape == (60, 90)
    assert result.mask[:, :40].max() == 0
    assert result.mask[:, 50:].min() == 1
    assert result.foreground_percent == pytest.approx(50, abs=2)
    assert result.num_regions == 1
    assert result.mean_confidence > 0.95
    assert result.overlay().shape == (60, 180, 3)


@pytest.mark.parametrize(
    "as_input",
    [
        pytest.param(lambda pixels, path: pixels, id="rgb"),
        pytest.param(lambda pixels, path: pixels[..., 0], id="grey"),
        pytest.param(lambda pixels, path: pixels[..., :1], id="grey-channel"),
        pytest.param(lambda pixels, path: Image.fromarray(pixels), id="pillow"),
        pytest.param(lambda pixels, path: path, id="path"),
        pytest.param(lambda pixels, path: str(path), id="text"),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_every_kind_of_input_gives_the_same_prediction(
    make_model: MakeModel, tmp_path: Path, as_input: Callable[..., Any], in_channels: int
) -> None:
    pixels, path = half_bright(), tmp_path / "a.png"
    cv2.imwrite(str(path), pixels)
    model = make_model(in_channels=in_channels)
    expected = model.predict(pixels)
    found = model.predict(as_input(pixels, path))
    assert isinstance(found, SegmentationResult)
    assert isinstance(expected, SegmentationResult)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert found.image.shape[2] == in_channels


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((8, 8, 3), np.float32), id="float"),
        pytest.param(np.zeros((8, 8, 4), np.uint8), id="alpha"),
        pytest.param(np.zeros(8, np.uint8), id="line"),
    ],
)
def test_other_arrays_are_refused(make_model: MakeModel, image: Any) -> None:
    with pytest.raises(MedvisionError, match="expected a file, or uint8 pixels"):
        make_model().predict(image)


def test_an_empty_image_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(MedvisionError, match="no pixels"):
        make_model().predict(np.zeros((0, 8, 3), np.uint8))


def test_the_threshold_of_the_card_decides_between_two_classes(make_model: MakeModel) -> None:
    grey = np.full((32, 32, 3), 140, np.uint8)  # logit 0.75: p is 0.68
    for threshold, expected in ((0.5, "ill"), (0.7, "well")):
        model = make_model("classification", ("well", "ill"), threshold=threshold)
        result = model.predict(grey)
        assert isinstance(result, ClassificationResult)
        assert result.predicted == expected
        assert result.probability["ill"] == pytest.approx(1 / (1 + np.exp(-0.75)), abs=1e-6)
        assert sum(result.probability.values()) == pytest.approx(1)
        assert result.confidence == result.probability[expected]


def test_several_classes_take_the_most_probable(make_model: MakeModel) -> None:
    result = make_model("classification", ("a", "b", "c")).predict(half_bright() // 4)
    assert isinstance(result, ClassificationResult)
    assert result.predicted == "a"
    assert sum(result.probability.values()) == pytest.approx(1)


def test_masks_of_several_classes_contain_class_indices(make_model: MakeModel) -> None:
    result = make_model(class_names=("background", "a", "b")).predict(half_bright())
    assert isinstance(result, SegmentationResult)
    assert set(np.unique(result.mask[:, 50:])) == {2}
    assert result.probability.shape == (60, 90, 3)
    np.testing.assert_allclose(result.probability.sum(axis=2), 1, atol=1e-5)


def test_averaging_over_flips_does_not_change_an_invariant_model(
    make_model: MakeModel,
) -> None:
    model = make_model()
    plain, averaged = model.predict(half_bright()), model.predict(half_bright(), tta=True)
    assert isinstance(plain, SegmentationResult)
    assert isinstance(averaged, SegmentationResult)
    np.testing.assert_allclose(averaged.probability, plain.probability, atol=1e-3)
    assert model.engine.batches == [1, 1, 1, 1, 1]  # type: ignore[attr-defined]  four flips


def test_flips_are_undone_before_they_are_averaged(make_model: MakeModel) -> None:
    class LeftOnly:
        threads = 1

        def logits(self, images: Any) -> Any:
            found = np.full((len(images), 1, 32, 32), -9, np.float32)
            found[..., :16] = 9
            return found

    model = make_model()
    model.engine = LeftOnly()  # type: ignore[assignment]
    result = model.predict(half_bright((32, 32)), tta=True)
    assert isinstance(result, SegmentationResult)
    np.testing.assert_allclose(result.probability, 0.5, atol=1e-3)


def test_enlarging_agrees_with_torch() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    for size in ((37, 50), (16, 16), (9, 70), (5, 4)):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(logits)[None], size=size, mode="bilinear"
        )[0, 0]
        np.testing.assert_allclose(enlarge(logits, size), expected.numpy(), atol=1e-5)


def test_extreme_logits_have_probabilities_and_no_warning() -> None:
    np.testing.assert_array_equal(sigmoid(np.array([-500.0, 0, 500], np.float32)), [0, 0.5, 1])
    np.testing.assert_allclose(softmax(np.array([1000.0, 0.0], np.float32)), [1, 0])


def test_a_run_folder_and_its_checkpoint_are_the_same_model(finished: Path) -> None:
    image = half_bright()
    by_folder = medvision.load_model(finished).predict(image)
    by_file = medvision.load_model(str(finished / "checkpoints" / "best.ckpt")).predict(image)
    assert isinstance(by_folder, SegmentationResult)
    assert isinstance(by_file, SegmentationResult)
    np.testing.assert_array_equal(by_folder.logits, by_file.logits)
    assert "polyp" in repr(medvision.load_model(finished))


def test_predictions_are_those_of_the_run(finished_chest: Path) -> None:
    import csv

    from medvision.data.discovery.splits_csv import read_splits
    from medvision.run.storage.saved_run import StoredRun
    from medvision.run.training.build import build

    run = StoredRun.read(finished_chest)
    data = build(run.cfg.data)
    data.restore(read_splits(finished_chest / "splits.csv"))
    model = medvision.load_model(finished_chest)
    with (finished_chest / "predictions_test.csv").open() as stream:
        for row in csv.DictReader(stream):
            result = model.predict(data.read_file(row["path"]))
            assert isinstance(result, ClassificationResult)
            assert result.predicted == row["predicted"]
            for name, p in result.probability.items():
                assert p == pytest.approx(float(row[f"probability/{name}"]), abs=1e-6)


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_files_that_are_not_models_are_refused(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    good = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    evil = {**good["medvision"], "model": {"name": "os.system", "arguments": {"command": "true"}}}
    cases = {
        tmp_path / "none.ckpt": "no such file or folder",
        tmp_path: "checkpoints/best.ckpt is missing",
        tmp_path / "text.ckpt": "cannot be read as a checkpoint",
        write(tmp_path / "object.ckpt", {"state_dict": {}, "x": Path("a")}): "Python objects",
        write(tmp_path / "bare.ckpt", {"state_dict": {}}): "expected a medvision model",
        write(tmp_path / "evil.ckpt", {**good, "medvision": evil}): "names the network os.system",
        write(tmp_path / "other.ckpt", {**good, "state_dict": {}}): "tensors missing",
    }
    for path, message in cases.items():
        with pytest.raises(MedvisionError, match=message):
            medvision.load_model(path)


def test_loading_a_checkpoint_downloads_no_weights(tmp_path: Path, finished_chest: Path) -> None:
    good = torch.load(finished_chest / "checkpoints" / "best.ckpt", weights_only=True)
    good["medvision"]["model"]["arguments"]["weights"] = "/etc/passwd"
    model = medvision.load_model(write(tmp_path / "a.ckpt", good))
    assert model.card.task == "classification"


def test_arguments_of_another_version_are_a_one_line_error(tmp_path: Path, finished: Path) -> None:
    good = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    good["medvision"]["model"]["arguments"]["gates"] = 3
    with pytest.raises(MedvisionError, match=r"UNet does not accept its arguments.*gates"):
        medvision.load_model(write(tmp_path / "a.ckpt", good))


def test_importing_the_package_imports_no_heavy_package() -> None:
    code = (
        "import sys, json, medvision; from medvision.inference.model_card import ModelCard;"
        "print(json.dumps([m for m in ('torch', 'cv2', 'numpy') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_run_that_has_not_finished_is_named_so(tmp_path: Path) -> None:
    write = (tmp_path / "summary.json").write_text
    best = tmp_path / "checkpoints" / "best.ckpt"
    write('{"status": "running"}')  # killed
    with pytest.raises(
        MedvisionError, match=r"its status is interrupted \(.*; continue it: python"
    ):
        find_model(tmp_path)
    release = take_lock(tmp_path / ".lock", wait=False)
    assert release is not None
    with pytest.raises(
        MedvisionError, match=r"its status is running \(.*; wait for its first epoch"
    ):
        find_model(tmp_path)
    best.parent.mkdir()
    best.touch()
    note = "the run has not finished: its status is {}; its best checkpoint so far is used"
    assert find_model(tmp_path) == best
    assert unfinished_note(tmp_path) == note.format("running")
    release()
    assert unfinished_note(tmp_path) == note.format("interrupted")
    write('{"status": "finished"}')
    assert unfinished_note(tmp_path) is None
    assert unfinished_note(best) is None
