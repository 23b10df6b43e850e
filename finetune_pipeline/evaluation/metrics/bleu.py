"""Smoothed sentence BLEU (Papineni et al. 2002)."""

from finetune_pipeline.evaluation.metrics.base import register
from finetune_pipeline.evaluation.metrics.overlap import SacreBleu


@register
class Bleu(SacreBleu):
    name, title = "bleu", "sentence BLEU"
    described = "sequences of one to four words shared with the right text, sentence by sentence"
    hub_name = "bleu"
