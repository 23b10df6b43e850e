"""Plots: the same file for the same values, escaped, readable at both widths, and following the page's colours."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest

from finetune_pipeline.data.quality.parts import Bin
from finetune_pipeline.report.blocks import Plot
from finetune_pipeline.report.comparison import models_plot
from finetune_pipeline.report.plots import Dot, dot_plot, learning_curve, signal_over_time, token_histogram
from finetune_pipeline_tests.unit.evaluation.fake_run import changed, usual
from finetune_pipeline_tests.unit.report.parsed import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"
BINS = [Bin(first=0, last=9, count=4), Bin(first=10, last=19, count=8), Bin(first=20, last=400, count=1)]


def texts(svg: str) -> dict[str, tuple[float, float]]:
    """Every text of a plot with its place."""
    texts = ET.fromstring(svg).iter(f"{SVG}text")
    return {str(t.text): (float(t.get("x", "nan")), float(t.get("y", "nan"))) for t in texts}


def dots(labels: Sequence[str]) -> Plot:
    rows = [Dot(label, 25, (20, 30), "25 (20 to 30)", i == 0) for i, label in enumerate(labels)]
    plot = dot_plot("d", "t", rows, "%", (0, 100))
    assert plot is not None
    return plot


def drawn() -> list[Plot]:
    """One plot of each kind."""
    curve = learning_curve([(0, None, 2.0), (5, 1.5, None), (10, 1.0, None), (10, None, 0.8)], 10)
    histogram = token_histogram(BINS, 15)
    assert curve is not None and histogram is not None
    signal = signal_over_time("length", ["2026-01-01", "2026-01-02"], {1: (0.1, False, False), 2: (0.4, True, True)})
    return [dots(["a", "b"]), curve, histogram, signal]


def test_plots_are_deterministic_documents_in_the_colours_of_the_page_without_ids_that_could_meet_there() -> None:
    for first, second in zip(drawn(), drawn(), strict=True):
        assert first == second
        for svg in (first.wide, first.narrow, first.document):
            root = ET.fromstring(svg)
            assert root.tag == f"{SVG}svg" and root.get("aria-label") == first.title
            assert "script" not in svg and "metadata" not in svg and "<style" not in svg and "url(" not in svg
        ids = re.findall(r' id="([^"]+)"', first.wide) + re.findall(r' id="([^"]+)"', first.narrow)
        assert len(ids) == len(set(ids))
        assert "var(--soft, #5b6470)" in first.wide or "var(--ink, #1d2126)" in first.wide
        assert "#000000" not in first.wide, "black would not be seen on a dark page"
        assert "font-family: " not in first.wide and "<text" in first.wide
    assert drawn()[3].wide.count("fill: var(--bad, #a8281f)") == 1, "the alarm"


def test_a_plot_without_a_home_folder_says_nothing() -> None:
    code = "from finetune_pipeline.report.plots import Bin, token_histogram; token_histogram([Bin(first=1, last=2, count=3)], 2)"
    env = {**os.environ, "HOME": f"{os.devnull}/nobody"} | dict.fromkeys(("MPLCONFIGDIR", "XDG_CONFIG_HOME"), "")
    process = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True)
    assert process.stdout + process.stderr == ""


def test_a_narrow_plot_shows_the_same_values() -> None:
    plot = models_plot(usual(), "candidate")
    assert plot is not None
    values = [re.findall(r">([^<>]*\([^<>]* to [^<>]*\))</text>", svg) for svg in (plot.wide, plot.narrow)]
    assert values[0] == values[1] and len(values[0]) == 7, "those of the sealed test"
    assert 'viewBox="0 0 400 ' in plot.narrow and 'viewBox="0 0 880 ' in plot.wide


@pytest.mark.parametrize("label", [HOSTILE, "costs $5 or $6", "漢字 \u202e \x07 label", "x" * 300])
def test_any_label_can_be_drawn(label: str) -> None:
    plot = dots([label, "short"])
    for svg in (plot.wide, plot.narrow):
        ET.fromstring(svg)
        assert "<script" not in svg and "<img" not in svg
    assert max(map(len, texts(plot.wide))) <= 70
    scale = sorted(x for text, (x, _) in texts(plot.wide).items() if text in ("0", "20", "40", "60", "80", "100"))
    assert scale[-1] - scale[0] > 150, "the scale keeps its room"


def test_what_was_not_measured_is_left_out_and_nothing_gives_no_plot() -> None:
    result = usual()
    without = models_plot(changed(result, {"models.candidate.value": None}), "candidate")
    assert without is not None and "Fine-tuned (qlora)" not in texts(without.wide)
    assert dot_plot("d", "t", [], "%") is None and token_histogram([], 10) is None
    assert learning_curve([], None) is None and learning_curve([(0, None, 1.0), (3, None, None)], 0) is None


def test_a_curve_that_falls_far_has_a_logarithmic_scale() -> None:
    far, near = (learning_curve([(0, None, 5.875), (100, None, last)], 100) for last in (0.3, 3.0))
    assert far is not None and near is not None
    assert {"loss (logarithmic)", "0.2", "0.5", "1", "2", "5", "10"} <= set(texts(far.wide))
    ticks = [texts(far.wide)[tick][1] for tick in ("0.5", "1", "2")]
    assert ticks[0] - ticks[1] == pytest.approx(ticks[1] - ticks[2], abs=0.1) and "loss" in texts(near.wide)
    assert learning_curve([(0, 5.0, None), (9, 0.0, None)], None), "zero has no logarithm"
    assert learning_curve([(0, 5.0, None), (9, 3e14, None)], None), "a training that diverged"
