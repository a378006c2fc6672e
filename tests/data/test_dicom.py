from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from medvision.data.discovery.index import index_classification
from medvision.data.discovery.splits_csv import write_splits
from medvision.data.readers.decode import decode, image_size
from medvision.data.readers.images import read_image, read_mask
from medvision.data.reading import Reading
from medvision.data.samples import Sample
from medvision.data.shards.create import make_shards
from medvision.data.splits.groups import hash_groups
from medvision.data.validation.validate import check_files, inspect_files, read_headers
from medvision.errors import MedvisionError
from medvision.inference import load_model, predict_files
from medvision.run import main

RAMP = np.arange(64 * 48).reshape(64, 48)
"""0 to 3071, (64, 48): 12 bits."""

PLANTED = ("Kowalczyk", "Oleander", "MRN-99417", "19481103", "St. Elsewhere", "ACC-5512")
"""Identifiers of a patient, none of which may leave a file."""


def write(
    path: Path,
    values: NDArray[Any],
    *,
    kind: str = "MONOCHROME2",
    bits: int = 12,
    signed: bool = False,
    syntax: Any = ExplicitVRLittleEndian,
    patient: str = PLANTED[2],
    **tags: Any,
) -> Path:
    """Write a computed radiograph of a patient with a name."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.PatientName, made.PatientID = f"{PLANTED[0]}^{PLANTED[1]}", patient
    made.PatientBirthDate, made.InstitutionName = PLANTED[3], PLANTED[4]
    made.AccessionNumber, made.Modality = PLANTED[5], "CR"
    made.Rows, made.Columns = values.shape[:2]
    made.SamplesPerPixel = 1 if values.ndim == 2 else 3
    if values.ndim == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = kind
    made.BitsAllocated = 8 if bits <= 8 else 16
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, int(signed)
    stored = np.dtype(f"{'i' if signed else 'u'}{made.BitsAllocated // 8}")
    made.PixelData = values.astype(stored).tobytes()
    for name, value in tags.items():
        setattr(made, name, value)
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        made.compress(syntax)
    made.file_meta.TransferSyntaxUID = syntax
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.dcm"


def grey(path: Path, **options: Any) -> NDArray[np.uint8]:
    return read_image(path, channels=1, **options)[..., 0]


def words(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


def stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    return np.rint(((values - low) * (255 / (high - low))).clip(0, 255)).astype(np.uint8)


def test_without_a_window_the_smallest_value_is_black_and_the_largest_white(file: Path) -> None:
    write(file, RAMP + 100)
    np.testing.assert_array_equal(grey(file), stretched(RAMP, 0, RAMP.max()))
    three = read_image(file, channels=3)
    np.testing.assert_array_equal(three, np.repeat(grey(file)[..., None], 3, axis=2))


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_window_follows_the_standard(file: Path, bits: int, signed: bool) -> None:
    values = RAMP - 1024 if signed else RAMP
    write(file, values, bits=bits, signed=signed, WindowCenter=[900, 40], WindowWidth=[401, 80])
    shown = grey(file)
    # C.11.2.1.2: black up to c - 0.5 - (w - 1) / 2, white above c - 0.5 + (w - 1) / 2
    np.testing.assert_array_equal(shown, stretched(values, 699.5, 1099.5))
    read = pydicom.dcmread(file)
    low = -(2 ** (bits - 1)) if signed else 0
    wanted = (apply_voi_lut(read.pixel_array, read) - low) / (2**bits - 1) * 255
    assert np.abs(shown - wanted).max() <= 0.51  # pydicom's own, rounded here


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions_match_pydicom(file: Path, function: str) -> None:
    write(file, RAMP, WindowCenter=1000, WindowWidth=500, VOILUTFunction=function)
    read = pydicom.dcmread(file)
    wanted = apply_voi_lut(read.pixel_array, read) / 4095 * 255
    assert np.abs(grey(file) - wanted).max() <= 0.6


def test_a_sigmoid_does_not_depend_on_the_values_of_the_image(file: Path) -> None:
    values = np.array([[1000, 1125], [875, 1000]])
    write(file, values, WindowCenter=1000, WindowWidth=500, VOILUTFunction="SIGMOID")
    # C.11.2.1.3.1: 255 / (1 + exp(-4 (x - c) / w)), that is 1 / (1 + exp(-1)) = 0.731 at 1125
    np.testing.assert_array_equal(grey(file), [[128, 186], [69, 128]])


def test_window_and_value_range_refer_to_rescaled_values(file: Path) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    write(file, RAMP, WindowCenter=0.5, WindowWidth=801, **tags)
    units = RAMP * 2 - 1024
    np.testing.assert_array_equal(grey(file), stretched(units, -400, 400))
    shown = grey(file, value_range=(-1000, 0))
    np.testing.assert_array_equal(shown, stretched(units, -1000, 0))


def test_the_modality_table_is_applied(file: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [3, 1000, 16], words(0, 40000, 65535)
    table.ModalityLUTType = "US"
    write(file, RAMP, ModalityLUTSequence=[table])
    read = pydicom.dcmread(file)
    values = apply_modality_lut(read.pixel_array, read)
    assert set(np.unique(values)) == {0, 40000, 65535}
    np.testing.assert_array_equal(grey(file), stretched(values, 0, 65535))


def test_the_voi_table_is_applied(file: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 1000, 12], words(0, 1000, 3000, 4095)
    write(file, RAMP, VOILUTSequence=[table])
    read = pydicom.dcmread(file)
    wanted = np.rint(apply_voi_lut(read.pixel_array, read) * (255 / 4095))
    np.testing.assert_array_equal(grey(file), wanted)
    assert set(np.unique(grey(file))) == {0, 62, 187, 255}


def test_monochrome1_is_inverted(file: Path) -> None:
    tags = {"WindowCenter": 1000, "WindowWidth": 400}
    plain = grey(write(file, RAMP, **tags))
    inverted = grey(write(file, RAMP, kind="MONOCHROME1", **tags))
    np.testing.assert_array_equal(inverted, 255 - plain)


def test_eight_bit_values_without_a_window_are_unchanged(file: Path) -> None:
    values = np.random.default_rng(0).integers(3, 200, (20, 31), dtype=np.uint8)
    np.testing.assert_array_equal(grey(write(file, values[:, :30], bits=8)), values[:, :30])
    colours = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write(file, colours, kind="RGB", bits=8)
    np.testing.assert_array_equal(read_image(file, channels=3), colours)


@pytest.mark.parametrize("bits", [1, 6, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_up_to_8_bits_use_the_range_of_the_stored_bits(file: Path, bits: int, signed: bool) -> None:
    if signed and bits == 1:
        return
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.resize(np.arange(2**bits), (16, 16)) + low
    shown = grey(write(file, values, bits=bits, signed=signed))
    np.testing.assert_array_equal(shown, stretched(values, low, low + 2**bits - 1))
    wide = write(file, values, bits=bits, signed=signed, BitsAllocated=16)
    wide_values = values.astype("<i2" if signed else "<u2")
    write(file, values, bits=bits, signed=signed, BitsAllocated=16, PixelData=wide_values.tobytes())
    np.testing.assert_array_equal(grey(wide), shown)


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": 0},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"RescaleSlope": 1, "RescaleIntercept": None},
        {"PresentationLUTShape": "IDENTITY"},
        {"PixelPaddingValue": None},
        {"VOILUTSequence": []},
        {"VOILUTSequence": [Dataset()]},
        {"ModalityLUTSequence": []},
        {"VOILUTFunction": ""},
    ],
)
def test_empty_tags_count_as_missing(file: Path, tags: dict[str, Any]) -> None:
    window = {"WindowCenter": 900, "WindowWidth": 401}
    np.testing.assert_array_equal(grey(write(file, RAMP, **tags)), stretched(RAMP, 0, 3071))
    shown = grey(write(file, RAMP, **window, **tags))
    np.testing.assert_array_equal(shown, stretched(RAMP, 699.5, 1099.5))
    empty = {"WindowCenter": None, "WindowWidth": None}
    np.testing.assert_array_equal(grey(write(file, RAMP, **empty)), stretched(RAMP, 0, 3071))


def test_one_empty_rescale_tag_leaves_the_other(file: Path) -> None:
    shown = grey(write(file, RAMP, RescaleSlope=None, RescaleIntercept=-1000, WindowWidth=None))
    np.testing.assert_array_equal(shown, stretched(RAMP, 0, 3071))
    write(file, RAMP, RescaleSlope=2, RescaleIntercept=None)
    np.testing.assert_array_equal(grey(file, value_range=(0, 1000)), stretched(2 * RAMP, 0, 1000))


def test_an_inverse_presentation_shape_is_inverted_once(file: Path) -> None:
    plain = grey(write(file, RAMP))
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        shown = grey(write(file, RAMP, kind=kind, PresentationLUTShape="INVERSE"))
        np.testing.assert_array_equal(shown, 255 - plain)


def test_a_file_is_detected_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    for name in ("IM000001", "a.jpg", "1.2.840.1", "a.tif"):
        np.testing.assert_array_equal(grey(write(tmp_path / name, RAMP)), stretched(RAMP, 0, 3071))


def test_files_named_as_another_format_are_noted_because_they_form_no_groups(
    tmp_path: Path,
) -> None:
    samples = [Sample(path="a.png", target="x"), Sample(path="b.dcm", target="y")]
    for sample in samples:
        write(tmp_path / sample.path, RAMP)
    assert check_files(tmp_path, samples, Reading()).notes == [
        "2 of 2 images: DICOM without a window, the smallest and largest value of each became black"
        " and white (data.value_range sets both for all)",
        "1 DICOM file named as another format: a.png; they were not grouped by patient: rename them"
        " to .dcm",
    ]


def test_a_folder_of_a_disc_is_read_by_its_contents(tmp_path: Path) -> None:
    for name in ("healthy/ST01/IM01", "sick/ST02/1.2.840.7", "sick/ST02/IM02"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, RAMP, patient=name[:2])
    write(tmp_path / "healthy" / "DICOMDIR", RAMP)
    (tmp_path / "healthy" / "README").write_text("text")
    index = index_classification(tmp_path)
    assert list(index.samples.paths) == [
        "healthy/ST01/IM01",
        "sick/ST02/1.2.840.7",
        "sick/ST02/IM02",
    ]
    groups = list(index.samples.groups)
    assert groups[1] == groups[2] != groups[0] != ""
    assert "other files in healthy were ignored: 1 no extension" in index.notes


def test_ybr_full_becomes_rgb(file: Path) -> None:
    red, grey_level = [76, 85, 255], [100, 128, 128]
    values = np.array([[red, grey_level], [grey_level, red]])
    shown = read_image(write(file, values, kind="YBR_FULL", bits=8), channels=3).astype(int)
    assert np.abs(shown[0, 0] - [254, 0, 0]).max() <= 2  # R = Y + 1.402 (Cr - 128), C.7.6.3.1.2
    assert shown[0, 1].tolist() == [100, 100, 100]


def test_padding_does_not_affect_the_value_range(file: Path) -> None:
    values = RAMP + 1000
    values[:10] = 0
    shown = grey(write(file, values, PixelPaddingValue=0))
    inside = values[10:]
    np.testing.assert_array_equal(shown[10:], stretched(inside, inside.min(), inside.max()))
    assert not shown[:10].any()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, ImplicitVRLittleEndian])
def test_the_storage_format_changes_no_value(file: Path, syntax: Any) -> None:
    plain = grey(write(file, RAMP))
    other = write(file, RAMP, syntax=syntax)
    np.testing.assert_array_equal(grey(other), plain)
    assert image_size(other) == (64, 48)
    assert not decode(other.read_bytes(), where="a").lossy


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
    ],
)
def test_files_of_other_programs_read_the_same(name: str, same: str) -> None:
    """Compare with the files that come with pydicom."""
    paths = [get_testdata_file(one, download=False) for one in (name, same)]
    one, other = (grey(Path(str(path))) for path in paths)
    np.testing.assert_array_equal(one, other)
    assert np.ptp(one) > 100


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm", "SC_rgb_jls_lossy_line.dcm"]
)
def test_jpeg_of_all_kinds_is_read(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    assert read_image(path, channels=3).std() > 5


def with_size(code: bytes, height: int, width: int) -> bytes:
    """Write a JPEG 2000 codestream with another size."""
    at = code.index(b"\xff\x4f\xff\x51") + 8
    return code[:at] + struct.pack(">2I", width, height) + code[at + 8 :]


def deflated(path: Path) -> Path:
    """Write a file that grows a thousandfold when decompressed."""
    write(path, RAMP, syntax=ExplicitVRLittleEndian)
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1)
    path.write_bytes(content[:400] + zlib.compress(bytes(10_000_000)))
    return path


FAULTS = [
    pytest.param(
        lambda f: write(f, RAMP, NumberOfFrames=3),
        "expected a DICOM file with a single picture, got 3 frames",
        id="frames",
    ),
    pytest.param(
        lambda f: write(f, RAMP, kind="PALETTE COLOR"),
        "unsupported DICOM photometric interpretation 'PALETTE COLOR'",
        id="palette",
    ),
    pytest.param(
        lambda f: write(f, RAMP, HighBit=15),
        "DICOM with bit 15 as the highest of 12 is not supported",
        id="bits that are not the lowest",
    ),
    pytest.param(
        lambda f: write(f, np.zeros((8, 8, 3)), kind="RGB", bits=16),
        "DICOM with 16-bit colours of type uint16 is not supported",
        id="deep colours",
    ),
    pytest.param(
        lambda f: write(f, np.zeros((8, 8, 3)), kind="RGB", bits=8, BitsStored=6, HighBit=5),
        "DICOM with 6-bit colours of type uint8 is not supported",
        id="colours of fewer bits",
    ),
    pytest.param(
        lambda f: write(f, np.zeros((8, 8, 3)), kind="YBR_PARTIAL_422", bits=8),
        "unsupported DICOM photometric interpretation 'YBR_PARTIAL_422'",
        id="limited range",
    ),
    pytest.param(
        lambda f: write(f, RAMP, RescaleSlope=0, RescaleIntercept=0),
        "damaged or unsupported DICOM file: its rescale slope is 0",
        id="slope of 0",
    ),
    pytest.param(
        lambda f: f.write_bytes(write(f, RAMP).read_bytes()[:-500]) and f,
        "damaged or unsupported DICOM file: The number of bytes of pixel data is less than",
        id="cut short",
    ),
    pytest.param(
        lambda f: f.write_bytes(write(f, RAMP).read_bytes()[:150]) and f,
        "damaged or unsupported DICOM file: ",
        id="cut in its header",
    ),
    pytest.param(
        lambda f: f.write_bytes(bytes(128) + b"DICM") and f,
        "damaged or unsupported DICOM file: its transfer syntax is missing",
        id="nothing but its mark",
    ),
    pytest.param(deflated, "damaged or unsupported DICOM file: ", id="deflated"),
    pytest.param(
        lambda f: write(f, RAMP, Rows=60_000, Columns=60_000),
        "60000 x 60000 pixels exceed the limit of 100 million",
        id="bomb",
    ),
    pytest.param(
        lambda f: (
            f.write_bytes(
                with_size(write(f, RAMP, syntax=JPEG2000Lossless).read_bytes(), 60_000, 60_000)
            )
            and f
        ),
        "damaged or unsupported DICOM file: its compressed picture has 60000 x 60000 pixels",
        id="bomb in a compressed picture",
    ),
    pytest.param(
        lambda f: (
            f.write_bytes(write(f, RAMP).read_bytes().replace(b"(\0\x04\0CS", b"(\0\x04\0BS", 1))
            and f
        ),
        "damaged or unsupported DICOM file: Unknown Value Representation 'BS'",
        id="a kind of value that does not exist",
    ),
    pytest.param(
        lambda f: write(f, RAMP, Rows=0), "damaged or unsupported DICOM file: 48 x 0", id="no rows"
    ),
    pytest.param(
        lambda f: f.write_bytes(write(f, RAMP).read_bytes() + b"(\0\x10\0US\x02\0\x0a\0") and f,
        "damaged or unsupported DICOM file: it repeats its size after its pixels",
        id="rows once more behind the pixels",
    ),
]


@pytest.mark.parametrize(("make", "message"), FAULTS)
def test_an_unreadable_file_is_a_one_line_error_with_its_name(
    file: Path, make: Callable[[Path], Path], message: str
) -> None:
    make(file)
    with pytest.raises(MedvisionError) as error:
        read_image(file, channels=1)
    assert error.value.what.startswith(message)
    assert error.value.where == str(file)
    assert "\n" not in str(error.value)
    look = inspect_files(file.parent, Sample(path="a.dcm", target=""), Reading())
    assert look.fault is not None
    assert look.fault.what == error.value.what


def test_a_panic_of_a_plugin_is_a_one_line_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rust plugins such as pylibjpeg-rle raise panics that are not an ``Exception``."""

    class PanicException(BaseException):
        pass

    def panic(*_: Any) -> None:
        raise PanicException("index out of bounds")

    write(file, RAMP)
    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", panic)
    with pytest.raises(MedvisionError, match=r"unsupported DICOM file: index out of bounds"):
        read_image(file, channels=1)
    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(file, channels=1)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_dicom_masks_are_refused(file: Path) -> None:
    with pytest.raises(MedvisionError, match=r"DICOM masks are not supported .*store the mask as"):
        read_mask(write(file, RAMP))


