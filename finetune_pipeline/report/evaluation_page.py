"""Builds the page of the report on a candidate from one list of sections."""

from collections.abc import Callable, Sequence

from finetune_pipeline.baseline.ladder import Ladder
from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.winner import row_of, winner_of
from finetune_pipeline.report import answers, background, comparison, failures, judgements, promises
from finetune_pipeline.report.blocks import Blocks, Page, Section
from finetune_pipeline.report.ladder_page import ladder_section
from finetune_pipeline.report.next_steps import next_steps
from finetune_pipeline.report.verdict import gates_section, page_verdict

SECTIONS: tuple[tuple[str, str, Callable[..., Blocks]], ...] = (
    ("models", "Models side by side", comparison.models_section),
    ("rows", "Rows", failures.rows_section),
    ("atlas", "Failure atlas", failures.atlas_section),
    ("prompts", "Prompts and simple models on validation", comparison.prompts_section),
    ("advice", "Was it worth training?", comparison.advice_section),
    ("form", "Form or judgement", comparison.form_section),
    ("paired", "Paired comparison", comparison.paired_section),
    ("confusion", "Confusion", answers.confusion_section),
    ("labels", "Labels", answers.labels_section),
    ("detail", "Answers in detail", answers.detail_section),
    ("automation", "Answers without a person", promises.automation_section),
    ("calibration", "Calibration", promises.calibration_section),
    ("likelihoods", "Likelihoods of the labels", answers.likelihoods_section),
    ("learning", "Learning curves", background.learning_section),
    ("robustness", "The same rows, perturbed", answers.robustness_section),
    ("production", "Recent production rows", answers.production_section),
    ("ability", "General ability", judgements.ability_section),
    ("people", "Judgement by people", judgements.people_section),
    ("judge", "Judgement by a model", judgements.judge_section),
    ("data", "Data card", background.data_section),
    ("training", "Training", background.training_section),
    ("supervision", "Supervision", background.supervision_section),
    ("cost", "Cost", background.cost_section),
    ("seal", "The sealed test", background.seal_section),
    ("versions", "Lineage and hashes", background.versions_section),
)
"""Anchor, title and content of every section on the evaluation, in the order of the page."""
UNTRAINED = ("models", "prompts", "advice", "automation", "calibration", "data", "cost", "seal", "versions")
"""Anchors of the sections on a run that trained nothing; the others are about the fine-tuned model."""
SHOW_ROWS = ("rows", "atlas")
"""Anchors of the sections that receive and show texts of rows; no others do."""


def evaluation_page(
    evaluation: EvaluationResult,
    gates: Sequence[GateResult],
    rows: ShownRows | None = None,
    ladder: Ladder | None = None,
) -> Page:
    """Build the page of an evaluation and its gates. rows: the texts to show; without them only ids are shown. ladder:
    measurements before training, if any."""
    shown, ladder_blocks = rows or ShownRows(), ladder_section(ladder) if ladder else []
    shipped = row_of(winner_of(evaluation, gates))
    more: dict[str, tuple[object, ...]] = {"models": (shipped,), **dict.fromkeys(SHOW_ROWS, (shown,))}
    sections = [
        Section.of("ladder", "Before training: prompt, retrieve or fine-tune?", ladder_blocks),
        Section.of("gates", "Gates", gates_section(evaluation, gates)),
        *(
            Section.of(anchor, title, content(evaluation, *more.get(anchor, ())))
            for anchor, title, content in SECTIONS
            if anchor in UNTRAINED or not evaluation.untrained
        ),
    ]
    title, about = f"{evaluation.task.name}: evaluation report", evaluation.task.description
    return Page(
        title,
        about,
        page_verdict(
            evaluation,
            gates,
            next_steps(evaluation, gates),
            comparison.models_plot(evaluation, shipped),
        ),
        sections,
        unfolded=3 if ladder else 2,
    )


def evaluation_plots(evaluation: EvaluationResult, shipped: str) -> dict[str, str]:
    """Return the documents of an evaluation's plots by name. shipped: the model to highlight, as of winner.row_of."""
    plots = [comparison.models_plot(evaluation, shipped)]
    if not evaluation.untrained:
        plots += [comparison.gains_plot(evaluation), background.learning_plot(evaluation)]
    return {plot.name: plot.document for plot in plots if plot}
