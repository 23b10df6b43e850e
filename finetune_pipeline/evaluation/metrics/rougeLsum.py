"""ROUGE-L over the sentences of a text (Lin 2004)."""

from finetune_pipeline.evaluation.metrics.base import register
from finetune_pipeline.evaluation.metrics.overlap import Overlap


@register
class RougeL(Overlap):
    name, title = "rougeLsum", "ROUGE-L"
    described = "longest common sequences of words, sentence by sentence, F-measure"
    hub_name = "rouge"
