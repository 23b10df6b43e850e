"""Report sections on the probability of answers: its calibration, and which answers need no person."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune_pipeline.evaluation.calibration import LEAST_ROWS, Calibration
from finetune_pipeline.evaluation.gates.automation import promise_of, what_would_do, why_not
from finetune_pipeline.evaluation.predictions import CANDIDATE
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Automation, Probabilities
from finetune_pipeline.evaluation.wording import counted, number, percent, percent_range, points_range
from finetune_pipeline.report.blocks import Blocks, Plot, Table, notes, text
from finetune_pipeline.report.comparison import unsigned
from finetune_pipeline.report.plots import ACCENT, LINE, SOFT, WIDE, canvas, caption, draw, scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {"none": "none needed", "temperature": "temperature", "platt": "Platt's", "isotonic": "isotonic"}


def _titles(evaluation: EvaluationResult) -> Mapping[str, tuple[str, Probabilities]]:
    return {
        name: (evaluation.models[name].title, evaluation.probabilities[name])
        for name in evaluation.models
        if name in evaluation.probabilities
    }


def calibration_section(evaluation: EvaluationResult) -> Blocks:
    """Show how far the probabilities of answers are from the share of right ones, before and after calibration."""
    rows = []
    for title, measured in _titles(evaluation).values():
        if (before := measured.before) and (after := measured.after):
            errors = (before.ece, before.interval, after.ece, after.interval)
            fitted = (_method(measured.calibration), measured.calibration.rows)
            rows.append([title, before.n, before.confidence, before.accuracy, *errors, *fitted])
    columns = [("Model", text), ("Rows", number), ("Mean probability", percent), ("Right", percent)]
    columns += [("Error before, points", unsigned), ("Interval", points_range)]
    columns += [("Error after, points", unsigned), ("Interval", points_range)]
    yield Table([*columns, ("Calibration", text), ("Validation rows", number)], rows)
    titled = _titles(evaluation)
    title, shown = titled.get(CANDIDATE) or next(iter(titled.values()), ("", None))
    if shown:
        yield f"{title}:"
        yield reliability_plot(shown)
        of_part = "Label" if evaluation.task.kind == "labels" else "Field"
        parts = [[part, m.n, m.confidence, m.accuracy, m.ece, m.interval] for part, m in shown.parts.items()]
        columns = [(of_part, text), ("Rows", number), ("Mean probability", percent), ("Right", percent)]
        yield Table([*columns, ("Error after, points", unsigned), ("Interval", points_range)], parts)
    if rows:
        yield from notes(
            f"The probability is {_meaning(evaluation)}. It is calibrated on validation, by the method with the least loss on rows "
            "left out, and measured on the sealed test. Error: mean distance between the probability and the share of right "
            "answers, over ten bins, with the interval of bootstrap samples; chance alone makes it larger than 0. Validation also "
            "chose the prompt, the simple model and the checkpoint, so that probabilities may still be a little too high."
        )
    if rows and CANDIDATE not in titled and not evaluation.untrained:
        yield from notes(
            "The fine-tuned model's are calibrated where automation.max_error is set: only then it answers validation rows."
        )


def _method(calibration: Calibration) -> str:
    return METHODS[calibration.method] if calibration.rows >= LEAST_ROWS else f"none: fewer than {LEAST_ROWS} rows"


def _meaning(evaluation: EvaluationResult) -> str:
    if evaluation.task.kind == "labels":
        return "that of the likeliest label among the allowed ones"
    written = "the product of those of the tokens of the answer, under a schema among the tokens that it allows"
    return f"{written}, or of its fields by a simple model" if evaluation.task.kind == "json" else written


def reliability_plot(measured: Probabilities) -> Plot | None:
    """Plot the share of right answers by probability, before and after calibration."""
    curves = [
        (name, of, color)
        for name, of, color in (("before", measured.before, SOFT), ("after", measured.after, ACCENT))
        if of and (color == ACCENT or measured.calibration.method != "none")
    ]
    if not curves:
        return None

    def figure(width: int) -> "Figure":
        fig, axes = canvas(width, 340, 60, 92, 28, 52)
        scale(axes, "x", 0, 100, 5, "probability of the answer, %")
        scale(axes, "y", 0, 100, 5)
        axes.plot([0, 100], [0, 100], color=LINE, linewidth=1.5)
        for name, of, color in curves:
            x, y = ([100 * (getattr(b, key) or 0.0) for b in of.reliability] for key in ("confidence", "accuracy"))
            most = max(b.n for b in of.reliability)
            axes.plot(x, y, color=color, linewidth=2.4 if color == ACCENT else 1.5)
            axes.scatter(x, y, [20 + 120 * b.n / most for b in of.reliability], color=color)
            axes.annotate(
                name, (x[-1], y[-1]), (10, 0 if color == ACCENT else -16), textcoords="offset pixels", color=color
            )
        caption(axes, "right, %", x=0.06 if width == WIDE else 0.14)
        return fig

    return draw("reliability", "Share of right answers by their probability, with the ideal line", figure)


def automation_section(evaluation: EvaluationResult) -> Blocks:
    """Show which answers need no person at the promised error, of every model that may be shipped."""
    promises = {title: m.automation for title, m in _titles(evaluation).values() if m.automation}
    if not promises:
        return
    rows = [
        [
            title,
            p.coverage,
            p.coverage_interval,
            p.answered,
            p.mistakes,
            p.upper_bound,
            p.threshold and f"{p.threshold:.4f}",
        ]
        for title, p in promises.items()
    ]
    columns = [
        ("Model", text),
        ("Answered alone", percent),
        ("Interval", percent_range),
        ("Rows", number),
        ("Wrong", number),
    ]
    yield Table([*columns, ("Surely at most", percent), ("Probability at least", text)], rows)
    for title, promise in promises.items():
        yield f"{title}: {said(promise)}"
    of_candidate = evaluation.probabilities.get(CANDIDATE)
    shown = (of_candidate and of_candidate.automation) or next(iter(promises.values()))
    yield _tested(shown)
    drawn = "Of each row one field counts, drawn by the row's id. " if shown.unit == "field" else ""
    yield from notes(
        "Thresholds on the sealed test, from the first, which validation chose, to looser ones, up to the first at which more "
        f"than {percent(shown.max_error)} of wrong answers cannot be ruled out: the chance that the last one shown breaks the "
        f"promise is at most {percent(shown.alpha)}, however many were tested. {drawn}Of rows that share a source one counts. "
        f"Without a mistake, {counted(shown.needed, 'row')} are needed."
    )


def said(promise: Automation) -> str:
    """The promise as a sentence, or why there is none and what would show it."""
    if promise.threshold is not None:
        return f"{promise_of(promise)}."
    return " ".join(filter(None, [why_not(promise), what_would_do(promise)]))


def _tested(promise: Automation) -> Table:
    columns = [("Probability at least", text), ("Rows answered", number), ("Share", percent), ("Wrong", number)]
    return Table(
        [*columns, ("Surely at most", percent), ("p", text), ("Shown", text)],
        [
            [
                f"{t.threshold:.4f}",
                t.answered,
                t.answered / promise.n if promise.n else None,
                t.mistakes,
                t.upper_bound,
                f"{t.p:.2g}",
                "yes" if t.p <= promise.alpha else "no",
            ]
            for t in promise.tested
        ],
    )