def test_no_message_quotes_a_tag(
    file: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Pydicom quotes invalid values in its warnings."""
    content = write(file, RAMP).read_bytes()
    for row in range(400, len(content), 97):
        changed = bytearray(content)
        changed[row] ^= 0xFF
        file.write_bytes(changed)
        for look in (
            partial(read_headers, reading=Reading()),
            partial(inspect_files, reading=Reading()),
        ):
            said = str(look(file.parent, Sample(path="a.dcm", target="")).fault)
            assert not any(word in said for word in PLANTED)
    assert not capfd.readouterr().err
    assert not [w for w in recwarn if any(word in str(w.message) for word in PLANTED)]


def test_a_missing_pydicom_is_reported_with_the_install_command(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file, RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MedvisionError) as error:
        read_image(file, channels=1)
    assert str(error.value) == (
        f"pydicom, which reads DICOM files, is not installed ({file});"
        " run: pip install -e '.[dicom]' (in the medvision checkout)"
    )


def test_a_missing_plugin_is_reported_with_the_install_command(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file, RAMP, syntax=JPEG2000Lossless)
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder

    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(MedvisionError) as error:
        read_image(file, channels=1)
    assert str(error.value) == (
        "a plugin for JPEG 2000 Image Compression (Lossless Only) is not installed"
        f" ({file}); run: pip install -e '.[dicom]' (in the medvision checkout)"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write files of two classes; the patient of file k is ``patients[k]``."""

    def make(*patients: str) -> Path:
        root = tmp_path / "set"
        rng = np.random.default_rng(0)
        for name in ("healthy", "sick"):
            (root / name).mkdir(parents=True)
            for k, patient in enumerate(patients):
                values = rng.integers(0, 3000, (32, 32)) + (1000 if name == "sick" else 0)
                write(root / name / f"{k:03d}.dcm", values, patient=f"{patient}{name[0]}")
        return root

    return make


def test_the_images_of_a_patient_form_a_group_with_a_salted_hash(
    folder: Callable[..., Path],
) -> None:
    root = folder("MRN-99417-A", "MRN-99417-B", "MRN-99417-A", "")
    for name in ("healthy", "sick"):
        write(root / name / "003.dcm", RAMP, patient="")
    index = index_classification(root)
    groups = {sample.path: sample.group for sample in index.samples}
    assert groups["healthy/000.dcm"] == groups["healthy/002.dcm"]
    assert groups["healthy/000.dcm"] != groups["healthy/001.dcm"]
    assert groups["healthy/003.dcm"] == ""
    assert all(re.fullmatch(r"[0-9a-f]{12}", group) for group in groups.values() if group)
    assert index.notes == [
        "grouped 6 DICOM files by the patient in their headers: 4 patients",
        "no patient in 2 of 8 DICOM files: each is its own group unless a csv gives its group",
    ]


def test_given_groups_take_precedence_over_patients(folder: Callable[..., Path]) -> None:
    root = folder("A", "B", "A")
    index = index_classification(root, group_pattern=r"/(\d+)\.")
    assert {sample.group for sample in index.samples} == {"000", "001", "002"}


def test_new_images_of_a_patient_join_the_split_of_the_existing_ones(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The table of an earlier run contains hashed groups; the headers give the groups again."""
    root, table = folder("A", "B"), tmp_path / "splits.csv"
    drawn = [replace(s, split="train") for s in index_classification(root).samples]
    write_splits(table, hash_groups(drawn)[0])
    write(root / "sick" / "007.dcm", RAMP[:32, :32], patient="As")
    index = index_classification(root, splits=table)
    groups = {sample.path: sample.group for sample in index.samples}
    assert groups["sick/007.dcm"] == groups["sick/000.dcm"] != ""
    assert not [note for note in index.notes if "are unknown" in note]


def test_dicom_files_are_refused_in_shards(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(
        MedvisionError, match=r"found 4 DICOM files, such as healthy/000\.dcm: shards"
    ):
        make_shards(folder("A", "B"), tmp_path / "shards", shard_bytes=10**6)
    assert not (tmp_path / "shards").exists()


def test_predicting_a_folder_of_dicom_writes_no_tag(
    folder: Callable[..., Path], finished_chest: Path, tmp_path: Path
) -> None:
    done = predict_files(load_model(finished_chest), [folder("A", "B")], out=tmp_path / "out")
    assert done.num_done == 4
    assert not done.failures
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        assert not [word for word in PLANTED if word.encode() in path.read_bytes()]


def test_a_single_patient_in_all_files_is_noted_and_not_used_as_a_group(
    folder: Callable[..., Path],
) -> None:
    root = folder("x")
    for name in ("healthy", "sick"):
        write(root / name / "000.dcm", RAMP, patient="ANONYMOUS")
    index = index_classification(root)
    assert {sample.group for sample in index.samples} == {""}
    assert index.notes == [
        "all 2 DICOM files name the same patient, as anonymised files do: they cannot be grouped"
        " by patient; give the groups in a csv or with"
        " data.group_pattern"
    ]


def test_no_tag_reaches_a_run_folder_its_caches_or_the_screen(
    folder: Callable[..., Path],
    small: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = folder(*[f"MRN-99417-{k // 2}" for k in range(16)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    kept = [override for override in small if "num_images" not in override]
    chest = ["experiment=chest_xray_cnn", "model.base_channels=2", "data.val_fraction=0.2"]
    assert main([*kept, *chest, f"data.root={root}"]) == 0
    written = [
        p for p in (*tmp_path.glob("runs/**/*"), *tmp_path.glob("cache/**/*")) if p.is_file()
    ]
    assert len(written) > 10
    said = capfd.readouterr()
    for text in (said.out, said.err, *map(str, written)):
        assert not [word for word in PLANTED if word in text]
    for path in written:
        content = path.read_bytes()
        assert not [word for word in PLANTED if word.encode() in content], path
    (splits,) = tmp_path.glob("runs/*/*/splits.csv")
    rows = [line.split(",") for line in splits.read_text().splitlines()[1:]]
    by_group: dict[str, set[str]] = {}
    for split, _, _, group in rows:
        by_group.setdefault(group, set()).add(split)
    assert len(by_group) == 16
    assert all(len(places) == 1 for places in by_group.values())
