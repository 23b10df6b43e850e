"""Personal data and secrets: found by shape, check digits and context, replaced by typed placeholders."""

from finetune_pipeline.data.scrub.find import Recogniser, find_spans
from finetune_pipeline.data.scrub.kinds import KINDS, MODEL_KINDS, SHAPE_KINDS, Span, canonical, fingerprint, load_key
from finetune_pipeline.data.scrub.names import load_recogniser
from finetune_pipeline.data.scrub.numbers import iban_ok, luhn_ok
from finetune_pipeline.data.scrub.placeholders import (
    Scrubbed,
    Scrubber,
    scrub_example,
    scrub_messages,
    scrub_text,
    scrub_turns,
    spans_left,
)
from finetune_pipeline.data.scrub.secrets import entropy

__all__ = [
    "KINDS",
    "MODEL_KINDS",
    "SHAPE_KINDS",
    "Recogniser",
    "Scrubbed",
    "Scrubber",
    "Span",
    "canonical",
    "entropy",
    "find_spans",
    "fingerprint",
    "iban_ok",
    "load_key",
    "load_recogniser",
    "luhn_ok",
    "scrub_example",
    "scrub_messages",
    "scrub_text",
    "scrub_turns",
    "spans_left",
]
