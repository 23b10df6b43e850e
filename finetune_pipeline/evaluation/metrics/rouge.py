"""ROUGE-1, ROUGE-2, and ROUGE-L over the sentences of a text (Lin 2004)."""

from finetune_pipeline.evaluation.metrics.base import register
from finetune_pipeline.evaluation.metrics.overlap import Overlap


@register
class Rouge1(Overlap):
    name, title = "rouge1", "ROUGE-1"
    described = "words shared with the right text, F-measure"


@register
class Rouge2(Overlap):
    name, title = "rouge2", "ROUGE-2"
    described = "pairs of words shared with the right text, F-measure"


@register
class RougeL(Overlap):
    name, title = "rougeLsum", "ROUGE-L"
    described = "longest common sequences of words, sentence by sentence, F-measure"
    hub_name = "rouge"
