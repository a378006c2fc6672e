import io

import numpy as np
from rich.console import Console

from convention_tables import conventions_of_maps
from medvision.cli.screen import Rows, convention_table, convention_words
from medvision.metrics.conventions import SegmentationConventions, classification_conventions


def printed(rows: Rows) -> str:
    screen = io.StringIO()
    Console(file=screen, width=80).print(convention_table(rows))
    return screen.getvalue()


def segmentation() -> Rows:
    rng = np.random.default_rng(0)
    return conventions_of_maps(list(rng.random((2, 8, 8))), list(rng.random((2, 8, 8)) < 0.4))


def binary() -> Rows:
    p = np.array([0.1, 0.4, 0.6, 0.8])
    return classification_conventions(
        np.stack([1 - p, p], 1), np.array([0, 1, 0, 1]), class_names=("well", "ill")
    )


def test_the_table_fits_80_columns_without_cutting_words() -> None:
    for rows in (segmentation(), binary()):
        text = printed(rows)
        assert max(len(line) for line in text.splitlines()) <= 80
        assert "…" not in text
        words = " ".join(text.split())
        assert all(word in words for row in rows for word in row["name"].split())


def test_the_own_row_is_first_and_the_others_show_their_difference() -> None:
    rows = segmentation()
    body = [line for line in printed(rows).splitlines() if "own" in line or "nnU-Net" in line]
    assert body[0].split()[:2] == ["per", "image"]
    assert f"{rows[0]['dice']:.4f}" in body[0]
    assert "+0.000" in body[1]  # never -0.000


def test_the_notes_name_the_range_and_optimistic_rows() -> None:
    lines = convention_words(segmentation())
    values = [row["dice"] for row in segmentation()]
    assert lines[0] == (
        "Scores can be compared only within one convention: the same predictions give"
        f" Dice from {min(values):.3f} to {max(values):.3f}."
    )
    assert lines[1].startswith("* chosen on the scored images")
    assert len(lines) == 2
    (first, _) = convention_words(binary())
    assert "accuracy from 0.500 to 0.750, f1 from 0.500 to 0.800, auroc from" in first


def test_scores_for_two_classes_only_are_named_in_one_line() -> None:
    conventions = SegmentationConventions(3)
    conventions.update(np.ones((1, 3, 3), int), np.zeros((1, 3, 3)), np.zeros((1, 3, 3)))
    rows = conventions.compute()
    assert "256" not in printed(rows)
    assert convention_words(rows)[-1] == (
        "Defined for two classes only: soft Dice, smooth 1; mean over 256 thresholds;"
        " best of these 256 thresholds; best threshold on this set."
    )
