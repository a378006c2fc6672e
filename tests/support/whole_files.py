"""Check that a file written by a program is complete."""

import csv
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from PIL import Image
from safetensors import safe_open


def check_file(path: Path) -> None:
    """Check that a file is complete and its content readable."""
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".yaml":
        assert "experiment" in yaml.safe_load(path.read_text())
    elif path.suffix == ".csv":
        text = path.read_text()
        assert text.endswith("\n")
        widths = {len(row) for row in csv.reader(text.splitlines())}
        assert len(widths) == 1
    elif path.suffix == ".ckpt":
        with zipfile.ZipFile(path) as parts:
            assert parts.testzip() is None
        torch.load(path, weights_only=True)
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".md":
        assert path.read_text().endswith("\n")
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    elif path.suffix == ".onnx":
        onnx.checker.check_model(str(path))
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as stream:
            assert list(stream.keys())
    elif path.suffix == ".tar":
        with tarfile.open(path) as archive:
            assert archive.getnames()
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            assert all(arrays[name] is not None for name in arrays)
    elif path.suffix == ".txt":
        assert path.name == "traceback.txt"
    else:
        raise AssertionError(f"who wrote {path}?")
