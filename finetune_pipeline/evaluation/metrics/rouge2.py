"""ROUGE-2 (Lin 2004)."""

from finetune_pipeline.evaluation.metrics.base import register
from finetune_pipeline.evaluation.metrics.overlap import Overlap


@register
class Rouge2(Overlap):
    name, title = "rouge2", "ROUGE-2"
    described = "pairs of words shared with the right text, F-measure"
