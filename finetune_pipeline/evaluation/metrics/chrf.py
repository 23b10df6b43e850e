"""chrF (Popovic 2015)."""

from finetune_pipeline.evaluation.metrics.base import register
from finetune_pipeline.evaluation.metrics.overlap import SacreBleu


@register
class ChrF(SacreBleu):
    name, title = "chrf", "chrF"
    described = "sequences of characters shared with the right text"
    hub_name = "chrf"
