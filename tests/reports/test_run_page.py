import base64
import html
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvision.errors import MedvisionError
from medvision.reports.page import Table
from medvision.reports.run_facts import split_in_words
from medvision.reports.run_page import Case, write_report
from medvision.reports.task_report import Section, SegmentationReport

Write = Callable[..., Path]


class Page(HTMLParser):
    """Tags in their order, with the attributes of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def report(folder: Path, **cases: Any) -> str:
    path = write_report(folder, **cases)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def words(text: str) -> str:
    """Visible text, in one line."""
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def sections(text: str) -> list[str | None]:
    return [attributes["id"] for attributes in Page(text).all("section")]


def table_row(text: str, name: str) -> list[str]:
    """Cells of the row that starts with a name."""
    for line in re.findall(r"<tr.*?</tr>", text, re.DOTALL):
        cells = [words(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)]
        if cells[0] == name:
            return cells[1:]
    raise AssertionError(f"no line {name}")


def case(name: str = "a.png", *, wrong: bool = False) -> Case:
    picture = np.full((40, 90, 3), (200, 30, 30), np.uint8)
    return Case(title=name, caption="Dice 0.312, IoU 0.184", picture=picture, wrong=wrong)


def test_the_headline_names_network_data_and_score(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    config = "data:\n  root: /data/kvasir\n  class_names: [background, polyp]\n"
    assert (
        "UNet (1.9 M parameters), trained on 1,800 images of polyps (kvasir), segments polyp in"
        " 12 test images with a mean Dice of 0.931 (95 % interval 0.912 to 0.945)."
    ) in words(report(write_run(segmentation, config=config)))


@pytest.mark.parametrize(
    ("changed", "seen", "of_tab"),
    [
        ({}, "polyp_unet: segmentation of polyps", ", Dice 0.931 on test images"),
        ({"experiment": "segmentation"}, "Segmentation of polyps", ", Dice 0.931 on test images"),
        (
            {"metrics": {}, "status": "running"},
            "polyp_unet: segmentation of polyps",
            "",
        ),
        (
            {"evaluated": {"run": "r", "data": "d", "split": "val", "external": False}},
            "polyp_unet: segmentation of polyps, evaluated",
            ", Dice 0.940 on validation images",
        ),
    ],
)
def test_the_title_names_experiment_task_and_data_and_that_of_the_tab_the_score(
    write_run: Write, segmentation: dict[str, Any], changed: dict[str, Any], seen: str, of_tab: str
) -> None:
    text = report(write_run({**segmentation, **changed}))
    assert f"<h1>{seen}</h1>" in text
    assert f"<title>{seen}{of_tab} - medvision report</title>" in text


def test_the_title_of_a_run_on_phantoms_says_so(
    write_run: Write, classification: dict[str, Any]
) -> None:
    title = "chest_xray_cnn: classification of chest_xray (synthetic)"
    assert f"<h1>{title}</h1>" in report(write_run(classification))


def test_the_headline_of_a_classifier_names_its_classes_accuracy_and_auroc(
    write_run: Write, classification: dict[str, Any]
) -> None:
    assert (
        "SimpleCNN (31.2 k parameters), trained on 40 synthetic images of chest_xray,"
        " distinguishes NORMAL and PNEUMONIA in 10 test images with an accuracy of 0.900 (95 %"
        " interval 0.600 to 1.000) and an AUROC of 0.950 (95 % interval 0.800 to 1.000)."
    ) in words(report(write_run(classification)))


def test_the_headline_says_that_one_class_is_predicted_for_all_images(
    write_run: Write, classification: dict[str, Any]
) -> None:
    run = write_run(classification)
    rows = ["path,target,predicted", *(f"{k}.png,NORMAL,NORMAL" for k in range(9))]
    (run / "predictions_test.csv").write_text("\n".join([*rows, "9.png,PNEUMONIA,NORMAL"]) + "\n")
    seen = words(report(run))
    assert "predicts NORMAL for each of 10 test images, an accuracy of 0.900 (95 %" in seen
    assert "distinguishes" not in seen


def test_an_evaluation_on_other_data_is_named(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    segmentation["dataset"] |= {"name": "cvc", "num_images": {"train": 0, "val": 0, "test": 612}}
    segmentation["evaluated"] = {
        "run": "runs/polyp_unet/2026",
        "data": "/data/cvc",
        "split": "all",
        "external": True,
    }
    folder = write_run(
        segmentation,
        config="data:\n  root: null\n",
        environment=json.dumps({"command": "train.py experiment=polyp_unet"}),
    )
    seen = words(report(folder))
    assert (
        "UNet (1.9 M parameters), trained on synthetic images in the run polyp_unet/2026 and"
        " evaluated on other images, segments the foreground in 612 images of cvc with a mean Dice"
    ) in seen
    assert "medvision evaluate runs/polyp_unet/2026 --data /data/cvc --split all" in seen
    assert "Synthetic data." not in seen


def test_a_second_validation_is_not_called_a_test(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    segmentation["evaluated"] = {"run": "r", "data": "d", "split": "val", "external": False}
    seen = words(report(write_run(segmentation)))
    assert "segments the foreground in 100 validation images with a mean Dice of 0.940." in seen


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_an_interrupted_run_without_scores_has_a_page_and_no_result(
    write_run: Write, segmentation: dict[str, Any], status: str
) -> None:
    segmentation |= {"status": status, "metrics": {}, "warnings": [], "timing": {}}
    text = report(write_run(segmentation))
    assert "has no result yet: the run was interrupted." in words(text)
    assert sections(text) == ["data", "run"]


def test_sections_without_content_are_absent(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    text = report(write_run(segmentation, plots=("loss",)))
    assert sections(text) == [
        "numbers",
        "warnings",
        "data",
        "curves",
        "own-reporting-guidelines",
        "definitions",
        "run",
    ]
    page = Page(text)
    assert not page.all("details", "pre")  # neither config nor command
    links = {attributes["href"] for attributes in page.all("a")}
    ids = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert links <= ids
    assert "Command to repeat the run" not in text


def test_a_full_run_has_every_section_in_order(full_run: Path) -> None:
    text = report(full_run, worst=[case(wrong=True)], typical=[case("b.png")])
    assert sections(text) == [
        "numbers",
        "warnings",
        "images",
        "data",
        "details",
        "judged",
        "curves",
        "thresholds",
        "own-reporting-guidelines",
        "definitions",
        "run",
    ]
    assert ">ROC, precision-recall, calibration and confusion</h2>" in text
    seen = words(text)
    assert "Synthetic data. The images are generated by code." in seen
    assert "Merged protocol: data leakage between the splits." in seen
    assert "merged protocol, all images pooled and drawn one by one (data leakage)" in seen
    assert "medvision is not a medical device" in seen
    assert "THE MERGED PROTOCOL LEAKS: 2 of 10 test images" in seen
    assert "1 of 2 images are misclassified." in seen
    assert "wrong: Dice 0.312, IoU 0.184" in seen
    assert "python train.py experiment=polyp_unet seed=3" in seen
    assert "2 known (patients or near-duplicates); each kept in one split" in seen


def test_scores_have_three_decimals_or_are_shown_as_undefined(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    text = report(write_run(segmentation))
    assert table_row(text, "Score") == ["Test", "Validation", "Train", "0 to 1"]
    assert table_row(text, "Dice")[:3] == ["0.931 0.912 to 0.945", "0.940", "0.950"]
    assert table_row(text, "AUROC (pixels)")[:2] == ["undefined", "\N{EN DASH}"]
    assert not re.search(r"\b(NaN|nan|None|null)\b", words(text))


def test_distances_have_their_unit_and_the_number_of_excluded_images(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    segmentation["metrics"] |= {
        "test/hd95_px": 9.234,
        "test/hd95_px_ci95": [7.11, 12.9],
        "test/hd95_px_undefined": 2,
    }
    text = report(write_run(segmentation))
    assert table_row(text, "HD95, px")[0] == "9.2 7.1 to 12.9"
    assert "HD95 is undefined for 2 test images, which its mean excludes." in words(text)


def test_classes_are_listed_with_intervals_and_undefined_scores(
    write_run: Write, classification: dict[str, Any]
) -> None:
    text = report(write_run(classification))
    details = text[text.index('id="details"') :]
    assert table_row(details, "NORMAL")[:3] == ["4", "1.000 0.398 to 1.000", "0.800"]
    assert table_row(details, "PNEUMONIA")[:3] == ["6", "0.833", "undefined"]


def test_lesion_sizes_are_listed_by_the_share_of_the_image(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    size = {"from_percent": 0.0, "to_percent": 0.0, "num_images": 1, "dice": 1.0, "dice_ci95": None}
    large = {"from_percent": 5.04, "to_percent": 31.6, "num_images": 11}
    segmentation["lesion_sizes"] = [
        {"name": "no lesion", **size},
        {"name": "large", **large, "dice": 0.9, "dice_ci95": [0.8, 0.95], "hd95_px_undefined": 3},
    ]
    text = report(write_run(segmentation))
    assert ">By lesion size</h2>" in text
    assert table_row(text, "no lesion")[:3] == ["0.0 %", "1", "1.000"]
    assert "HD95 excludes images with an empty mask: 3 of large." in words(text)
    assert table_row(text, "large")[:3] == ["5.0 to 31.6 %", "11", "0.900 0.800 to 0.950"]


def test_thresholds_show_their_origin_and_the_share_of_positives_for_ppv(full_run: Path) -> None:
    text = report(full_run)
    row = table_row(text, "Youden's J")
    assert row == ["0.610", "validation", *["0.750 0.500 to 0.900"] * 3, "undefined"]
    assert "none on test images. 6 images are positive and 4 negative" in words(text)
    assert "apply to this share of positive images (60.0 %)" in words(text)


def test_ppv_and_npv_at_a_prevalence_are_beside_those_of_the_test_images(
    full_run: Path,
) -> None:
    summary = json.loads((full_run / "summary.json").read_text())
    for point in summary["operating_points"]:
        point |= {"prevalence": 0.02, "ppv_at_prevalence": 0.0722}
        point |= {"ppv_at_prevalence_ci95": [0.0589, 0.0904]}
        point |= {"npv_at_prevalence": None, "npv_at_prevalence_ci95": None}
    (full_run / "summary.json").write_text(json.dumps(summary))
    text = report(full_run)
    assert table_row(text, "Threshold")[-4:] == ["PPV", "NPV", "PPV at 2 %", "NPV at 2 %"]
    assert table_row(text, "in use")[-2:] == ["0.0722 0.0589 to 0.0904", "undefined"]
    assert "The last two columns apply if 2 % of the patients are ill" in words(text)
    assert 'id="define-prevalence"' in text


def calibrated(summary: dict[str, Any], after: float) -> dict[str, Any]:
    summary["metrics"] |= {
        "test/ece": 0.16,
        "test/ece_ci95": [0.12, 0.19],
        "test/ece_calibrated": after,
        "test/ece_calibrated_ci95": [0.01, 0.3],
        "test/brier": 0.3,
        "test/brier_calibrated": 0.25,
        "val/ece": 0.1,
        "val/ece_calibrated": 0.02,
    }
    fitted = {"temperature": 1.6543, "fitted_on": "val", "num_images": 1072}
    return {**summary, "calibration": {**fitted, "threshold_calibrated": 0.4622}}


def test_calibration_is_shown_before_and_after_with_its_effect(
    write_run: Write, classification: dict[str, Any]
) -> None:
    text = report(write_run(calibrated(classification, 0.04)))
    details = text[text.index('id="calibration"') :]
    assert table_row(details, "Score") == [
        "Test, before",
        "Test, after",
        "Validation, before",
        "Validation, after",
    ]
    assert table_row(details, "Calibration error (ECE)") == [
        "0.160 0.120 to 0.190",
        "0.040 0.010 to 0.300",
        "0.100",
        "0.020",
    ]
    assert table_row(details, "Brier score")[:2] == ["0.300", "0.250"]
    seen = words(text)
    assert "Temperature 1.65, fitted on 1,072 validation images" in seen
    assert "no prediction: the threshold of 0.4412 becomes 0.4622." in seen
    assert "the error increased" not in seen
    numbers = text[text.index('id="numbers"') : text.index('id="data"')]
    assert "after temperature scaling" not in numbers
    assert 'id="define-ece-calibrated"' in text


def test_a_temperature_that_makes_the_test_images_worse_is_reported(
    write_run: Write, classification: dict[str, Any]
) -> None:
    assert (
        "On the test images the error increased: the validation images do not represent them."
    ) in words(report(write_run(calibrated(classification, 0.2))))


def test_without_a_temperature_there_is_no_calibration_table(
    write_run: Write, classification: dict[str, Any]
) -> None:
    assert "calibration" not in sections(report(write_run(classification)))


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        (None, "0.4412"),
        ({"rule": "fixed", "chosen_on": "fixed"}, "0.4412, fixed beforehand"),
        (
            {"rule": "sensitivity", "num_images": 1072, "sensitivity": 0.9},
            "0.4412, sensitivity of 90 % on 1,072 validation images",
        ),
        (
            {"rule": "youden", "chosen_on": "val", "num_images": 40},
            "0.4412, best Youden's J on 40 validation images",
        ),
    ],
)
def test_the_rule_of_the_threshold_is_reported(
    write_run: Write, classification: dict[str, Any], rule: dict[str, Any] | None, shown: str
) -> None:
    if rule is not None:
        classification["threshold_rule"] = rule
    text = report(write_run(classification))
    assert table_row(text[text.index('id="run"') :], "Threshold") == [shown]


def test_validation_scores_have_their_intervals_too(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    segmentation["metrics"]["val/dice_ci95"] = [0.93, 0.95]
    text = report(write_run(segmentation))
    assert table_row(text, "Dice")[1] == "0.940 0.930 to 0.950"


def test_groups_in_two_splits_are_counted(write_run: Write, segmentation: dict[str, Any]) -> None:
    splits = "split,path,target,group\ntrain,a,m,g1\ntest,b,m,g1\ntest,c,m,g2\nval,d,m,\n"
    seen = words(report(write_run(segmentation, splits=splits)))
    assert (
        "2 known (patients or near-duplicates), 1 image without one; 1 in more than one split"
    ) in seen


def test_untrusted_names_are_shown_and_never_executed(
    write_run: Write, classification: dict[str, Any]
) -> None:
    evil = "<script>alert(1)</script>"
    classification["experiment"] = f"{evil}$x$"
    classification["dataset"]["class_counts"] = {"test": {"$x$": 4, evil: 6}}
    classification["metrics"] |= {f"test/recall/{evil}": 0.5, "test/recall/$x$": 0.25}
    classification["warnings"] = [f"<img src=https://example.org/{evil}>"]
    folder = write_run(
        classification,
        config=f"note: '\"><img src=x onerror=alert(1)>{evil}'\n",
        environment=json.dumps({"command": f"train.py experiment={evil}"}),
    )
    text = report(folder, worst=[case(f'a" onload="x{evil}.png')])
    page = Page(text)
    assert not page.all("script")
    assert len(page.all("img")) == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    seen = words(text)
    assert f"{evil}$x$" in html.unescape(text)
    assert "distinguishes $x$ and" in seen
    assert table_row(text, "$x$")[:2] == ["4", "0.250"]


def test_the_page_is_self_contained(full_run: Path) -> None:
    page = Page(report(full_run, worst=[case()]))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert not page.all("script", "iframe", "object", "embed", "form")
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")
    style = (full_run / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_picture_has_a_text_and_headings_skip_no_level(full_run: Path) -> None:
    page = Page(report(full_run, worst=[case()], typical=[case("b.png")]))
    pictures = page.all("img")
    assert len(pictures) == 8
    assert all(picture["alt"] for picture in pictures)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_pictures_of_cases_are_small_jpegs_and_plots_keep_their_size_in_inches(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    large = Case(title="a", caption="", picture=np.zeros((900, 1800, 3), np.uint8))
    text = report(write_run(segmentation, plots=("loss",)), worst=[large])
    shown, plot = Page(text).all("img")
    assert (plot["width"], plot["height"]) == ("576", "384")  # 6 x 4 inches, drawn at 160 dpi
    assert (shown["width"], shown["height"]) == ("640", "320")
    kind, data = str(shown["src"]).split(";base64,")
    assert kind == "data:image/jpeg"
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (640, 320)


def test_the_grid_of_test_images_is_shown_only_without_cases(
    write_run: Write, segmentation: dict[str, Any]
) -> None:
    folder = write_run(segmentation, plots=("test_images",))
    assert "Some of the test images" in report(folder)
    assert "Some of the test images" not in report(folder, worst=[case()])


def test_a_second_report_replaces_the_first(write_run: Write, segmentation: dict[str, Any]) -> None:
    folder = write_run(segmentation)
    first = report(folder)
    assert report(folder) == first
    assert {path.name for path in folder.iterdir()} == {"summary.json", "plots", "report.html"}


def test_a_folder_without_a_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError) as caught:
        write_report(tmp_path)
    assert str(caught.value) == (
        f"cannot write a report: summary.json is missing or empty ({tmp_path}); give a run folder"
    )


def test_an_unreadable_plot_is_named(write_run: Write, segmentation: dict[str, Any]) -> None:
    folder = write_run(segmentation)
    (folder / "plots" / "loss.png").write_bytes(b"nothing")
    with pytest.raises(MedvisionError, match=r"cannot read the picture loss\.png"):
        write_report(folder)


@pytest.mark.parametrize(
    ("count", "shown"), [(850, "850"), (31_200, "31.2 k"), (5_198_161, "5.2 M")]
)
def test_parameters_are_given_in_thousands_and_millions(
    write_run: Write, segmentation: dict[str, Any], count: int, shown: str
) -> None:
    segmentation["model"]["num_parameters"] = count
    assert f"UNet ({shown} parameters)" in words(report(write_run(segmentation)))


def test_every_score_on_the_page_is_defined_on_it(full_run: Path) -> None:
    page = Page(report(full_run))
    leads = {a["href"] for a in page.all("a") if str(a["href"]).startswith("#define-")}
    defined = {f"#{attributes['id']}" for attributes in page.all("dt")}
    assert leads <= defined
    assert {"#define-accuracy", "#define-auroc", "#define-recall"} <= leads


def test_a_task_adds_its_own_sections(
    write_run: Callable[..., Path], segmentation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(caption="Lesions", head=["size", "count"], rows=[["small", "<3>"]], note="All.")
    own = Section(title="By scanner", text="What each scanner gave.", tables=[table])
    monkeypatch.setattr(SegmentationReport, "sections", lambda *_: [own])
    text = report(write_run(segmentation))
    assert "own-by-scanner" in sections(text)
    assert "<p>What each scanner gave.</p>" in text
    assert '<th scope="row">small</th>' in text
    assert "<td>&lt;3&gt;</td>" in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"drawn": ["train", "val", "test"]}, "drawn at random, seed 7 (groups kept together)"),
        (
            {"drawn": ["val"]},
            "train and test as given, val drawn at random, seed 7 (groups kept together)",
        ),
        ({"drawn": []}, "all parts as given"),
        ({"drawn": [], "num_images": {"train": 8, "val": 0, "test": 2}}, "train and test as given"),
        ({"drawn": [], "synthetic": True}, "made with the phantoms, seed 7"),
        ({}, "the given split is kept, missing parts are drawn"),
        (
            {"drawn": ["train", "val", "test"], "protocol": "grouped"},
            "grouped protocol, all images pooled and whole groups drawn, seed 7",
        ),
        ({"drawn": [], "protocol": "grouped"}, "all parts as given"),
        (
            {"protocol": "kfold", "fold": 1, "folds": 5},
            "kfold protocol, fold 1 of 5, all images pooled and whole groups drawn into folds,"
            " seed 7",
        ),
    ],
)
def test_the_split_is_described_by_what_was_given_and_what_was_drawn(
    changed: dict[str, Any], words: str
) -> None:
    counts = {"train": 8, "val": 1, "test": 2}
    dataset = {"protocol": "official", "split_seed": 7, "num_images": counts, **changed}
    assert split_in_words(dataset) == words
