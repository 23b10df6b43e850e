"""Gate: the served model answers like the trained one."""

import math

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.models.facts import Parity
from finetune_pipeline.spec.methods import kind_of
from finetune_pipeline.spec.methods.base import ENDPOINT
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=80,
    trained_only="Nothing was trained and merged.",
    reads=lambda evaluation: evaluation.parity,
    needs="The served model gives the trained model's answer on gates.parity_min_agreement of the rows.",
    default=f"{DEFAULTS.parity_min_agreement:g}",
    holds_back="everything after the merge",
    what_to_do="Do not ship this model: it is not the one that was trained. Make merged_model again; if it fails "
    "again, serve base and adapter as they were trained, and report the fault.",
)
def merge_parity(spec: TaskSpec, parity: Parity) -> Outcome:
    threshold, share = spec.gates.parity_min_agreement, parity.same_greedy_share
    if parity.kind == ENDPOINT.name:
        return Outcome("not_asked", None, threshold, "The model is hosted where it was trained: nothing was merged.")
    if not parity.rows or share is None:
        return Outcome(False, None, threshold, "The served model was not compared with the trained one.")
    kind = kind_of(parity.kind)
    message = (
        f"{percent(share)} of {counted(parity.rows, 'answer')} are the same from {kind.trained} and {kind.served}; "
        f"{percent(threshold)} are asked for."
    )
    kl, limit = parity.mean_kl, parity.mean_kl_limit
    if kl is None or limit is None or not math.isfinite(kl):
        return Outcome(False, share, threshold, message + " Their divergence could not be measured.")
    unit = "a token" if kind.generates else "an answer"
    message += f" Mean divergence {kl:.2g} nats {unit}, at most {limit:.2g} allowed."
    return Outcome(share >= threshold and parity.passed and kl <= limit, share, threshold, message)
