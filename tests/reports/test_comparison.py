"""The page of a comparison: content, escaping, and self-containment."""

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from medvision.reports.comparison import comparison_page, draw_differences
from medvision.reports.page import NOT_MEASURED, setting_in_words
from medvision.reports.plots.comparison import Drawn, draw_rocs, draw_validation
from medvision.scores import named_scores

HISTORY = [{"epoch": 0, "val/loss": 0.6, "val/accuracy": None}, {"epoch": 1, "val/loss": 0.4}]
LONGER = [{"epoch": epoch, "val/loss": loss} for epoch, loss in enumerate((0.8, 0.6, 0.5))]
DIAGONAL = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
PERFECT = (np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))


def run(number: int, seed: int, **more: Any) -> dict[str, Any]:
    known = {"path": f"/runs/{number}", "name": f"runs/{number}", "seed": seed, "model": "UNet"}
    facts = {"num_parameters": 12345, "best_epoch": 1, "epochs": 2, "device": "cpu"}
    return {**known, **facts, "precision": "bf16-mixed", "warnings": [], **more}


def metric(values: list[float | None], mean: float | None, std: float | None) -> dict[str, Any]:
    return {
        "mean": mean,
        "std": std,
        "num_values": sum(value is not None for value in values),
        "difference_to_first": None,
        "values": values,
        "ci95": [None if value is None else [value - 0.1, value + 0.1] for value in values],
    }


def pair(a: int = 1, b: int = 2, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "a": 0.85,
        "b": 0.8,
        "difference": -0.05,
        "ci95": [-0.09, -0.01],
        "p": 0.004,
        "p_holm": 0.012 if a == 1 else None,
        "p_holm_all": 0.013,
        "num_permutations": 9999,
        "probability_b_better": 0.007,
        "standard_error": 0.02,
        "images_needed": 126,
        "num_images": 100,
        "num_units": 60,
        "alike": False,
        "seeds": {"std_a": 0.0707, "std_b": None, "standard_error": None, "ci95": None},
    }
    known: dict[str, Any] = {
        "a": a,
        "b": b,
        "num_seeds": [2, 1],
        "grouped": True,
        "num_comparisons": 1,
        "headline": "accuracy",
        "metrics": {"accuracy": found},
        "verdict": "better_model",
        "winner": a,
        "claim": f"Group {a} wins over group {b}",
        "sentence": f"Group {a} wins over group {b}: by far.",
    }
    return known | more


def comparison(**more: Any) -> dict[str, Any]:
    """Two seeds of one setting beside one run of another."""
    several = {
        "label": "pets optimizer.lr=0.1",
        "experiment": "pets",
        "marks": "",
        "size": "2 seeds",
        "num_runs": 2,
        "seeds": [0, 1],
        "runs": [run(0, 0), run(1, 1)],
        "metrics": {
            "test/accuracy": metric([0.8, 0.9], 0.85, 0.0707),
            "test/auroc": metric([0.7, None], 0.7, None),
            "test/recall/cat": metric([0.5, 0.6], 0.55, 0.0707),
        },
    }
    alone = {
        "label": "pets optimizer.lr=0.2",
        "experiment": "pets",
        "marks": "(synthetic data)",
        "size": "1 seed",
        "num_runs": 1,
        "seeds": [0],
        "runs": [run(2, 0, warnings=["the data are few"])],
        "metrics": {
            "test/accuracy": metric([0.8], 0.8, None) | {"difference_to_first": -0.05},
            "test/auroc": metric([None], None, None),
            "test/recall/cat": metric([0.4], 0.4, None),
        },
    }
    return {
        "task": "classification",
        "groups": [several, alone],
        "pairs": [pair()],
        "differing_settings": {"optimizer.lr": [0.1, 0.2]},
        "notes": ["the data differ: a in group 1; b in group 2"],
        **more,
    }


def page(content: dict[str, Any], **more: Any) -> str:
    curves: dict[str, Any] = {
        "histories": [[HISTORY, LONGER], [HISTORY]],
        "roc": [[DIAGONAL, PERFECT], [None]],
    }
    return comparison_page(content, **curves | more)


