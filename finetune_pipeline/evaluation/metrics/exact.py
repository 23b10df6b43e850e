"""Exact match: the share of JSON values and texts equal to the reference."""

from finetune_pipeline.evaluation.metrics.base import ShareOfRight, register


@register
class Exact(ShareOfRight):
    name, kinds, title = "exact", ("json", "text"), "exact answers"
    described = (
        "the share of answers that are the right JSON value, the right text or, with output.extract, final answer"
    )
    hub_name = "exact_match"
