"""A classifier: low-rank matrices on the base, and a head with one output a label in place of the output head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_pipeline.spec.methods.base import Default, Kind, ModelShape, register
from finetune_pipeline.spec.methods.low_rank import LowRank

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings

HEAD = "score"
"""Name of the head in transformers' classifiers on decoders."""


@register
class Classifier(LowRank):
    """Low-rank matrices and a classification head."""

    name, order = "classifier", 60
    trains = "the same matrices as lora, and a head with one output a label, which reads the prompt's last token"
    gives = "adapter with its head, merged into a classifier"
    when = (
        "the answer is a label and nothing else will ever be asked of the model: one forward pass an answer, no token is "
        "generated, and each label has a probability"
    )
    outputs = frozenset({"labels"})
    peft_task = "SEQ_CLS"  # PEFT then trains and saves the head, too
    smaller = "qlora"
    kind = Kind(
        "classifier",
        rf"lora_|(^|\.){HEAD}\.weight$",
        "tensors: low-rank matrices and the head",
        "adapter and head on the base",
        "merged classifier",
        "The adapter merged into the unquantized base, with its classification head",
        generates=False,
    )
    defaults = {
        "learning_rate": Default(
            1e-3, "of four rates the lowest mean validation loss on four tasks (benchmarks/learning_rates.py)"
        )
    }

    def trainable(self, settings: TrainingSettings, shape: ModelShape) -> int:
        """Return the matrices' parameters; the head adds the hidden width for each label, a thousandth of them."""
        return super().trainable(settings, shape)
