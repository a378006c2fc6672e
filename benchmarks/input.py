"""Measure the images per second that one core prepares: medvision and the pipelines of others.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/input.py [--data FOLDER] [--rounds 5]

Files to batches of augmented bytes, no network behind: decode, resize to 256 pixels, flip by
chance, turn by up to 15 degrees, stack 8. Images come from a folder of images with masks
(``images/`` and ``masks/``, of one stem), and from 200 pictures of 1920 x 1080 that are drawn
first. One process, one thread; each measurement is a process of its own with an epoch over all
images, after a warm-up of 16 of them, or, where a cache is measured, of an epoch that fills it.
``of a core``: images in a second of processor time, which work of others on the machine changes
less than the clock. ``MB``: most memory of the process.

    python benchmarks/input.py --memory

measures instead what the cache takes of the memory of a process, over 200 and 2000 images.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from harness import (
    HERE,
    append_results,
    command_line,
    median_table,
    peer_python,
    run_json,
    take_turns,
)

sys.path.insert(0, str(HERE / "peers"))
from input_timing import BATCH, DEGREES, IMAGE_PX, report

OWN = (
    "medvision, first epoch",
    "medvision, later epochs",
    "medvision, decoded_gb=0",
    "medvision, first epoch, reduced_decoding",
    "medvision, decoded_gb=0, reduced_decoding",
)
BASE = OWN[2]
PEERS: dict[str, tuple[str, str]] = {
    "torchvision": ("input_torchvision.py", "decode"),
    "smp examples (OpenCV, albumentations)": ("input_smp.py", "decode"),
    "MONAI": ("input_monai.py", "decode"),
    "MONAI CacheDataset (in memory)": ("input_monai.py", "memory"),
    "MONAI PersistentDataset (on disk)": ("input_monai.py", "disk"),
    "tf.data": ("input_tf.py", "decode"),
    "tf.data cache (in memory)": ("input_tf.py", "memory"),
}
FIGURES = ("of a core", "of the clock")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of images with masks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200, help="that are drawn; 0 draws none")
    parser.add_argument("--only", nargs="+", default=[], help="words in the names of candidates")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--append", action="store_true", help="add what is found to RESULTS.md")
    parser.add_argument("--measure", choices=OWN, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        _measure(given.data, given.measure)
        return
    lines = _memory() if given.memory else _rates(given)
    print("\n".join(lines))
    if given.append:
        title = "Memory of the cache of decoded images" if given.memory else "Input pipelines"
        append_results(title, lines, command=command_line())


def _rates(given: argparse.Namespace) -> list[str]:
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        sets: dict[str, Path] = {}
        if given.data is not None:
            sets[given.data.name] = given.data
        if given.images:
            sets["drawn"] = draw(Path(scratch, "drawn"), given.images, width=1920, height=1080)
        for name, folder in sets.items():
            print(about := f"{name}: {_size(folder)}")
            found = take_turns(
                dict(_candidates(folder, Path(scratch), given.only)), runs=given.rounds
            )
            base = BASE if BASE in found else next(iter(found))
            lines += ["", about, "", *median_table(found, base=base, figures=FIGURES)]
            lines += ["", "", *median_table(found, base=base, figures=("MB",), better="lower")]
    return lines


def _candidates(
    folder: Path, scratch: Path, only: list[str]
) -> Iterator[tuple[str, Callable[[], Mapping[str, float]]]]:
    """Command of every pipeline, for a separate process."""
    own = {name: [sys.executable, __file__, "--measure", name, "--data", folder] for name in OWN}
    others: dict[str, list[Any]] = {}
    for name, (script, mode) in PEERS.items():
        python: Any = sys.executable
        if script == "input_tf.py" and (not only or any(word in name for word in only)):
            python = peer_python("keras", "tensorflow-cpu==2.21.0")
        others[name] = [python, HERE / "peers" / script, folder, "--mode", mode]
    for name, command in {**own, **others}.items():
        if not only or any(word in name for word in only):
            yield name, partial(_alone, command, scratch, is_own=name in OWN)


def _alone(command: list[Any], scratch: Path, *, is_own: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=scratch) as empty:
        more = [] if is_own or "input_monai" not in str(command[1]) else ["--scratch", empty]
        settings = {"OMP_NUM_THREADS": "1", "MEDVISION_CACHE_DIR": empty}
        return run_json([*command, *more], env=settings)


def _measure(folder: Path, name: str) -> None:
    """The loader of the training, of all images of the folder."""
    from medvision.hardware import keep_freed_memory

    keep_freed_memory()  # as every training does
    reduced = name.endswith("reduced_decoding")
    plain = _loader(folder, decoded_gb=0, reduced=reduced)
    keeps = "decoded_gb=0" not in name
    kept = _loader(folder, decoded_gb=5, reduced=reduced) if keeps else plain

    def epoch(loader: Any, first: int, batches: int | None = None) -> Iterator[int]:
        loader.sampler.set_epoch(first)
        for number, batch in enumerate(loader):
            yield len(batch["image"])
            if number + 1 == batches:
                return

    later = name == OWN[1]
    report(
        lambda: epoch(kept, 1),
        warm_up=lambda: epoch(kept, 0) if later else epoch(plain, 0, batches=2),
    )


def _loader(folder: Path, *, decoded_gb: float, reduced: bool) -> Any:
    import torch

    from medvision.data import SegmentationData
    from medvision.data.discovery.index import index_segmentation
    from medvision.run.config.store import keys_of

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config: Any = keys_of("data", "folder_segmentation")
    config.pop("_target_")
    turn = {"HorizontalFlip": {"p": 0.5}, "Rotate": {"limit": DEGREES, "p": 1.0}}
    changes: dict[str, Any] = {"root": str(folder), "seed": 0, "num_workers": 0}
    changes |= {"batch_size": BATCH, "image_size": IMAGE_PX, "train_transforms": turn}
    changes |= {"decoded_gb": decoded_gb, "reduced_decoding": reduced}
    data = SegmentationData(**{**config, **changes})
    samples = index_segmentation(folder).samples
    data.restore([replace(sample, split="train") for sample in samples])
    loader = data.train_dataloader()
    loader.batch_sampler.drop_last = False  # every image, as the others
    return loader


def draw(root: Path, count: int, *, width: int, height: int) -> Path:
    """Write scenes of a colonoscopy with the grain of a camera: JPEG images, PNG masks."""
    from medvision.data.phantoms.polyps import draw_polyp_scene

    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        image, mask = draw_polyp_scene(number, size_px=height, seed=0)
        rng = np.random.default_rng(number)
        wide = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        grain = rng.normal(0, 12, (height, width)).astype(np.float32)
        grain = cv2.GaussianBlur(grain, (0, 0), 1.0)[..., None] * (wide > 8)
        shown = np.clip(wide + grain, 0, 255).astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        path = root / "images" / f"{number:06d}.jpg"
        cv2.imwrite(str(path), cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), quality)
        cv2.imwrite(str(root / "masks" / f"{number:06d}.png"), mask * np.uint8(255))
    return root


def _size(folder: Path) -> str:
    images = list((folder / "images").iterdir())
    height, width = cv2.imread(str(images[0])).shape[:2]
    each = sum(path.stat().st_size for path in images) / len(images) / 1000
    return f"{len(images)} images of {width} x {height} pixels, {each:.0f} kB each"


def _memory() -> list[str]:
    """Most memory of a process over an epoch that fills the cache and one that reads it."""
    lines = ["| images | MB without | MB with the cache |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        for count in (200, 2000):
            folder, cells = draw(Path(scratch, str(count)), count, width=128, height=128), []
            for name in (BASE, OWN[1]):
                command = [sys.executable, __file__, "--measure", name, "--data", folder]
                cells.append(f"{_alone(command, Path(scratch), is_own=True)['MB']:.0f}")
            lines.append(f"| {count} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
