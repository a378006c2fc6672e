"""Pages of the app, run by Streamlit for each visitor and each change."""

import base64
import re
from collections.abc import Sequence
from typing import Any

import cv2
import streamlit as st

from medvision.app.served import (
    MOST_IMAGES,
    App,
    ServedRun,
    Shown,
    segmentation_values,
)
from medvision.app.server import current_app, viewer
from medvision.errors import MedvisionError
from medvision.inference.results import ClassificationResult, Result, SegmentationResult
from medvision.reports.plots.overlays import as_rgb
from medvision.types import RESEARCH_ONLY

# Less blank space than Streamlit leaves; it would show a docstring here on the page.
SPACING = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 2.2rem; padding-bottom: 2rem; }
</style>"""


def plain(text: str) -> str:
    """Escape text for Markdown: names of files are not markup."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])", r"\\\1", text)


def show_app(app: App) -> None:
    """Show all tabs."""
    first = app.runs[0].facts
    st.set_page_config(page_title=f"{first.title} - medvision", layout="wide", menu_items={})
    st.html(SPACING)
    st.header(plain(first.title), anchor=False)
    for run in app.runs:
        st.caption(plain(described(run)))
    st.info(f"**{RESEARCH_ONLY}**")
    if any(run.model.card.synthetic for run in app.runs):
        st.warning(
            f"{'The' if len(app.runs) == 1 else 'A'} model was trained on computer-drawn images"
            " (phantoms): its results on real images mean nothing."
        )
    tabs = st.tabs(["Predict", "Audit", "Report", "About"])
    with tabs[0]:
        show_predictions(app)
    for tab, show in zip(tabs[1:], (show_audit, show_report, show_about), strict=True):
        with tab:
            for column, run in zip(st.columns(len(app.runs)), app.runs, strict=True):
                with column:
                    if len(app.runs) > 1:
                        st.subheader(plain(run.name), anchor=False)
                    show(app, run)


def described(run: ServedRun) -> str:
    """Name a run with its network, its data and its first score."""
    facts = dict(run.facts.facts)
    text = f"{run.name}: {facts['Network']}; {facts['Trained on']}"
    if not run.facts.scores:
        return text
    score = run.facts.scores[0]
    return f"{text}; {score['title']} {score['value']} on {run.facts.measured_on}"


def show_predictions(app: App) -> None:
    """Read uploads, and show the result of each."""
    # any name: DICOM files often have no extension, and what is no image is said below
    files = st.file_uploader(
        "Drop images here, or choose them: JPEG, PNG, TIFF, DICOM and others",
        accept_multiple_files=True,
    )
    st.caption("Images stay on the machine that runs this app; nothing is sent elsewhere.")
    heat = not app.runs[0].is_segmentation and st.toggle(
        "Heat map", help="Regions that support the predicted class (Grad-CAM)"
    )
    if len(files) > MOST_IMAGES:
        st.error(f"Only the first {MOST_IMAGES} of {len(files)} images are shown.")
    known: dict[Any, Shown | MedvisionError] = st.session_state.setdefault("shown", {})
    current = {(file.file_id, bool(heat)): file for file in files[:MOST_IMAGES]}
    for key in [key for key in known if key not in current]:
        del known[key]
    for (identity, _), file in current.items():
        key = (identity, bool(heat))
        if key not in known:
            with st.spinner(f"Predicting {plain(file.name)}"):
                known[key] = predicted(app, file.name, file.getvalue(), heat=bool(heat))
    if any(isinstance(one, Shown) for one in known.values()):
        if "archive" not in st.session_state or st.session_state["archive"][0] != list(known):
            st.session_state["archive"] = (list(known), app.archive([*known.values()]))
        st.download_button(
            "Download results (zip)",
            st.session_state["archive"][1],
            file_name="medvision_results.zip",
            mime="application/zip",
        )
    for (identity, _), found in known.items():
        name = current[(identity, bool(heat))].name
        st.subheader(plain(name), divider="gray", anchor=False)
        if isinstance(found, MedvisionError):
            hint = f" Hint: {found.hint}." if found.hint else ""
            st.error(plain(f"Not processed: {found.what}.{hint}"))
        else:
            show_image(app, found, identity)


