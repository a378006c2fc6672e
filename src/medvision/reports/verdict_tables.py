"""Who is better, as tables and as a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medvision.reports.comparison_plots import color_of
from medvision.reports.metric_words import Words
from medvision.reports.page import Measured, Row, Table
from medvision.reports.score_tables import NOT_MEASURED
from medvision.reports.style import short_name
from medvision.reports.verdict_words import p_in_words, probability_in_words

Pair = Mapping[str, Any]
"""One of the pairs of ``comparison.json``."""

MOST_ROWS = 12  # of the picture


def verdict_table(pairs: Sequence[Pair], words: Mapping[str, Words]) -> Table | None:
    """Every score of the pairs with the first group; None where nothing was compared."""
    rows = [
        Row(
            name=f"{pair['b']} against {pair['a']}: {words[name].name}",
            cells=_cells(pair, found),
            strong=name == pair["headline"],
        )
        for pair in pairs
        for name, found in pair["metrics"].items()
    ]
    if not rows:
        return None
    found = next(iter(pairs[0]["metrics"].values()))
    bold = "The score in bold decides, the others are told beside it"
    exchanges = f"p rests on {found['num_permutations']:,} exchanges"
    return Table(
        caption="Difference of group B to group A (the first) on the same test images",
        head=[
            "B against A",
            "A",
            "B",
            "B - A and 95 % interval",
            "p",
            *(["Holm p"] * (len(pairs) > 1)),
            "probability that B is truly better",
            "images",
        ],
        rows=rows,
        note=f"{bold}; {exchanges}. p and the probability are about other images, not other seeds.",
    )


def _cells(pair: Pair, found: Mapping[str, Any]) -> list[str | Measured]:
    grouped = f" in {found['num_units']:,} groups" if pair["grouped"] else ""
    return [
        f"{found['a']:.3f}",
        f"{found['b']:.3f}",
        _difference(found),
        p_in_words(found["p"]),
        *([p_in_words(found["p_holm"])] * (pair["num_comparisons"] > 1)),
        probability_in_words(found["probability_b_better"]),
        f"{found['num_images']:,}{grouped}",
    ]


def _difference(found: Mapping[str, Any]) -> str | Measured:
    value = f"{found['difference']:+.3f}"
    if found["ci95"] is None:
        return value
    low, high = found["ci95"]
    return Measured(value=value, ends=f"{low:+.3f} to {high:+.3f}")


def seed_table(pairs: Sequence[Pair], words: Mapping[str, Words]) -> Table | None:
    """How far the headline of each pair spreads over seeds; None where no seeds tell."""
    rows = []
    for pair in pairs:
        found = pair["metrics"].get(pair["headline"])
        if found is None or found["seeds"]["std_a"] is found["seeds"]["std_b"] is None:
            continue
        seeds = found["seeds"]
        between = seeds["ci95"]
        rows.append(
            Row(
                name=f"{pair['b']} against {pair['a']}: {words[pair['headline']].name}",
                cells=[
                    " and ".join(map(str, pair["num_seeds"])),
                    *(_small(seeds[key]) for key in ("std_a", "std_b", "standard_error")),
                    NOT_MEASURED if between is None else f"{between[0]:+.3f} to {between[1]:+.3f}",
                    _small(found["standard_error"]),
                ],
            )
        )
    if not rows:
        return None
    return Table(
        caption="The two doubts beside each other: other seeds on the same images, and other "
        "images with the same models",
        head=[
            "B against A",
            "seeds of A and B",
            "deviation of A",
            "deviation of B",
            "standard error over seeds",
            "B - A with other seeds, 95 %",
            "standard error over images",
        ],
        rows=rows,
    )


def other_pairs_table(pairs: Sequence[Pair], words: Mapping[str, Words]) -> Table | None:
    """The headline of the pairs without the first group; None where there are none."""
    rows = [
        Row(
            name=f"{pair['b']} against {pair['a']}",
            cells=[
                f"{found['a']:.3f}",
                f"{found['b']:.3f}",
                _difference(found),
                p_in_words(found["p"]),
                p_in_words(found["p_holm_all"]),
                probability_in_words(found["probability_b_better"]),
            ],
        )
        for pair in pairs
        if (found := pair["metrics"].get(pair["headline"]))
    ]
    if not rows:
        return None
    name = words[pairs[0]["headline"]].name
    return Table(
        caption=f"{name} of the other pairs; Holm p is adjusted over all pairs, the {len(rows)} "
        "here and those with group 1",
        head=["B against A", "A", "B", "B - A and 95 % interval", "p", "Holm p", "probability"],
        rows=rows,
    )


def _small(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def draw_differences(
    pairs: Sequence[Pair], labels: Sequence[str], words: Mapping[str, Words], *, mark: str
) -> Figure | None:
    """Differences to the first group with their intervals, a panel for each score.

    Args:
        pairs: Those with the first group; the first 12 are drawn.
        labels: Of all groups.
        words: Of the scores.
        mark: Added to the title.

    Returns:
        None where there is no interval.
    """
    shown = [pair for pair in pairs if pair["metrics"]][:MOST_ROWS]
    names = [*shown[0]["metrics"]] if shown else []
    if not any(pair["metrics"][name]["ci95"] for pair in shown for name in names):
        return None
    size = (1.4 + 2.5 * len(names), 1.4 + 0.45 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axvline(0, color="grey", linewidth=1)
        for row, pair in enumerate(shown):
            found, color = pair["metrics"][name], color_of(pair["b"] - 1)
            if found["ci95"]:
                axes.plot(found["ci95"], [row, row], color=color, linewidth=2.2)
            axes.plot(found["difference"], row, "o", color=color, markersize=6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel=f"difference in {words[name].name}", ylim=(len(shown) - 0.4, -0.6))
    panels[0].set_yticks(
        range(len(shown)),
        [f"{pair['b']} {short_name(labels[pair['b'] - 1], length=28)}" for pair in shown],
    )
    figure.suptitle(
        f"Better than group 1 to the right of zero, 95 % intervals over images{mark}", fontsize=10
    )
    return figure
