"""Personal data and secrets: found by shape, check digits and context, replaced by typed placeholders."""

from finetune_pipeline.data.scrub.find import Finder, find_spans
from finetune_pipeline.data.scrub.kinds import KINDS, SHAPE_KINDS, Span, fingerprint, load_key
from finetune_pipeline.data.scrub.names import finder_of, load_recogniser
from finetune_pipeline.data.scrub.placeholders import Scrubber, kinds_left, scrub_example, scrub_text, scrub_turns

__all__ = [
    "KINDS", "SHAPE_KINDS", "Finder", "Scrubber", "Span", "find_spans", "finder_of", "fingerprint", "kinds_left", "load_key",
    "load_recogniser", "scrub_example", "scrub_text", "scrub_turns",
]  # fmt: skip
