"""The probabilities of a model's answers, the promise that the sealed test certifies of them, and what each model of a run answers
by itself."""

from collections.abc import Mapping, Sequence

from finetune_pipeline.evaluation.automation import certify
from finetune_pipeline.evaluation.calibration import AutomationPromise, ReleasedProbability, fit_calibration
from finetune_pipeline.evaluation.compare import SourceOf
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.coverage import Automated, certified, in_service
from finetune_pipeline.evaluation.predictions import CANDIDATE, CHAMPION, SIMPLE, row_name
from finetune_pipeline.evaluation.probabilities import answers_of, fields_of, of_part, reliability, whole_coverage
from finetune_pipeline.evaluation.result_parts import Probabilities
from finetune_pipeline.evaluation.rivals import BaseAtItsBest, restricted_rows
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput

PART_ROWS = 50
"""Fewest sealed rows of a label or field whose calibration is shown alone."""


def released(measured: Probabilities) -> ReleasedProbability | None:
    """Return what a release keeps of a model's probabilities; its digest is made with the release.

    Returns:
        None where fields were calibrated and nothing can be promised of them: no answer must get the probability of a field.
    """
    promised, promise = measured.automation, None
    if promised and promised.unit == "field" and promised.threshold is None:
        return None
    if promised and promised.threshold is not None:
        error, fields = promised.max_error, promised.fields
        promise = AutomationPromise(threshold=promised.threshold, max_error=error, unit=promised.unit, fields=fields)
    return ReleasedProbability(labels=measured.labels, calibration=measured.calibration, promise=promise)


def probabilities_of(
    spec: TaskSpec,
    validation: Sequence[Row],
    test: Sequence[Row],
    level: float,
    sources: SourceOf = None,
    validation_sources: SourceOf = None,
) -> Probabilities | None:
    """Calibrate a model's probabilities on validation, measure them on the sealed test, and certify automation.max_error.

    Args:
        validation, test: The model's answers.
        level: The chance of a broken promise.

    Returns:
        None if no answer has a probability and nothing is to be promised.
    """
    output, automation = spec.output, spec.automation
    unit = "answer" if automation.max_error is None else automation.unit
    fields = fields_of([*validation, *test], output) if isinstance(output, JsonOutput) and unit == "field" else []
    asked = answers_of(validation, output, validation_sources, unit, fields)
    sealed = answers_of(test, output, sources, unit, fields)
    if automation.max_error is None and not (asked.probabilities > 0).any():
        return None
    calibration = fit_calibration(asked.probabilities, asked.right)
    after = sealed.calibrated(calibration)
    promise = None
    if automation.max_error is not None:
        promise = certify(asked.calibrated(calibration), after, automation.max_error, level, unit, fields)
        if unit == "field" and promise.threshold is not None:
            whole = whole_coverage(test, sources, fields, calibration, promise.threshold)
            promise = promise.model_copy(update={"whole_coverage": whole})
    by_part = {part: of_part(after, part) for part in sorted(set(after.parts)) if part}
    return Probabilities(
        calibration=calibration,
        labels=spec.labels,
        before=reliability(sealed),
        after=reliability(after),
        parts={
            part: measured
            for part, answers in by_part.items()
            if len(answers.right) >= PART_ROWS and (measured := reliability(answers))
        },
        automation=promise,
    )


def automated_models(
    spec: TaskSpec,
    rows: Mapping[str, Sequence[Row]],
    base: BaseAtItsBest,
    simple: Mapping[str, Sequence[Row]],
    validation: Mapping[str, Sequence[Row]],
    measured: Mapping[str, Probabilities | None],
    champion: ReleasedProbability | None,
    level: float,
    sources: SourceOf,
    validation_sources: SourceOf,
) -> dict[str, Automated]:
    """Return what each model answers by itself at its certified threshold, by row of EvaluationResult.models.

    Args:
        rows, base, simple: Answers to the sealed test, as of deciding.decisions_of.
        validation: Answers to validation rows, under the names of `rows`.
        measured: Of the models that may be shipped.
        champion: Released with the champion: it answers what it answers in service.
        level: The chance of a broken promise, of the models that are not in `measured`.
    """
    asked = {SIMPLE + name: (validation.get(SIMPLE + name, ()), answers) for name, answers in simple.items()}
    for mode, answers in base.answers.items():
        free = validation.get("base", ())
        of_mode = restricted_rows(validation, "base", spec.output) if mode == "restricted" else free
        asked[row_name("prompt", None, mode)] = (of_mode or (), answers)
    automated = {
        name: certified(
            measured[name]
            if name in measured
            else probabilities_of(spec, before, answers, level, sources, validation_sources),
            answers,
            spec.output,
        )
        for name, (before, answers) in asked.items()
    }
    if CANDIDATE in measured:
        automated[CANDIDATE] = certified(measured[CANDIDATE], rows[CANDIDATE], spec.output)
    if CHAMPION in rows:
        assert spec.automation.max_error is not None
        automated[CHAMPION] = in_service(champion, rows[CHAMPION], spec.output, spec.automation.max_error)
    return automated
