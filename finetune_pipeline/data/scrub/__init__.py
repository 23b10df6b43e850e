"""Personal data and secrets: found by shape, check digits and context, replaced by typed placeholders."""

from finetune_pipeline.data.scrub.find import Finder, find_spans, finder_of
from finetune_pipeline.data.scrub.kinds import KINDS, Span, fingerprint, load_key
from finetune_pipeline.data.scrub.placeholders import (
    Scrubbed,
    Scrubber,
    scrub_example,
    scrub_text,
    scrub_turns,
    spans_left,
)

__all__ = [
    "KINDS",
    "Finder",
    "Scrubbed",
    "Scrubber",
    "Span",
    "find_spans",
    "finder_of",
    "fingerprint",
    "load_key",
    "scrub_example",
    "scrub_text",
    "scrub_turns",
    "spans_left",
]
