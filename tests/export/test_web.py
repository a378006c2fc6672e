"""The page without a server: its files, its runtime, and what it says about the model."""

import hashlib
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from browser import served
from medvision.errors import MedvisionError
from medvision.export import default_name, web
from medvision.inference import load_model
from medvision.inference.load import DEMO, find_model, summary_of
from medvision.inference.model_card import ModelCard

FILES = {name: name.encode() * 3 for name in web.RUNTIME_FILES}


@pytest.fixture
def small_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for ONNX Runtime Web, laid out as npm lays it out."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(web, "RUNTIME_FILES", digests)
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for name, content in FILES.items():
        (dist / name).write_bytes(content)
    return dist


@pytest.fixture
def card(finished: Path) -> ModelCard:
    return load_model(finished).card


def test_the_runtime_is_read_from_a_folder_or_an_archive_of_npm(
    small_runtime: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "runtime.tgz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(tmp_path / "package", "package")
    for place in (small_runtime, small_runtime.parent, tmp_path, archive):
        assert web.runtime_files(place) == FILES


def test_another_runtime_is_refused(small_runtime: Path) -> None:
    changed = small_runtime / "ort-wasm-simd-threaded.wasm"
    changed.write_bytes(b"something else")
    with pytest.raises(MedvisionError, match="is not that of onnxruntime-web"):
        web.runtime_files(small_runtime)
    changed.unlink()
    with pytest.raises(MedvisionError, match="is missing"):
        web.runtime_files(small_runtime)
    with pytest.raises(MedvisionError, match=r"cannot be read as a \.tgz archive"):
        web.runtime_files(small_runtime / "ort.wasm.min.js")
    with pytest.raises(MedvisionError, match="cannot read the runtime"):
        web.runtime_files(small_runtime / "nothing.tgz")


def test_the_runtime_is_fetched_once(
    small_runtime: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    with served(small_runtime) as address:
        monkeypatch.setattr(web, "RUNTIME_URL", address)
        assert web.runtime_files(None) == FILES
    assert web.runtime_files(None) == FILES  # the server is gone


def test_a_changed_download_is_refused_and_a_missing_network_says_what_to_do(
    small_runtime: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "RUNTIME_URL", "http://127.0.0.1:9/")
    with pytest.raises(MedvisionError, match=r"cannot fetch .*npm pack onnxruntime-web@") as failed:
        web.runtime_files(None)
    assert failed.value.exit_code == 3
    (small_runtime / "ort.wasm.min.js").write_bytes(b"something else")
    with served(small_runtime) as address:
        monkeypatch.setattr(web, "RUNTIME_URL", address)
        with pytest.raises(MedvisionError, match="cannot fetch"):
            web.runtime_files(None)
    assert not list((tmp_path / "cache").rglob("ort.*"))


def test_the_page_names_no_address_of_others() -> None:
    for name in web.PAGE_FILES:
        text = (web.WEB / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", text), name


def test_the_page_says_what_was_measured_on_which_images_and_which_leaks_there_were(
    card: ModelCard,
) -> None:
    real = replace(card, synthetic=False, dataset="kvasir")
    summary = {
        "dataset": {"protocol": "merged", "num_images": {"train": 1234, "test": 56}},
        "metrics": {"val/dice": 0.9, "test/dice": 0.8125, "test/dice_ci95": [0.7, 0.9]},
        "warnings": ["LEAK: 3 of 56 test images"],
    }
    facts = web.ModelFacts.of(real, summary)
    assert facts.title == "Segmentation: polyp"
    assert ("Trained on", "kvasir, 1,234 training images") in facts.facts
    assert dict(facts.facts)["Split"].startswith("merged protocol, all images pooled")
    assert facts.measured_on == "56 test images of kvasir"
    (dice,) = facts.scores
    assert dice["value"] == "0.812 (95 % interval 0.700 to 0.900)"
    assert facts.warnings == ["LEAK: 3 of 56 test images"]


def test_a_model_without_its_run_has_no_scores(card: ModelCard) -> None:
    facts = web.ModelFacts.of(card, {})
    assert facts.scores == []
    assert ("Measured", "unknown: the model was exported without its run") in facts.facts
    assert "phantoms" in dict(facts.facts)["Trained on"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.root=/usr/lib/scans is read", "data.root=scans is read"),
        ("file:///usr/lib/scans or a:/usr/lib", "file://scans or a:lib"),
        ("see <td>/usr/lib/python</td>", "see <td>python</td>"),
        ("'/usr/share/x y' and /usr/bin/env;", "'x y' and env;"),
        ("1/2 of 3/4, and/or, 12/11/2026", "1/2 of 3/4, and/or, 12/11/2026"),
        ("</td><br/>", "</td><br/>"),
        ("https://example.org/usr/lib/x", "https://example.org/usr/lib/x"),
        (
            "data:image/png;base64,AB/usr/lib+/usr/lib=",
            "data:image/png;base64,AB/usr/lib+/usr/lib=",
        ),
        ("/no_such_folder/a/b", "/no_such_folder/a/b"),
        ("/usr", "/usr"),
    ],
)
def test_paths_of_this_machine_become_their_last_part(text: str, expected: str) -> None:
    assert web.without_paths(text) == expected


def test_warnings_name_no_folder_of_this_machine(card: ModelCard, tmp_path: Path) -> None:
    facts = web.ModelFacts.of(card, {"warnings": [f"LEAK in {tmp_path}/scans; see 3/4"]})
    assert facts.warnings == ["LEAK in scans; see 3/4"]


def test_many_classes_are_counted_in_the_title(card: ModelCard) -> None:
    names = ("background", "a", "b", "c")
    assert (
        web.ModelFacts.of(replace(card, class_names=names), {}).title == "Segmentation: 3 classes"
    )


def test_class_names_cannot_end_the_script() -> None:
    text = web._script_json({"name": "</script><script>alert(1)\u2028"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"name": "</script><script>alert(1)\u2028"}


def test_only_models_of_phantoms_come_with_an_example(card: ModelCard) -> None:
    assert card.synthetic
    assert web._example(card) is not None
    assert web._example(replace(card, synthetic=False)) is None


def test_a_model_that_the_page_cannot_prepare_images_for_is_refused(card: ModelCard) -> None:
    with pytest.raises(MedvisionError, match=r"transforms that the model needs: CLAHE"):
        web._check_supported(replace(card, eval_transforms={"CLAHE": {}}), where="x")


def test_a_folder_with_other_files_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MedvisionError, match="exists and is not empty"):
        web.export_page(finished, out=tmp_path, report=print)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_demo_is_the_model_of_the_package_unless_a_folder_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model(Path("demo")) == DEMO / "model.safetensors"
    assert summary_of(Path("demo"))["metrics"]["test/dice"] > 0.9
    (tmp_path / "demo").mkdir()
    with pytest.raises(MedvisionError, match="not a run folder"):
        find_model(Path("demo"))
    assert summary_of(Path("demo")) == {}


def test_the_demo_segments_phantoms_of_any_size() -> None:
    from medvision.data.phantoms.polyps import draw_polyp_scene

    model = load_model("demo")
    assert model.card.synthetic
    assert model.source.stat().st_size < 2.5e6
    for size_px in (128, 300):
        overlap = total = 0
        for index in range(9_000, 9_004):
            image, mask = draw_polyp_scene(index, size_px=size_px)
            predicted: Any = model.predict(image)
            overlap += 2 * int((predicted.mask & (mask > 0)).sum())
            total += int(predicted.mask.sum() + (mask > 0).sum())
        assert overlap / total > 0.85


def test_the_demo_is_not_overwritten() -> None:
    with pytest.raises(MedvisionError, match=r"stays as it is .* --out"):
        default_name(Path("demo"), "onnx")
