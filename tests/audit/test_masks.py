from collections.abc import Callable

import numpy as np
import pytest

from medvision.audit.dataset import AuditedSet
from medvision.audit.finding import Finding
from medvision.audit.images import is_mask_fault, mask_findings

MakeSet = Callable[..., AuditedSet]


def column(count: int, usual: float, odd: dict[int, float]) -> np.ndarray:
    values = np.full(count, float(usual))
    values[list(odd)] = list(odd.values())
    return values


def only(data: AuditedSet) -> Finding:
    (finding,) = mask_findings(data)
    return finding


def size_fault(mask: tuple[int, int], image: tuple[int, int]) -> str:
    return (
        f"masks/a.png: the mask is {mask[0]} x {mask[1]} pixels (width x height),"
        f" its image images/a.png is {image[0]} x {image[1]}"
    )


def test_usual_masks_give_no_finding(make_set: MakeSet) -> None:
    shares = np.random.default_rng(0).uniform(0.01, 0.6, 200)
    edges = np.minimum(0.0043, shares)  # the maximum observed for JPEG edges
    assert mask_findings(make_set(200, mask={"foreground": shares, "grey": edges})) == []


def test_images_of_classes_have_no_masks(make_set: MakeSet) -> None:
    assert mask_findings(make_set(4, targets=list("abab"))) == []


def test_empty_masks_are_a_note_by_split(make_set: MakeSet) -> None:
    splits = ["train"] * 30 + ["test"] * 10
    shares = column(40, 0.1, {3: 0, 4: 0, 35: 0})
    finding = only(make_set(40, splits=splits, mask={"foreground": shares}))
    assert (finding.kind, finding.severity) == ("empty_masks", "note")
    assert finding.text == "3 of 40 masks are empty (train 2, test 1)"
    assert finding.files == ("images/00003.png", "images/00004.png", "images/00035.png")


def test_only_empty_masks_are_a_fault(make_set: MakeSet) -> None:
    finding = only(make_set(5, mask={"foreground": 0.0}))
    assert (finding.kind, finding.severity) == ("empty_masks", "fault")
    assert finding.text == "all masks are empty"


def test_a_full_mask_is_a_warning_and_only_full_ones_a_fault(make_set: MakeSet) -> None:
    one = {"foreground": column(30, 0.1, {7: 1}), "frame": column(30, 0, {7: 1})}
    finding = only(make_set(30, mask=one))
    assert (finding.kind, finding.severity) == ("full_masks", "warning")
    assert finding.text == "1 of 30 masks is full"
    finding = only(make_set(5, mask={"foreground": 1.0, "frame": 1.0}))
    assert (finding.kind, finding.severity) == ("full_masks", "fault")


@pytest.mark.parametrize(
    ("foreground", "grey"),
    [pytest.param(0.1, 0.3, id="probabilities"), pytest.param(0.001, 0.01, id="small-and-soft")],
)
def test_masks_that_are_not_binary_are_reported(
    make_set: MakeSet, foreground: float, grey: float
) -> None:
    soft = {"foreground": np.full(40, foreground), "grey": column(40, 0, {5: grey / 2, 6: grey})}
    finding = only(make_set(40, mask=soft))
    assert (finding.kind, finding.severity) == ("soft_masks", "warning")
    assert finding.text.startswith(f"2 of 40 masks are not binary: up to {100 * grey:.0f} % of the")
    assert finding.files == ("images/00006.png", "images/00005.png")


def test_masks_with_foreground_where_others_have_frame_look_inverted(make_set: MakeSet) -> None:
    odd = {
        "foreground": np.concatenate([np.linspace(0.05, 0.5, 38), [0.8, 0.9]]),
        "frame": column(40, 0, {38: 0.9, 39: 1}),
    }
    finding = only(make_set(40, mask=odd))
    assert finding.kind == "inverted_masks"
    assert finding.text.startswith("2 of 40 masks look inverted")
    assert "the frame is background in 38 others" in finding.text
    assert finding.files == ("images/00039.png", "images/00038.png")


