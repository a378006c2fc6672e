"""Feed the file readers with input of a coverage-guided fuzzer.

    uv pip install atheris
    python tests/fuzz/readers.py KIND FOLDER [-max_total_time=600]

KIND is image, mask, csv, checkpoint, dicom or config; images and masks are of all formats.
FOLDER stores interesting inputs; samples of every kind are written there first. Every
reader may answer with its result or with a MedvisionError of one line; anything else is a finding,
and so are more than 5 s or 2 GB for one input. Options with one hyphen are libFuzzer's.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["medvision", "PIL", "pydicom"]):
    import cv2
    import numpy as np
    import pydicom
    import torch
    from PIL import Image

    from medvision.data.discovery.splits_csv import read_splits
    from medvision.data.readers.decode import image_size
    from medvision.data.readers.images import decode_image, decode_mask
    from medvision.data.reading import Reading
    from medvision.data.samples import Sample
    from medvision.data.validation.validate import inspect_files
    from medvision.errors import MedvisionError
    from medvision.inference.load import load_network
    from medvision.run.storage.saved_run import StoredRun

cv2.setNumThreads(1)
torch.set_num_threads(1)
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

LIMITS = ["-timeout=5", "-rss_limit_mb=2048", "-max_len=20000", "-len_control=10"]
SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def image(data: bytes) -> None:
    """Read an image as training and validation do."""
    for channels in (1, 3):
        found = decode_image(data, where="a", channels=channels)
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == channels
    size = image_size(_file(data, "a.png"))
    assert size == found.shape[:2], (size, found.shape)


def dicom(data: bytes) -> None:
    """Read a DICOM file as training and validation do."""
    image(data)
    inspect_files(SCRATCH, Sample(path="a.png", target=""), Reading())


def mask(data: bytes) -> None:
    """Masks of two classes, of several, and of colours."""
    for options in ({}, {"num_classes": 4}, {"color_map": [(0, 0, 0), (255, 255, 255)]}):
        try:
            found = decode_mask(data, where="a", **options)  # type: ignore[arg-type]
        except MedvisionError:
            continue
        assert found.dtype == np.uint8
        assert found.ndim == 2
        assert int(found.max()) < options.get("num_classes", 2)


def csv(data: bytes) -> None:
    """Read a table of samples."""
    for sample in read_splits(_file(data, "splits.csv")):
        assert sample.split in ("", "train", "val", "test")
        assert sample.path
        assert not Path(sample.path).is_absolute()
        assert ".." not in Path(sample.path).parts


def checkpoint(data: bytes) -> None:
    """A checkpoint and a file of safetensors."""
    for name in ("a.ckpt", "a.safetensors"):
        try:
            load_network(_file(data, name))
        except MedvisionError:
            continue


def config(data: bytes) -> None:
    """Read the config of an untrusted run folder."""
    folder = SCRATCH / "run"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "best.ckpt").touch()
    (folder / "summary.json").write_text('{"status": "finished", "task": "segmentation"}')
    (folder / "config.yaml").write_bytes(data)
    StoredRun.read(folder)


READERS: dict[str, Callable[[bytes], None]] = {
    "image": image,
    "mask": mask,
    "csv": csv,
    "checkpoint": checkpoint,
    "dicom": dicom,
    "config": config,
}


def _file(data: bytes, name: str) -> Path:
    path = SCRATCH / name
    path.write_bytes(data)
    return path


def samples(kind: str) -> Iterator[bytes]:
    """Small valid files of every kind."""
    rng = np.random.default_rng(0)
    grey, colour = (rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((9, 7), (9, 7, 3)))
    if kind in ("image", "mask"):
        for suffix in (".png", ".jpg", ".bmp", ".tif"):
            for values in (grey, colour, (grey > 99) * np.uint8(255)):
                yield cv2.imencode(suffix, values)[1].tobytes()
        yield cv2.imencode(".png", grey.astype(np.uint16) * 200)[1].tobytes()
        yield cv2.imencode(".tif", grey.astype(np.float32))[1].tobytes()
        kinds = [("1", "PNG"), ("P", "PNG"), ("CMYK", "TIFF"), ("CMYK", "JPEG"), ("RGBA", "TIFF")]
        kinds += [("P", "GIF"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("LA", "PNG"), ("P", "TIFF")]
        kinds += [("L", "JPEG2000"), ("RGB", "JPEG2000"), ("RGBA", "JPEG2000"), ("YCbCr", "TIFF")]
        kinds += [("1", "PPM"), ("L", "PPM"), ("RGB", "PPM"), ("I;16", "JPEG2000"), ("P", "BMP")]
        for mode, form in kinds:
            stream = io.BytesIO()
            exif = Image.Exif()
            exif[274] = 6
            picture = Image.fromarray(grey.astype(np.uint16) * 200 if mode == "I;16" else colour)
            picture.convert(mode).save(stream, form, exif=exif)
            yield stream.getvalue()
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
            stream = io.BytesIO()
            Image.fromarray(colour).save(stream, "TIFF", compression=compression)
            yield stream.getvalue()
        yield b"P2 # text\n3 1 1000\n1 20 300\n"
        yield b"P6 2 1 1000\n" + bytes(range(12))
        yield b"P1 3 1\n1 0 1\n"
    elif kind == "csv":
        yield b"split,path,target,group\ntrain,a/b.png,c,d\nval,e.png,\xc3\xa4,\ntest,g.png,c,\n"
        yield b'path\n"a\nb.png"\n\n'
    elif kind == "checkpoint":
        stream = io.BytesIO()
        torch.save({"state_dict": {"model.a": torch.zeros(2)}, "medvision": {"format": 1}}, stream)
        yield stream.getvalue()
        header = b'{"__metadata__":{"medvision":"{}"},"a":{"dtype":"F32","shape":[1],'
        header += b'"data_offsets":[0,4]}}'
        yield len(header).to_bytes(8, "little") + header + bytes(4)
    elif kind == "config":
        yield b"data: {_target_: medvision.data.SegmentationData, root: null}\nseed: 0\n"
        yield b"task: &a {_target_: os.system}\nloss: *a\n"
    else:
        folder = Path(pydicom.__file__).parent / "data" / "test_files"
        for path in sorted(folder.glob("*.dcm")):
            if path.stat().st_size < LARGEST:
                yield path.read_bytes()


LARGEST = 20_000


def main() -> None:
    """Fuzz one reader."""
    kind, folder, *options = sys.argv[1:]
    corpus = Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(samples(kind)):
        (corpus / f"sample_{number:02d}").write_bytes(data)
    read = READERS[kind]

    def once(data: bytes) -> Any:
        try:
            read(data)
        except MedvisionError as error:
            printed = str(error)
            assert "\n" not in printed

    found = f"-artifact_prefix={corpus}/found_"
    atheris.Setup([sys.argv[0], *LIMITS, found, *options, folder], once)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ["MEDVISION_CACHE_DIR"] = str(SCRATCH / "cache")
    main()
