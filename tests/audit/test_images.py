from collections.abc import Callable
from dataclasses import replace

import numpy as np

from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import Finding, far_rows, robust_distance
from medvision.audit.images import image_findings
from medvision.data.reading import Reading

MakeSet = Callable[..., AuditedSet]


def only(data: AuditedSet) -> Finding:
    (finding,) = image_findings(data)
    return finding


def test_usual_images_give_no_finding(make_set: MakeSet) -> None:
    rng = np.random.default_rng(0)
    data = make_set(
        2000,
        mean=rng.normal(120, 17, 2000),
        std=rng.normal(57, 9, 2000),
        height=rng.integers(400, 900, 2000),
        width=rng.integers(500, 1200, 2000),
    )
    assert image_findings(data) == []


def test_constant_and_faint_images_are_distinguished(make_set: MakeSet) -> None:
    low, high = np.zeros(40), np.full(40, 255)
    low[3] = high[3] = 7
    high[4] = 5
    constant, faint = image_findings(make_set(40, low=low, high=high))
    assert constant.text == "1 of 40 images is of a single value"
    assert constant.files == ("images/00003.png",)
    assert faint.text == "1 of 40 images is nearly constant: fewer than 8 of 256 grey levels"
    assert faint.files == ("images/00004.png",)


def test_unreadable_files_are_a_fault_and_faults_of_masks_are_not(make_set: MakeSet) -> None:
    faults = [
        ("images/a.png", "damaged or unsupported picture: truncated"),
        ("images/b.png", "masks/b.png: the mask is 5 x 4 pixels (width x height), its image"
         " images/b.png is 4 x 4"),
    ]  # fmt: skip
    finding = only(make_set(8, faults=faults))
    assert (finding.kind, finding.severity, finding.files) == (
        "unreadable", "fault", ("images/a.png",)
    )  # fmt: skip
    assert finding.text.startswith("1 of 10 images cannot be used: images/a.png (damaged or")


def test_rare_sizes_are_reported_with_the_median(make_set: MakeSet) -> None:
    width, height = np.full(200, 352), np.full(200, 352)
    width[5] = 351  # a small difference
    width[8], height[8] = 64, 64
    width[9] = 1000
    finding = only(make_set(200, width=width, height=height))
    assert (finding.kind, finding.severity) == ("size_outliers", "note")
    assert finding.text == (
        "2 of 200 images are far larger or smaller than the others: 64 x 64, 1000 x 352 pixels"
        " (width x height), median 352 x 352"
    )


def test_an_image_far_brighter_than_the_rest_is_reported(make_set: MakeSet) -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(100, 10, 300), rng.normal(50, 5, 300)
    mean[7], std[7] = 240, 20
    finding = only(make_set(300, mean=mean, std=std))
    assert finding.kind == "intensity_outliers"
    assert finding.files == ("images/00007.png",)
    assert "mean 240 and standard deviation 20 of 255, medians 99 and 50" in finding.text


def test_a_second_kind_of_image_is_not_an_outlier(make_set: MakeSet) -> None:
    mean = np.where(np.arange(300) % 10 == 0, 220, 60)
    assert image_findings(make_set(300, mean=mean)) == []


def test_mixed_depths_colours_and_formats_are_reported(make_set: MakeSet) -> None:
    formats = np.array(["PNG"] * 39 + ["JPEG"])
    bits, colour = np.full(40, 8), np.zeros(40, bool)
    bits[:3], colour[:10] = 16, True
    depths, colours, files = image_findings(
        make_set(40, file_format=formats, bits=bits, colour=colour)
    )
    assert depths.severity == "warning"
    assert depths.text.startswith("3 of 40 images have more than 8 bits and are rescaled to 8")
    assert "data.value_range" in depths.advice
    assert colours.text == "colour and grey images are mixed: 30 grey, 10 colour"
    assert (files.text, files.count) == ("file formats are mixed: 39 PNG, 1 JPEG", 1)
    assert files.files == ("images/00039.png",)


def test_with_a_value_range_mixed_depths_are_reported_only_if_brightness_differs(
    make_set: MakeSet,
) -> None:
    bits, mean = np.where(np.arange(40) < 20, 16, 8), np.linspace(80, 120, 20)
    for deep, count in ((mean, 0), (mean / 16, 1)):
        data = make_set(40, bits=bits, mean=np.concatenate([deep, mean]))
        findings = image_findings(replace(data, reading=Reading(value_range=(0, 4080))))
        assert len(findings) == count
    (finding,) = findings
    assert (finding.kind, finding.severity) == ("mixed_bit_depths", "warning")
    assert finding.text == (
        "20 of 40 images have more than 8 bits and, with data.value_range=[0,4080], another"
        " brightness: median 6 of 255, of the others 100"
    )
    assert "set data.value_range" not in finding.advice


def test_a_mixture_that_differs_between_train_and_test_is_a_warning(make_set: MakeSet) -> None:
    splits = ["train"] * 60 + ["test"] * 40
    colour = np.arange(100) >= 80
    finding = only(make_set(100, splits=splits, colour=colour))
    assert finding.severity == "warning"
    assert finding.text.endswith("; 0 % of train and 50 % of test are colour")
    alike = only(make_set(100, splits=splits, colour=np.arange(100) % 2 == 0))
    assert alike.severity == "note"


def test_distance_by_hand() -> None:
    # median 3, absolute deviations 2 1 0 1 97, their median 1
    distance = robust_distance([1, 2, 3, 4, 100], floor=0.1)
    np.testing.assert_allclose(distance, np.array([2, 1, 0, 1, 97]) / 1.4826)
    np.testing.assert_allclose(robust_distance([5, 5, 5, 7], floor=0.5), [0, 0, 0, 4])


def test_far_rows_are_few_and_the_farthest_comes_first() -> None:
    distance = np.zeros(100)
    distance[[4, 9]] = 6, 8
    assert far_rows(distance, limit=5).tolist() == [9, 4]
    distance[:3] = 7
    assert far_rows(distance, limit=5).tolist() == []  # more than 2 %
    assert far_rows(np.array([0.0] * 10 + [9.0]), limit=5).tolist() == []  # of 11 values
