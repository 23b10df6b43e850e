"""Plots: right places, escaped text, sound XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from finetune_pipeline.report.plots import Dot, dot_plot, gains_plot, learning_curve, models_plot, nice_ticks

SVG = "{http://www.w3.org/2000/svg}"


def _parse(svg: str) -> ET.Element:
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-0.4, 2.3, [-1, 0, 1, 2, 3]),
        (0, 0.07, [0, 0.02, 0.04, 0.06, 0.08]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, ticks):
    assert nice_ticks(low, high) == ticks


def test_ticks_of_an_empty_range_are_still_a_range():
    assert nice_ticks(2.0, 2.0) == [2.0, 3.0]


def test_dots_stand_where_their_values_are():
    root = _parse(dot_plot([Dot("a", 25, 20, 30, "25"), Dot("b", 75, 70, 80, "75", True)], "t", "%", (0, 100)))
    a, b = [float(c.get("cx")) for c in root.iter(f"{SVG}circle")]
    lines = {t.text: float(t.get("x")) for t in root.iter(f"{SVG}text") if t.text in ("0", "100")}
    assert (a - lines["0"]) / (lines["100"] - lines["0"]) == pytest.approx(0.25, abs=1e-3)
    assert (b - lines["0"]) / (lines["100"] - lines["0"]) == pytest.approx(0.75, abs=1e-3)


def test_text_is_escaped():
    svg = dot_plot([Dot("<script>x</script>", 1, 0, 2, "&")], '"t"', "<b>")
    assert "<script>" not in svg and "<b>" not in svg
    _parse(svg)


def test_gains_plot_has_a_zero_line_only_where_gains_are_negative():
    lost = {"x": {"gain": -0.1, "interval": [-0.2, 0.05]}, "y": None}
    won = {"x": {"gain": 0.1, "interval": [0.05, 0.2]}}
    assert 'class="zero"' in gains_plot(lost, {"x": "X", "y": "Y"}, "points")
    assert 'class="zero"' not in gains_plot(won, {"x": "X"}, "points")


def test_models_without_an_interval_are_left_out_of_the_plot():
    model = {"title": "M", "set": "test", "value": 0.5, "value_interval": [0.4, 0.6]}
    root = _parse(models_plot({"a": model, "b": model | {"value": None}}, "accuracy"))
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    assert models_plot({}, "accuracy") == ""


def test_learning_curve_draws_both_losses_and_marks_the_kept_step():
    history = [
        {"step": 0, "eval_loss": 2.0},
        {"step": 5, "loss": 1.5},
        {"step": 10, "loss": 1.0, "eval_loss": None},
        {"step": 10, "eval_loss": 0.8},
    ]
    root = _parse(learning_curve(history, 10))
    assert [len(p.get("points").split()) for p in root.iter(f"{SVG}polyline")] == [2, 2]
    first, second = [float(c.get("cy")) for c in root.iter(f"{SVG}circle")]
    assert first < second
    assert "kept" in [t.text for t in root.iter(f"{SVG}text")]


def test_learning_curve_of_nothing():
    assert learning_curve([], None) == ""
    assert learning_curve([{"step": 0, "eval_loss": 1.0}, {"step": 3, "eval_loss": float("nan")}], 0) == ""
