"""Properties of generated images, tables, folders, splits and overrides."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from medvision.data.discovery.folders import IMAGE_SUFFIXES
from medvision.data.discovery.index import index_segmentation
from medvision.data.discovery.splits_csv import read_splits, write_splits
from medvision.data.readers.images import decode_image, decode_mask
from medvision.data.samples import Sample
from medvision.data.splits.assign import draw_split
from medvision.errors import MedvisionError, printable
from medvision.run import main
from medvision.types import STAGES

property_test = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,  # the same examples everywhere; tests/fuzz looks for new ones
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

names = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters='/\\:"*?<>|'),
    min_size=1,
    max_size=8,
).filter(lambda name: name[0] != "." and name.lower() not in ("thumbs", "__macosx", "desktop"))
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
harmless = paths.filter(lambda path: path[0] not in "=+-@")  # formulas of spreadsheets are refused


def pixels(*shape: st.SearchStrategy[int] | int, dtype: Any = np.uint8) -> st.SearchStrategy[Any]:
    """Arrays of noise."""

    def make(size: tuple[int, ...], seed: int) -> Any:
        return np.random.default_rng(seed).integers(
            0, np.iinfo(dtype).max, size, dtype, endpoint=True
        )

    sizes = st.tuples(*(st.just(n) if isinstance(n, int) else n for n in shape))
    return st.builds(make, sizes, st.integers(0, 2**32 - 1))


side = st.integers(1, 40)


@property_test
@given(pixels(side, side, 3), st.sampled_from([".png", ".bmp", ".tif"]))
def test_colours_are_unchanged_in_every_lossless_format(image: Any, suffix: str) -> None:
    data = cv2.imencode(suffix, image[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, where="a", channels=3), image)


@property_test
@given(pixels(side, side, dtype=np.uint16), st.sampled_from([".png", ".tif"]))
def test_deep_grey_keeps_its_order(values: Any, suffix: str) -> None:
    data = cv2.imencode(suffix, values)[1].tobytes()
    shown = decode_image(data, where="a", channels=1)[..., 0]
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(shown.ravel()[order].astype(int)) >= 0).all()
    if values.min() < values.max():
        assert (shown.min(), shown.max()) == (0, 255)


@property_test
@given(pixels(side, side), st.sampled_from([1, 255]), st.sampled_from([".png", ".bmp", ".tif"]))
def test_a_mask_is_its_foreground(noise: Any, top: int, suffix: str) -> None:
    mask = noise > 127
    data = cv2.imencode(suffix, mask * np.uint8(top))[1].tobytes()
    np.testing.assert_array_equal(decode_mask(data, where="a"), mask)


@property_test
@given(st.binary(max_size=300))
def test_bytes_give_an_image_or_an_error_of_one_line(data: bytes) -> None:
    for start in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"BM",
        b"II*\0",
        bytes(128) + b"DICM",
    ):
        with pytest.raises(MedvisionError) as error:
            decode_image(start + data, where="a", channels=3)
        assert "\n" not in str(error.value)


@property_test
@given(
    st.lists(
        st.builds(
            Sample,
            path=harmless,
            target=harmless,
            group=names,
            split=st.sampled_from(["", "train", "val", "test"]),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda sample: sample.path,
    )
)
def test_a_table_is_read_as_it_was_written(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "splits.csv")
        write_splits(table, samples)
        assert list(read_splits(table)) == samples


@property_test
@given(st.text(max_size=200), st.sampled_from(["", "path\n", "split,path,target,group\n"]))
def test_text_gives_a_table_of_paths_below_the_root_or_an_error(text: str, header: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "splits.csv")
        table.write_bytes((header + text).encode(errors="surrogatepass"))
        try:
            samples = list(read_splits(table))
        except MedvisionError as error:
            line = str(error)
            assert "\n" not in line
            return
        for sample in samples:
            path = Path(folder, sample.path)
            assert path.resolve().is_relative_to(Path(folder).resolve())
            assert sample.split in ("", *STAGES)


@property_test
@given(
    st.lists(st.tuples(names, st.sampled_from(sorted(IMAGE_SUFFIXES))), min_size=1, max_size=6),
    st.lists(names, max_size=3),
)
def test_images_and_masks_are_paired_by_stem(
    files: list[tuple[str, str]], others: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        (root / "masks").mkdir()
        stems = {stem.casefold(): (stem, suffix) for stem, suffix in files}  # any file system
        assume(not {stem.casefold() for stem in others} & set(stems))
        for stem, suffix in stems.values():
            (root / "images" / f"{stem}{suffix}").touch()
            (root / "masks" / f"{stem}.png").touch()
        for stem in others:
            (root / "masks" / f"{stem}.png").touch()
        index = index_segmentation(root)
        found = {(s.path, s.target) for s in index.samples}
        wanted = {
            (f"images/{stem}{suffix}", f"masks/{stem}.png") for stem, suffix in stems.values()
        }
        assert found == wanted
        assert any("no image for" in note for note in index.notes) == bool(others)


@property_test
@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), min_size=3, max_size=60),
    st.integers(0, 1000),
    st.sampled_from([(0.1, 0.1), (0.3, 0.2), (0.0, 0.5), (0.2, 0.0)]),
    st.randoms(use_true_random=False),
)
def test_no_group_is_split_and_the_order_does_not_matter(
    rows: list[tuple[int, str]], seed: int, shares: tuple[float, float], chance: Any
) -> None:
    samples = [
        Sample(path=f"{k}.png", target=target, group=f"patient {group}" if group else "")
        for k, (group, target) in enumerate(rows)
    ]
    options = {"seed": seed, "val_fraction": shares[0], "test_fraction": shares[1]}
    try:
        drawn = list(draw_split(samples, **options).samples)  # type: ignore[arg-type]
    except MedvisionError as error:
        reported = str(error)
        assert reported.startswith("too few groups for a split")
        return
    assert [replace(s, split="") for s in drawn] == samples
    places: dict[str, set[str]] = {}
    for sample in drawn:
        assert sample.split in STAGES
        places.setdefault(sample.group_key, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in places.values())
    chance.shuffle(samples)
    again = list(draw_split(samples, **options).samples)  # type: ignore[arg-type]
    assert {s.path: s.split for s in again} == {s.path: s.split for s in drawn}


@property_test
@given(
    start=st.sampled_from(
        ["", "data.", "model.", "trainer.", "+data.", "~", "loss=", "optimizer."]
    ),
    text=st.text(max_size=20),
)
def test_an_override_is_accepted_or_refused_in_one_line(
    start: str, text: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assume(not text.startswith("-"))
    code = main(["experiment=polyp_unet", "data.root=/nowhere", start + text])
    printed = capfd.readouterr()
    assert code == 2, printed
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@property_test
@given(st.text(max_size=40))
def test_no_text_controls_a_terminal(text: str) -> None:
    shown = printable(text)
    assert all(char.isprintable() or char == "\n" for char in shown)
    if all(char.isprintable() for char in text):
        assert shown == text
