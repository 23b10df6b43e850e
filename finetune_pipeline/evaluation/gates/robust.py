"""Gate: the candidate is robust against small perturbations of the input."""

from finetune_pipeline.evaluation.gates.base import Outcome, gate
from finetune_pipeline.evaluation.result_parts import PerturbedRows
from finetune_pipeline.evaluation.robustness import robustness_verdict
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS, RobustnessSpec
from finetune_pipeline.spec.model import TaskSpec

PERTURBED = RobustnessSpec.model_validate({})


@gate(
    order=140,
    trained_only="Perturbed rows are answered by the fine-tuned model alone.",
    reads=lambda evaluation: evaluation.robustness,
    needs=f"No perturbation that production brings (typing errors, another case, a greeting and thanks), measured on {ENOUGH_ROWS} "
    "test rows or more, costs more than robustness.max_drop and surely something. On fewer rows, or with robustness.action: "
    "warn, it holds nothing back. Not asked if robustness.rows is 0.",
    default=f"{PERTURBED.max_drop:g}, {PERTURBED.action}",
    holds_back="champion, with robustness.action: block",
    what_to_do="Set training.augment: true, which gives training rows the same perturbations, or add training rows written that "
    "way. Or take the perturbation away before the model sees it (strip greetings and thanks). Where right answers change with "
    "the text, as in a translation, set robustness.action: warn.",
)
def robust(spec: TaskSpec, measured: PerturbedRows | None) -> Outcome:
    verdict = robustness_verdict(spec.robustness, measured)
    return Outcome(verdict.status, verdict.largest_drop, spec.robustness.max_drop, verdict.sentence)
