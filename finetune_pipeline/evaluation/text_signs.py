"""Signs of a text gone wrong that need no reference: refusal, going in circles, another language, another length."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

REPEATED = 0.3
"""From this share of repeated word 4-grams on, a text goes in circles: edited prose stays under 0.05."""
_GRAM = 4
_REFUSAL = re.compile(
    r"\b(?:i(?:['’]m| am) (?:sorry|afraid|unable|not able)\b[^.!?\n]{0,60}\b(?:can(?:['’]?t|not)|unable|not able|help|assist|"
    r"provide|do that)|i (?:can(?:['’]t|not)|won['’]t|am unable to|am not able to) (?:help|assist|provide|answer|do|comply|"
    r"fulfil|process|access|create|write|discuss)|as an? (?:ai|artificial intelligence|(?:large )?language model)\b|"
    r"i (?:don['’]t|do not) have (?:the ability|access|enough information))",
    re.I,
)
_WORD = re.compile(r"\w+")
_FUNCTION_WORDS = {
    "en": "the and is are was with for that this have not you your will from has it of to in on be we",
    "de": "der die das und ist nicht mit für ein eine auf den von zu dem ich sie wir wird haben bitte auch im",
    "fr": "le la les et est pas avec pour une dans des que vous nous sur du au je qui sont votre être ce",
    "es": "el los las y es no con para una que por del su se al lo como más pero sus está este tiene",
    "it": "il lo gli e è non con per una che di del della sono nel alla più questo si anche ha come",
    "pt": "o os as e é não com para uma que por do da em no na seu mais como foi você está ao",
    "nl": "de het een en is niet met voor van op te dat die zijn naar wij ook aan bij er u worden",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}


def is_refusal(text: str) -> bool:
    """Whether a text declines to answer in one of the usual English phrases, in its first 300 characters."""
    return _REFUSAL.search(text[:300]) is not None


def repetition(text: str) -> float:
    """Share of the word 4-grams of a text that occurred before in it; 0 for fewer than eight words."""
    words = _WORD.findall(text.casefold())
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if len(words) >= 2 * _GRAM else 0.0


def length_ratio(prediction: str, reference: str) -> float:
    """Characters of a prediction over those of its reference, blanks around them stripped."""
    return len(prediction.strip()) / max(1, len(reference.strip()))


def script(text: str) -> str | None:
    """The writing most letters belong to (LATIN, CYRILLIC, CJK …); None without letters."""
    found = Counter(unicodedata.name(c, "?").split()[0] for c in text[:1000] if c.isalpha())
    return found.most_common(1)[0][0] if found else None


def language(text: str) -> str | None:
    """The language of a Latin text by its function words; None when too few are there to tell, or two are close."""
    words = Counter(_WORD.findall(text.casefold()))
    hits = sorted(((sum(words[w] for w in known), name) for name, known in _LANGUAGES.items()), reverse=True)
    enough = hits[0][0] >= 3 and hits[0][0] >= 0.12 * sum(words.values())
    return hits[0][1] if enough and hits[0][0] >= 1.5 * hits[1][0] else None


def other_language(prediction: str, reference: str) -> bool:
    """Whether a prediction is surely written in another script or language than its reference."""
    a, b = script(prediction), script(reference)
    if a and b and a != b and sum(c.isalpha() for c in prediction) >= 8:
        return True
    said, wanted = language(prediction), language(reference)
    return said is not None and wanted is not None and said != wanted
