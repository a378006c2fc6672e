from pathlib import Path

import pytest

from medvision.data.discovery.splits_csv import read_columns
from medvision.errors import MedvisionError


def test_further_columns_are_read_by_path(tmp_path: Path) -> None:
    table = tmp_path / "splits.csv"
    table.write_text("path,Sex,age_band\na.png,f,0-17\nb.png,m,\n", encoding="utf-8")
    assert read_columns(table, ["sex", "age_band"]) == {
        "sex": {"a.png": "f", "b.png": "m"},
        "age_band": {"a.png": "0-17", "b.png": ""},
    }


def test_a_missing_column_is_named_with_those_that_exist(tmp_path: Path) -> None:
    table = tmp_path / "splits.csv"
    table.write_text("path,sex\na.png,f\n", encoding="utf-8")
    with pytest.raises(MedvisionError) as raised:
        read_columns(table, ["site"])
    assert str(raised.value).startswith("no column site (")
    assert raised.value.hint == "its further columns are sex"