def predicted(app: App, name: str, data: bytes, *, heat: bool) -> Shown | MedvisionError:
    """Predict an upload, or return why that is impossible."""
    try:
        return app.predict(name, data, heat=heat)
    except MedvisionError as error:
        error.where = name
        return error


def show_image(app: App, shown: Shown, identity: str) -> None:
    """Show an image and the results of all runs side by side."""
    columns = st.columns(len(app.runs))
    for place, (column, run, result) in enumerate(
        zip(columns, app.runs, shown.results, strict=True)
    ):
        with column:
            if len(app.runs) > 1:
                st.caption(plain(run.name))
            key = f"{identity}-{place}"
            answer = viewer()(
                key=f"viewer-{key}",
                data=values_of(
                    result, name=shown.name, key=key, threshold=run.model.card.threshold
                ),
                on_corrected_change=lambda: None,
            )
            if answer.corrected:
                save(app, shown, run, answer.corrected)
            heat = shown.heat[place]
            if heat is not None:
                st.image(
                    heat, caption="Heat map of the predicted class (Grad-CAM)", width="stretch"
                )


def values_of(result: Result, *, name: str, key: str, threshold: float) -> dict[str, Any]:
    """Values of a result for the viewer in the browser."""
    if isinstance(result, SegmentationResult):
        return segmentation_values(result, name=name, key=key)
    assert isinstance(result, ClassificationResult), "ServedRun.load accepts no other task"
    names = list(result.probability)
    picture = cv2.cvtColor(as_rgb(result.image), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return {
        "key": key,
        "name": name,
        "image": base64.b64encode(jpeg.tobytes()).decode(),
        "probability": list(result.probability.values()),
        "predicted": names.index(result.predicted),
        "class_names": names,
        "threshold": threshold,
    }


def save(app: App, shown: Shown, run: ServedRun, corrected: str) -> None:
    """Save a corrected mask, and say where."""
    try:
        image, mask = app.save_pair(shown, base64.b64decode(corrected), run)
    except (MedvisionError, ValueError) as error:
        what = error.what if isinstance(error, MedvisionError) else "the mask is damaged"
        st.error(plain(f"Not saved: {what}."))
    else:
        st.success(f"Saved as {plain(image)} and {plain(mask)} in the folder for corrections.")


def show_audit(app: App, run: ServedRun) -> None:  # noqa: ARG001  one signature for all tabs
    """Show what the audit found before the training."""
    for warning in run.facts.warnings:
        st.warning(plain(warning))
    if run.audit is None:
        st.write("The data of this model were not audited, or its run folder is not known.")
    elif not run.audit:
        st.success("The audit found nothing.")
    else:
        st.table([{"severity": kind, "finding": text} for kind, text in run.audit])


def show_report(app: App, run: ServedRun) -> None:
    """Show the report of the run."""
    if run.report is None:
        st.write("There is no report: its run folder is not known, or the run has not finished.")
        return
    st.iframe(f"/report/{app.runs.index(run)}", height=900, alt=f"Report of {run.name}")


def show_about(app: App, run: ServedRun) -> None:  # noqa: ARG001  one signature for all tabs
    """Show what the model is, and how it was measured."""
    st.table(table_of(run.facts.facts))
    if run.facts.scores:
        st.subheader(f"Measured on {plain(run.facts.measured_on)}", anchor=False)
        st.table(table_of([(one["title"], one["value"]) for one in run.facts.scores]))


def table_of(rows: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Rows of a table with two columns."""
    return [{"what": plain(name), "value": plain(value)} for name, value in rows]


show_app(current_app())
