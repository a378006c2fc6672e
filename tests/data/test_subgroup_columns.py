from pathlib import Path

import pytest

from medvision.data.discovery.index import names_on_disk
from medvision.data.discovery.splits_csv import read_columns
from medvision.errors import MedvisionError


def test_further_columns_are_read_by_path(tmp_path: Path) -> None:
    table = tmp_path / "splits.csv"
    table.write_text("path,Sex,age_band\na.png,f,0-17\nb.png,m,\n", encoding="utf-8")
    assert read_columns([table], ["sex", "age_band"]) == {
        "sex": {"a.png": "f", "b.png": "m"},
        "age_band": {"a.png": "0-17", "b.png": ""},
    }


def test_a_missing_column_is_named_with_those_that_exist(tmp_path: Path) -> None:
    table = tmp_path / "splits.csv"
    table.write_text("path,sex\na.png,f\n", encoding="utf-8")
    with pytest.raises(MedvisionError) as raised:
        read_columns([table], ["site"])
    assert str(raised.value).startswith("no column site (")
    assert raised.value.hint == "its further columns are sex"


def test_the_first_table_with_a_column_counts_and_others_add_their_images(tmp_path: Path) -> None:
    kept, own = tmp_path / "kept.csv", tmp_path / "labels.csv"
    kept.write_text("split,path,site\ntest,a.png,B\n", encoding="utf-8")
    own.write_text("image;site;age\na.png;A;5\nb.png;A;6\n", encoding="utf-8")
    assert read_columns([kept, own], ["Site", "age"]) == {
        "Site": {"a.png": "B", "b.png": "A"},
        "age": {"a.png": "5", "b.png": "6"},
    }
    with pytest.raises(MedvisionError) as raised:
        read_columns([kept, own], ["sex"])
    assert raised.value.hint == "their further columns are site, image, age"


def test_a_table_may_name_images_without_folder_or_extension(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.png").touch()
    for names in (["a.png", "images/b.png"], ["a", "b"], ["images/a.png", "images/b.png"]):
        assert list(names_on_disk(tmp_path, names).values()) == ["images/a.png", "images/b.png"]
