"""What limits the scores of a run: leaks, twins in training, looks at the test images, a seal."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from medvision.reports.page import Row, Table, measured_in, whole
from medvision.reports.run_files import RunFiles
from medvision.scores import is_number, named_scores

TWINS = {"with_twin": "with a twin in training", "without_twin": "without one"}


def twin_table(run: RunFiles) -> Table | None:
    """The scores of test images with and without a near-duplicate in training; None without."""
    twins: Mapping[str, Any] = run.summary.get("twins") or {}
    scores_of_task = named_scores(run.task)
    baseline: Mapping[str, Any] = twins.get("memory_baseline") or {}
    found = {name: twins.get(name) or {} for name in TWINS}
    metrics = [name for name in scores_of_task if any(name in scores for scores in found.values())]
    if not metrics:
        return None
    remembered = {name for t in TWINS for name in baseline.get(t) or {} if name in scores_of_task}

    def cells(which: str) -> Iterator[Any]:
        for metric in metrics:
            yield measured_in(found[which], metric, scores_of_task[metric])
            if metric in remembered:
                yield measured_in(baseline.get(which) or {}, metric, scores_of_task[metric])

    head = []
    for metric in metrics:
        heading = scores_of_task[metric].heading
        head += [heading] + [f"{heading} of the memory baseline"] * (metric in remembered)
    rows = [
        Row(
            name=TWINS[name],
            cells=[whole(scores.get("num_images")), *cells(name)],
            bar=(scores.get(metrics[0]), scores.get(f"{metrics[0]}_ci95")),
            strong=name == "without_twin",
        )
        for name, scores in found.items()
    ]
    note = (
        "A twin is an image in training that is the same or nearly so, mirrored, turned or "
        "cropped. Scores of images that have one measure memory: the line without is the one that "
        "speaks of other patients."
    )
    if remembered:
        note += (
            " The memory baseline learns nothing and answers with the training image that is most "
            "alike; a network that is not better than it need not have learned more."
        )
    return Table(
        caption="Test images with and without a twin in training, with 95 % intervals",
        head=["Test images", "Images", *head],
        rows=rows,
        note=f"{note} On the scale: {scores_of_task[metrics[0]].heading} and its interval.",
    )


def looks(run: RunFiles) -> str | None:
    """How often the test images were looked at, in a sentence or two; None where not known."""
    times = run.summary.get("test_evaluations")
    if not is_number(times) or run.stage != "test":
        return None
    if times <= 1:
        return "This test split has been evaluated once, for these scores."
    return (
        f"This test split has been evaluated {whole(times)} times. With every further look the "
        "best of the scores is likelier to be best by chance, and less likely to hold for other "
        "images."
    )


def audit_fact(run: RunFiles) -> str | None:
    """How thoroughly the data were audited and what was found, in a line; None if not at all."""
    audit: Mapping[str, Any] = run.summary.get("audit") or {}
    if not audit:
        return None
    if audit.get("mode") == "skip":
        return "left out, by choice"
    counts = Counter(str(finding.get("severity")) for finding in audit.get("findings") or [])
    told = [f"{whole(n)} {kind}{'s' * (n > 1)}" for kind, n in counts.items() if kind != "note"]
    extent = "complete" if audit.get("complete") else "the cheap checks only"
    return f"{extent}; {', '.join(told) or 'nothing found'}"
