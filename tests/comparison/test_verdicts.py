"""Verdicts: matched by image, averaged over seeds, pooled over folds, worded with care."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from medvision.comparison.runs import group_runs, read_run
from medvision.comparison.verdicts import compare_pairs
from medvision.errors import MedvisionError

Make = Callable[..., Path]
Segment = Callable[..., Path]
NAMES = tuple(f"{n:02d}.png" for n in range(40))
A, B = {"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}


@pytest.fixture
def segment(make: Make) -> Segment:
    """Write a run that segmented images with these Dice scores."""

    def one(
        name: str,
        seed: int,
        dice: ArrayLike,
        settings: dict[str, Any],
        names: tuple[str, ...] = NAMES,
        **more: Any,
    ) -> Path:
        head = "path,target,predicted,dice,iou,dice_original,iou_original"
        values = np.asarray(dice, float)
        lines = [
            f"{image},m,p,{'' if np.isnan(v) else v},{v / 2},{v / 4},{v / 8}"
            for image, v in zip(names, values, strict=True)
        ]
        rows = "\n".join([head, *lines]) + "\n"
        metrics = {"test/dice": float(np.nanmean(values))}
        return make(
            name,
            seed,
            settings=settings,
            rows=rows,
            images=names,
            task="segmentation",
            metrics=metrics,
            **more,
        )

    return one


def pairs_of(*runs: Path) -> list[dict[str, Any]]:
    return compare_pairs(group_runs([read_run(run) for run in runs]))


def scores(seed: int, better: float = 0.0) -> np.ndarray:
    """Scores of images that are hard for all models, plus noise of each model."""
    hard = np.random.default_rng(0).beta(8, 2, 40) * 0.8
    return hard + better + np.random.default_rng(seed).normal(0, 0.01, 40)


def test_one_group_has_no_pair(segment: Segment) -> None:
    assert pairs_of(segment("u/0", 0, scores(1), A), segment("u/1", 1, scores(2), A)) == []


def test_rows_in_another_order_are_matched_by_image(segment: Segment) -> None:
    one = segment("u/0", 0, scores(1), A)
    two = segment("u/1", 0, scores(2)[::-1], B, NAMES[::-1])
    (pair,) = pairs_of(one, two)
    found = pair["metrics"]["dice"]
    assert found["difference"] == pytest.approx(float((scores(2) - scores(1)).mean()))
    assert found["standard_error"] == pytest.approx(
        float((scores(2) - scores(1)).std(ddof=1)) / 40**0.5, rel=0.1
    )


def test_one_seed_each_compares_models_not_methods(segment: Segment) -> None:
    (pair,) = pairs_of(segment("u/0", 0, scores(1), A), segment("u/1", 0, scores(2, 0.05), B))
    assert (pair["verdict"], pair["winner"]) == ("better_model", 2)
    assert pair["sentence"].startswith(
        "The trained model of pets optimizer.lr=0.2 is better than that of pets optimizer.lr=0.1:"
        " Dice 0."
    )
    assert pair["sentence"].endswith(
        "This compares trained models, not methods: with one seed each, other seeds may differ"
        " as much."
    )
    assert pair["metrics"]["dice"]["seeds"]["ci95"] is None


def test_the_better_group_is_named_first_in_any_order(segment: Segment) -> None:
    (pair,) = pairs_of(segment("u/0", 0, scores(1, 0.05), A), segment("u/1", 0, scores(2), B))
    assert pair["winner"] == 1
    assert pair["metrics"]["dice"]["difference"] < 0
    assert "0.1 is better than that of pets optimizer.lr=0.2" in pair["sentence"]
    assert "difference +0.0" in pair["sentence"]


def test_several_consistent_seeds_give_a_winner(segment: Segment) -> None:
    runs = [
        segment(f"u/{n}{seed}", seed, scores(10 * n + seed, 0.05 * n), [A, B][n])
        for n in range(2)
        for seed in range(4)
    ]
    (pair,) = pairs_of(*runs)
    assert (pair["verdict"], pair["winner"]) == ("better", 2)
    assert pair["num_seeds"] == [4, 4]
    seeds, found = pair["metrics"]["dice"]["seeds"], pair["metrics"]["dice"]
    means = [float(scores(10 + seed, 0.05).mean()) for seed in range(4)]
    assert found["b"] == pytest.approx(np.mean(means))
    assert seeds["std_b"] == pytest.approx(np.std(means, ddof=1))
    assert (
        "Over the seeds (4 and 4) the difference has a standard error of 0.00" in (pair["sentence"])
    )


def test_a_large_spread_over_seeds_gives_no_winner(segment: Segment) -> None:
    spread = (-0.08, 0.0, 0.08)
    runs = [
        segment(f"u/{n}{seed}", seed, scores(n, 0.05 * n + spread[seed]), [A, B][n])
        for n in range(2)
        for seed in range(3)
    ]
    (pair,) = pairs_of(*runs)
    found = pair["metrics"]["dice"]
    assert found["p"] < 0.05  # these models differ
    assert (pair["verdict"], pair["winner"]) == ("better_within_seeds", 2)
    assert "There is no winner between the methods" in pair["sentence"]


def test_a_repeated_seed_has_no_spread(segment: Segment) -> None:
    runs = [segment(f"u/{n}", 4, scores(n, 0.05), A) for n in range(2)]
    (pair,) = pairs_of(*runs, *[segment(f"v/{n}", n, scores(5 + n), B) for n in range(2)])
    assert pair["num_seeds"] == [1, 2]
    assert pair["verdict"] == "better_model"
    assert (
        "with one seed of pets optimizer.lr=0.1 its spread over seeds is unknown"
        in (pair["sentence"])
    )


def test_noise_gives_no_winner_and_the_number_of_images_needed(segment: Segment) -> None:
    (pair,) = pairs_of(segment("u/0", 0, scores(1), A), segment("u/1", 0, scores(2, 0.002), B))
    assert (pair["verdict"], pair["winner"]) == ("no_winner", None)
    assert pair["sentence"].startswith("No winner between ")
    assert "images would be needed; there are 40." in pair["sentence"]


def test_equal_scores_are_no_difference(segment: Segment) -> None:
    (pair,) = pairs_of(segment("u/0", 0, scores(1), A), segment("u/1", 0, scores(1), B))
    assert pair["verdict"] == "alike"
    assert "for both, the same on each of 40 test images." in pair["sentence"]


def test_one_image_gives_no_verdict(segment: Segment) -> None:
    runs = [
        segment(f"u/{n}", 0, [0.5 + n / 10], settings, NAMES[:1])
        for n, settings in enumerate((A, B))
    ]
    (pair,) = pairs_of(*runs)
    assert pair["verdict"] == "unknown"
    assert pair["sentence"].endswith(
        "Dice 0.500 and 0.600, but no conclusion about other images can be drawn from one test"
        " image."
    )
    json.dumps(pair, allow_nan=False)


def test_images_of_one_group_give_no_verdict(segment: Segment) -> None:
    runs = [
        segment(f"u/{n}", 0, scores(n), settings, groups=("p",) * 40)
        for n, settings in enumerate((A, B))
    ]
    (pair,) = pairs_of(*runs)
    assert pair["sentence"].endswith("can be drawn from 40 test images in 1 group.")


def test_groups_of_either_run_stay_together(segment: Segment) -> None:
    pairs = tuple(str(n // 2) for n in range(40))
    chain = ("", *(str(n // 2) for n in range(39)))  # ties each pair to the next
    runs = [segment(f"u/{n}", 0, scores(n), s) for n, s in enumerate((A, B))]
    assert pairs_of(*runs)[0]["metrics"]["dice"]["num_units"] == 40
    assert "on other images like these" in pairs_of(*runs)[0]["sentence"]
    some = segment("v/0", 0, scores(3), A, groups=pairs)
    found = pairs_of(some, runs[1])[0]
    assert found["metrics"]["dice"]["num_units"] == 20
    assert found["grouped"]
    assert "on other patients like these" in found["sentence"]
    every = segment("v/1", 0, scores(2), B, groups=chain)
    assert pairs_of(some, every)[0]["metrics"]["dice"]["num_units"] == 1


def test_an_undefined_image_is_excluded_from_both(segment: Segment) -> None:
    holes = scores(1)
    holes[3] = np.nan
    (pair,) = pairs_of(segment("u/0", 0, holes, A), segment("u/1", 0, scores(2), B))
    found = pair["metrics"]["dice"]
    kept = np.arange(40) != 3
    assert found["num_images"] == 39
    assert found["b"] == pytest.approx(float(scores(2)[kept].mean()))


def test_other_image_sizes_are_compared_at_the_size_of_the_files(segment: Segment) -> None:
    (pair,) = pairs_of(
        segment("u/0", 0, scores(1), {"data.image_size": 64}),
        segment("u/1", 0, scores(2), {"data.image_size": 128}),
    )
    assert pair["headline"] == "dice_original"
    assert list(pair["metrics"]) == ["dice_original", "iou_original"]
    assert pair["metrics"]["dice_original"]["a"] == pytest.approx(float(scores(1).mean() / 4))
    assert ": Dice at file size 0." in pair["sentence"]


def test_three_groups_are_adjusted_by_holm(segment: Segment) -> None:
    better = (0.0, 0.006, 0.008)
    runs = [
        segment(f"u/{n}", 0, scores(n, value), {"optimizer.lr": float(n)})
        for n, value in enumerate(better)
    ]
    pairs = pairs_of(*runs)
    assert [(pair["a"], pair["b"]) for pair in pairs] == [(1, 2), (1, 3), (2, 3)]
    p = [pair["metrics"]["dice"]["p"] for pair in pairs]
    first = [pair["metrics"]["dice"]["p_holm"] for pair in pairs]
    assert min(first[:2]) == pytest.approx(2 * min(p[:2]))
    assert first[2] is None
    every = [pair["metrics"]["dice"]["p_holm_all"] for pair in pairs]
    assert min(every) == pytest.approx(3 * min(p))
    assert "by Holm, 2 comparisons" in pairs[0]["sentence"]
    assert "by Holm, 3 comparisons" in pairs[2]["sentence"]


def test_classifiers_are_compared_with_the_threshold_that_each_has_in_use(make: Make) -> None:
    probabilities = (0.1, 0.4, 0.2, 0.6, 0.3, 0.45)  # of dog, and every second one is

    def rows(threshold: float) -> str:
        lines = ["path,target,predicted,probability/cat,probability/dog"]
        for row, p in enumerate(probabilities):
            target, predicted = (("cat", "dog")[bool(yes)] for yes in (row % 2, p >= threshold))
            lines.append(f"{row}.png,{target},{predicted},{1 - p},{p}")
        return "\n".join(lines) + "\n"

    runs = [
        make("pets/0", settings=A, rows=rows(0.5)),
        make("pets/1", settings=B, rows=rows(0.35)),
    ]
    (pair,) = pairs_of(*runs)
    found = pair["metrics"]
    assert list(found) == ["accuracy", "balanced_accuracy", "auroc"]
    assert (found["accuracy"]["a"], found["accuracy"]["b"]) == (pytest.approx(4 / 6), 1)
    assert found["auroc"]["a"] == found["auroc"]["b"] == pytest.approx(1)
    assert found["auroc"]["alike"]


def test_auroc_is_left_out_if_only_one_class_is_present(make: Make) -> None:
    head = "path,target,predicted,probability/cat,probability/dog\n"
    runs = [
        make(f"pets/{n}", settings=s, rows=f"{head}1,cat,cat,0.9,0.1\n2,cat,dog,0.4,0.6\n")
        for n, s in enumerate((A, B))
    ]
    assert list(pairs_of(*runs)[0]["metrics"]) == ["accuracy", "balanced_accuracy"]


def test_folds_are_pooled_before_they_are_compared(segment: Segment) -> None:
    def fold_runs(name: str, values: np.ndarray, settings: dict[str, Any]) -> list[Path]:
        return [
            segment(
                f"{name}/{fold}",
                0,
                values[fold::4],
                {"data.protocol": "kfold", "data.fold": fold, "data.folds": 4, **settings},
                NAMES[fold::4],
                dataset={"protocol": "kfold"},
            )
            for fold in range(4)
        ]

    runs = [*fold_runs("u", scores(1), A), *reversed(fold_runs("v", scores(2, 0.05), B))]
    groups = group_runs([read_run(run) for run in runs])
    assert [len(group.members) for group in groups] == [1, 1]
    assert [group.label for group in groups] == ["pets optimizer.lr=0.1", "pets optimizer.lr=0.2"]
    (pair,) = compare_pairs(groups)
    found = pair["metrics"]["dice"]
    assert found["num_images"] == 40
    assert found["difference"] == pytest.approx(float((scores(2, 0.05) - scores(1)).mean()))
    assert pair["num_seeds"] == [1, 1]


def test_a_missing_column_is_named(make: Make, segment: Segment) -> None:
    broken = make("u/1", settings=B, task="segmentation", rows="path,target\n00.png,m\n")
    with pytest.raises(MedvisionError, match="missing column dice") as caught:
        pairs_of(segment("u/0", 0, [0.5], A, NAMES[:1]), broken)
    assert str(broken / "predictions_test.csv") in str(caught.value)


def test_text_instead_of_a_number_is_named(segment: Segment) -> None:
    runs = [segment(f"u/{n}", 0, [0.5], s, NAMES[:1]) for n, s in enumerate((A, B))]
    table = runs[1] / "predictions_test.csv"
    table.write_text(table.read_text().replace("0.5", "high"))
    with pytest.raises(MedvisionError, match="expected numbers in column dice"):
        pairs_of(*runs)
