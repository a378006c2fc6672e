import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from medvision.data import samples as texts_module
from medvision.data.samples import StringColumn

COLUMNS = {
    "nothing": [],
    "one blank": [""],
    "few different": ["train", "", "val", "train"] * 5,
    "all different": [f"images/{k}.png" for k in range(50)],
    "different later": ["a"] * 20 + [f"p{k}" for k in range(20)] + ["a", "p3"],
    "beyond ASCII": ["\u00e4", "\U0001f9e0 b", "", "\u4e2d\u6587"] * 3,
}


@pytest.fixture(params=COLUMNS)
def given(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    monkeypatch.setattr(texts_module, "CHUNK", 7)
    monkeypatch.setattr(texts_module, "_MAX_REPEATED", 5)
    return COLUMNS[request.param]


def test_a_column_reads_as_the_list_it_was_made_of(given: list[str]) -> None:
    column = StringColumn.of(iter(given))
    assert len(column) == len(given)
    assert list(column) == given
    assert [column[k] for k in range(-len(given), len(given))] == given * 2
    assert list(column[3:40:2]) == given[3:40:2]
    with pytest.raises(IndexError):
        column[len(given)]


def test_rows_are_selected_by_index_and_by_mask(given: list[str]) -> None:
    column = StringColumn.of(given)
    turned = np.arange(len(given))[::-1]
    assert list(column.select(turned)) == given[::-1]
    assert list(column.select(turned).select(turned)) == given
    assert list(column.select(column.equal("a"))) == [text for text in given if text == "a"]


def test_numbering_the_sorted_texts_reproduces_the_column(given: list[str]) -> None:
    whole = StringColumn.of(given)
    for column in (whole, whole.select(np.arange(len(given) // 2))):
        names, number = column.numbered()
        assert names == sorted(set(column))
        assert [names[k] for k in number] == list(column)


def test_columns_are_joined_in_their_order(given: list[str]) -> None:
    column = StringColumn.of(given)
    odd = np.arange(len(given)) % 2 == 1
    parts = [column.select(odd), column.select(~odd)]  # of one column
    assert list(StringColumn.joined(parts)) == given[1::2] + given[::2]
    assert list(StringColumn.joined([column, StringColumn.of(["x"])])) == [*given, "x"]
    assert list(StringColumn.joined([])) == []


def test_order_is_that_of_the_texts(given: list[str]) -> None:
    column = StringColumn.of(given)
    assert list(column.select(column.sorted_rows())) == sorted(given)
    assert column.ascends() == (sorted(set(given)) == given)


def test_a_million_rows_are_a_few_objects() -> None:
    paths = StringColumn.of(f"images/patient_{k:07d}.png" for k in range(100_000))
    splits = StringColumn.of(("train", "val")[k % 2] for k in range(100_000))
    assert len(pickle.dumps(paths)) < 100_000 * (len("images/patient_0000000.png") + 4) + 1000
    assert len(pickle.dumps(splits)) < 100_000 + 1000
    assert list(pickle.loads(pickle.dumps(paths))) == list(paths)
