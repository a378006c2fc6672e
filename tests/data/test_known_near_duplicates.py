from pathlib import Path

import cv2
import numpy as np
import pytest

from medvision.audit.dataset import scan
from medvision.data.duplicates import search


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of six images, the last of each a copy of the first; separate cache."""
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "_WORTH_KEEPING", 1)
    rng = np.random.default_rng(0)
    for name in ("ill", "well"):
        (tmp_path / "set" / name).mkdir(parents=True)
        images = rng.integers(0, 256, (5, 48, 48), np.uint8)
        for k, image in enumerate([*images, images[0]]):
            cv2.imwrite(str(tmp_path / "set" / name / f"{k}.png"), image)
    return tmp_path / "set"


def test_cached_near_duplicates_are_used_until_an_image_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scan(root)
    assert len(found.near_duplicates.first) == 2
    searched: list[int] = []
    real = search.find_near_duplicates

    def spy(
        thumbnails: np.ndarray, hashes: np.ndarray, *, contents: np.ndarray
    ) -> search.NearDuplicates:
        searched.append(len(thumbnails))
        return real(thumbnails, hashes, contents=contents)

    monkeypatch.setattr(search, "find_near_duplicates", spy)
    again = search.near_duplicates_of(found.properties)
    assert searched == []
    np.testing.assert_array_equal(again.groups, found.near_duplicates.groups)
    np.testing.assert_array_equal(again.second, found.near_duplicates.second)
    cv2.imwrite(
        str(root / "ill/5.png"), np.random.default_rng(9).integers(0, 256, (48, 48), np.uint8)
    )
    assert len(scan(root).near_duplicates.first) == 1
    assert searched == [12]
