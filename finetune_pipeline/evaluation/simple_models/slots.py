"""The nearest answer with its slots filled, for text answers that share templates."""

import re
from collections import Counter
from collections.abc import Sequence

from finetune_pipeline.evaluation.simple_models.base import ALONE, NotForTheseRows, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.features import check_rows, nearest
from finetune_pipeline.evaluation.simple_models.fitted import NEAREST, SLOTS
from finetune_pipeline.evaluation.simple_models.slot_filler import SlotFiller, find_slots
from finetune_pipeline.spec.outputs import AnyOutput

SHARED_BY = 3
"""A word belongs to a template if at least this many training answers hold it whose texts lack it."""
FEWEST_WITH_SLOTS = 0.2
"""Below this share of answers with slots, the answers share no template."""


@register
class FilledSlots(SimpleModel):
    """The answer of the nearest training row, with the values that its own text held replaced by those of the new text."""

    name, title, kinds, rank = "slots", "The nearest training row's answer, its slots filled", ("text",), 35

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        check_rows(texts, answers)
        counts: Counter[str] = Counter()
        for text, answer in zip(texts, answers, strict=True):
            counts.update(set(_words(answer)) - set(_words(text)))
        template = [word for word, count in counts.items() if count >= SHARED_BY]
        slots = [find_slots(answer, text, template) for text, answer in zip(texts, answers, strict=True)]
        with_slots = sum(map(bool, slots))
        if with_slots < FEWEST_WITH_SLOTS * len(slots):
            share = f"{with_slots} of {len(slots)} training answers"
            raise NotForTheseRows(f"the answers share no template: only {share} hold words of their own text in one")
        rows = nearest(texts, [str(i) for i in range(len(texts))])
        self.pipelines = {NEAREST: rows, SLOTS: SlotFiller(list(answers), slots)}
        return self


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"\w+|[^\w\s]", text)]