class Reader(HTMLParser):
    """Collect the text of cells, all addresses and all element names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.elements: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        found = {key: value or "" for key, value in attrs}
        self.addresses += [found[key] for key in ("src", "href") if key in found]
        self.ids += [found["id"]] if "id" in found else []

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data

    @property
    def rows(self) -> list[str]:
        """Text of the cells, without the space around it."""
        return [" ".join(cell.split()) for cell in self.cells]


@pytest.fixture(scope="module")
def made() -> str:
    return page(comparison())


def test_means_have_their_deviation_and_single_runs_their_interval(made: str) -> None:
    rows = Reader(made).rows
    start = rows.index("1 pets")
    assert rows[start : start + 4] == ["1 pets", "2 seeds", "0.850 ± 0.071", "0.700, 1 of 2"]
    assert rows[start + 4 : start + 7] == ["2 pets", "1 seed", "0.800 (0.700 to 0.900)"]
    assert "± 0.000" not in made


def test_differences_to_the_first_group_have_a_sign(made: str) -> None:
    rows = Reader(made).rows
    start = len(rows) - rows[::-1].index("2 pets") - 1
    assert rows[start + 1] == "-0.050"
    assert rows[start + 2].startswith(NOT_MEASURED)
    assert "A difference may be due to chance" in made


def test_the_verdict_comes_first(made: str) -> None:
    headline = re.search(r'class="headline">(.*?)</p>', made)
    assert headline is not None
    assert headline[1] == (
        "Group 1 wins over group 2. Test accuracy, mean over seeds: 0.850 ± 0.071 (pets, group 1, 2"
        " seeds), 0.800 (pets, group 2, 1 seed)."
    )
    sections = re.findall(r'<section id="(\w+)"', made)
    assert sections[:2] == ["verdict", "scores"]
    assert "<p>Group 1 wins over group 2: by far.</p>" in made
    rows = Reader(made).rows
    start = rows.index("2 against 1: accuracy")
    assert rows[start + 1 : start + 6] == [
        "0.850",
        "0.800",
        "-0.050 -0.090 to -0.010",
        "0.0040",
        "0.007",
    ]
    assert rows[start + 6].startswith("100 in 60 groups")
    assert "p is based on 9,999 permutations" in made
    assert "Holm p" not in rows


def test_uncertainty_over_seeds_and_over_images_is_side_by_side(made: str) -> None:
    rows = Reader(made).rows
    start = len(rows) - rows[::-1].index("2 against 1: accuracy") - 1
    assert rows[start + 1 : start + 6] == ["2 and 1", "0.071", *[NOT_MEASURED] * 3]
    assert rows[start + 6].startswith("0.020")


def test_a_third_group_adds_holm_and_the_other_pairs() -> None:
    content = comparison(pairs=[pair(num_comparisons=2), pair(1, 3, num_comparisons=2), pair(2, 3)])
    content["groups"].append(content["groups"][1])
    made = page(
        content, histories=[[HISTORY, LONGER], *[[HISTORY]] * 2], roc=[[None] * 2, [None], [None]]
    )
    rows = Reader(made).rows
    assert rows[rows.index("3 against 1: accuracy") + 5] == "0.012"
    assert "The other pairs (1)" in made
    assert rows[rows.index("3 against 2") + 5] == "0.013"


def test_one_group_has_no_winner() -> None:
    content = comparison(pairs=[])
    content["groups"] = content["groups"][:1]
    made = page(content, histories=[[HISTORY, LONGER]], roc=[[None, None]])
    assert 'id="verdict"' not in made
    assert "permutation p" not in made


def test_the_picture_of_differences_has_a_row_for_each_pair() -> None:
    pairs = [pair(), pair(1, 3)]
    figure = draw_differences(pairs, ["a", "b", "c"], named_scores("classification"), mark="")
    assert figure is not None
    (axes,) = figure.axes
    zero, first, dot, *_ = axes.lines
    assert set(zero.get_xdata()) == {0}
    assert list(first.get_xdata()) == [-0.09, -0.01]
    assert list(dot.get_xdata()) == [-0.05]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2 b", "3 c"]
    assert axes.yaxis_inverted()
    unknown = pair()
    unknown["metrics"]["accuracy"]["ci95"] = None
    assert draw_differences([unknown], ["a", "b"], named_scores("classification"), mark="") is None


def test_the_page_has_notes_labels_warnings_and_definitions(made: str) -> None:
    assert "<li>The data differ: a in group 1; b in group 2.</li>" in made
    assert "<strong>(synthetic data)</strong>" in made
    assert "<li>group 2: the data are few</li>" in made
    assert "No curve, or an undefined one, for 2 runs/2." in made
    assert "For research use only." in made
    text = " ".join(made.split())
    assert "sample standard deviation over their seeds" in text


def test_the_page_is_self_contained(made: str) -> None:
    found = Reader(made)
    assert "script" not in found.elements
    local = {f"#{name}" for name in found.ids}
    assert {a for a in found.addresses if not a.startswith("data:")} <= local
    pictures = [address for address in found.addresses if address.startswith("data:image/png")]
    assert len(pictures) == 3  # differences, loss and ROC
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", made)


def test_names_are_escaped_everywhere() -> None:
    evil = "<script>alert('x')</script> & $x$"
    pairs = [pair(claim=evil, sentence=evil)]
    content = comparison(notes=[evil], differing_settings={evil: [evil, "<b>"]}, pairs=pairs)
    for group in content["groups"]:
        group |= {"label": evil, "experiment": evil, "marks": evil}
        group["metrics"] = {f"test/recall/{evil}": metric([0.5] * group["num_runs"], 0.5, None)} | (
            group["metrics"]
        )
        for entry in group["runs"]:
            entry |= {"name": evil, "model": evil, "warnings": [evil]}
    made = page(content)
    assert "<script" not in made
    assert "<b>" not in made
    assert "&lt;script&gt;" in made


def test_groups_without_a_test_have_a_page_too() -> None:
    content = comparison(pairs=[])
    for group in content["groups"]:
        group["metrics"] = {"val/accuracy": metric([0.5] * group["num_runs"], 0.5, None)}
    made = page(content, roc=[[None, None], [None]])
    assert "No run has a test score." in made
    assert 'id="roc"' not in made


def test_many_groups_are_summarised_by_their_range() -> None:
    content = comparison()
    alone = content["groups"][1]
    for number, mean in enumerate((0.5, 0.95)):
        other = metric([mean], mean, None)
        content["groups"].append(
            alone | {"experiment": f"other{number}", "metrics": {"test/accuracy": other}}
        )
    made = page(
        content, histories=[[HISTORY, LONGER], *[[HISTORY]] * 3], roc=[[None] * 2, *[[None]] * 3]
    )
    assert (
        "Test accuracy, mean over seeds, of 4 groups: from 0.500 (other0, 1 seed) to 0.950"
        " (other1, 1 seed)." in made
    )


def drawn(**more: Any) -> Drawn:
    known: dict[str, Any] = {"name": "1 pets", "size": "2 seeds", "has_spread": True}
    curves = {"auroc": "0.75 ± 0.1", "histories": [HISTORY, LONGER], "roc": [DIAGONAL, PERFECT]}
    return Drawn(**known | curves | more)


def test_the_mean_curve_ends_with_the_shortest_run() -> None:
    axes = draw_validation([drawn()], metric="loss", label="loss", mark="").axes[0]
    short, long, mean, name = axes.lines
    assert short.get_xydata().tolist() == [[1, 0.6], [2, 0.4]]
    assert long.get_xydata().tolist() == [[1, 0.8], [2, 0.6], [3, 0.5]]
    assert mean.get_xydata() == pytest.approx(np.array([[1, 0.7], [2, 0.5]]))
    assert name.get_label() == "1 pets (2 seeds)"
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.7 + 0.02**0.5)  # n - 1: sqrt(2 * 0.1**2)
    assert band[:, 1].min() == pytest.approx(0.5 - 0.02**0.5)


def test_runs_of_one_seed_have_neither_mean_nor_band() -> None:
    axes = draw_validation([drawn(has_spread=False)], metric="loss", label="loss", mark="").axes[0]
    assert len(axes.lines) == 3  # two runs and the name in the legend
    assert not axes.collections


def test_the_mean_of_two_roc_curves_is_halfway_between_them() -> None:
    axes = draw_rocs([drawn()], what="images", mark="").axes[0]
    diagonal, first, second, mean, name = axes.lines
    assert second.get_xydata().tolist() == [[0, 0], [0, 1], [1, 1]]
    area = np.trapezoid(mean.get_ydata(), mean.get_xdata())
    assert area == pytest.approx((0.5 + 1) / 2)
    assert name.get_label() == "AUC 0.75 ± 0.1  1 pets (2 seeds)"
    assert first.get_color() == second.get_color() == mean.get_color() != diagonal.get_color()


def test_a_group_keeps_its_colour_if_another_has_no_roc() -> None:
    groups = [drawn(roc=[]), drawn(has_spread=False, roc=[PERFECT])]
    curves = draw_validation(groups, metric="loss", label="loss", mark="").axes[0].lines
    assert draw_rocs(groups, what="images", mark="").axes[0].lines[1].get_color() == (
        curves[-1].get_color()
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(None, "null", id="nothing"),
        pytest.param(True, "true", id="truth"),
        pytest.param(0.001, "0.001", id="number"),
        pytest.param("medvision.models.UNet", "UNet", id="class"),
        pytest.param("/data/of/pets/", ".../pets", id="folder"),
        pytest.param([1, 2], "[1, 2]", id="list"),
        pytest.param("x" * 30, "x" * 21 + "...", id="long"),
        pytest.param("0.5.1", "0.5.1", id="not-a-class"),
    ],
)
def test_settings_are_shortened_to_a_few_characters(value: Any, words: str) -> None:
    assert setting_in_words(value) == words