def test_a_large_object_inside_the_frame_is_not_inverted(make_set: MakeSet) -> None:
    assert mask_findings(make_set(40, mask={"foreground": 0.7, "frame": 0.1})) == []


def test_a_set_with_all_masks_inverted_has_its_own_message(make_set: MakeSet) -> None:
    finding = only(make_set(10, mask={"foreground": 0.8, "frame": 1.0}))
    assert "10 of 10 masks" in finding.text
    assert "background and foreground may be swapped" in finding.text


def test_equal_masks_of_different_images_are_reported(make_set: MakeSet) -> None:
    hashes = np.array([f"{k}" for k in range(8)], dtype="<U8")
    hashes[[1, 4, 6]] = "copied"
    finding = only(make_set(8, mask={"mask_hash": hashes}))
    assert (finding.kind, finding.count) == ("shared_masks", 3)
    assert finding.text.startswith("3 images that do not all look alike share 1 mask,")
    hashes[[2, 3]] = "shared"
    finding = only(
        make_set(8, mask={"mask_hash": hashes}, near_duplicates=[0, 1, 2, 2, 3, 4, 5, 6])
    )
    assert finding.count == 3  # copies of an image may share their mask


def test_empty_and_full_masks_may_be_equal(make_set: MakeSet) -> None:
    shares = column(40, 0.1, {0: 0, 1: 0, 2: 1, 3: 1})
    hashes = np.array([str(k) for k in range(40)], dtype="<U8")
    hashes[:2], hashes[2:4] = "empty", "full"
    frame = column(40, 0, {2: 1, 3: 1})
    masks = {"foreground": shares, "mask_hash": hashes, "frame": frame}
    kinds = {finding.kind for finding in mask_findings(make_set(40, mask=masks))}
    assert kinds == {"empty_masks", "full_masks"}


def test_a_foreground_of_a_few_stray_pixels_is_reported(make_set: MakeSet) -> None:
    shares = np.random.default_rng(0).uniform(0.05, 0.3, 100)
    shares[9] = 1e-5
    finding = only(make_set(100, mask={"foreground": shares}))
    assert (finding.kind, finding.severity) == ("foreground_outliers", "note")
    assert finding.files == ("images/00009.png",)
    assert finding.text.startswith("1 of 100 masks has far more or less foreground than the others")
    assert "0.001 % of the image" in finding.text


def test_masks_off_by_one_pixel_are_reported_as_such(make_set: MakeSet) -> None:
    off = [(f"images/{k}.png", size_fault((353, 352), (352, 352))) for k in range(3)]
    finding = only(make_set(5, faults=off))
    assert (finding.kind, finding.severity, finding.count) == ("mask_size", "fault", 3)
    assert finding.text == (
        "3 of 8 masks differ in size from their image, all off by one pixel, such as"
        " 353 x 352 pixels (width x height) for an image of 352 x 352"
    )
    assert "rounded" in finding.advice
    assert finding.files == ("images/0.png", "images/1.png", "images/2.png")


def test_masks_of_other_sizes_are_reported_by_cause(make_set: MakeSet) -> None:
    sizes = [((64, 48), (48, 64)), ((48, 63), (48, 64)), ((100, 100), (48, 64))]
    finding = only(make_set(5, faults=[("a.png", size_fault(*size)) for size in sizes]))
    assert "1 off by one pixel, 1 with width and height swapped" in finding.text
    assert "EXIF" in finding.advice


def test_invalid_values_are_a_separate_finding(make_set: MakeSet) -> None:
    reason = "masks/a.png: a mask of two classes contains the values 0, 1, 2, 255"
    finding = only(make_set(5, faults=[("images/a.png", reason)]))
    assert (finding.kind, finding.severity) == ("mask_values", "fault")
    listed = f"images/a.png ({reason})"
    assert finding.text == f"1 of 6 masks contains values that are not valid classes: {listed}"


def test_a_damaged_file_is_not_a_mask_fault(make_set: MakeSet) -> None:
    reason = "masks/a.png: damaged or unsupported picture: truncated"
    assert not is_mask_fault(reason)
    assert mask_findings(make_set(5, faults=[("images/a.png", reason)])) == []
