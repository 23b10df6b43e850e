"""ROUGE-1 (Lin 2004)."""

from finetune_pipeline.evaluation.metrics.base import register
from finetune_pipeline.evaluation.metrics.overlap import Overlap


@register
class Rouge1(Overlap):
    name, title = "rouge1", "ROUGE-1"
    described = "words shared with the right text, F-measure"
