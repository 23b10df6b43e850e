"""Accuracy: the share of correct labels."""

from finetune_pipeline.evaluation.metrics.base import ShareOfRight, register


@register
class Accuracy(ShareOfRight):
    name, kinds, title = "accuracy", ("labels",), "accuracy"
    described = "the share of answers that are the right label, letter by letter"
    hub_name = "accuracy"
