"""Finds names of people (with an installed spaCy model) and postal addresses (by their shape)."""

import re
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

from finetune_pipeline.data.scrub.find import Finder, find_spans
from finetune_pipeline.data.scrub.kinds import Span
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.data import DataSpec

# Postal addresses by their shape: a street with its number, and what follows it (flat, postcode, town).
_CAP = r"[A-ZÀ-ÖØ-ÞŁŚŻŹĆ][\w'’.-]{0,30}"
_WORD = r"(?:[A-Z]\w{0,2}\.|[A-ZÀ-ÖØ-Þ][\w'’-]{0,30}|[0-9]{1,3}(?:st|nd|rd|th))"
_EN_NUMBER = r"[0-9]{1,5}[a-zA-Z]?(?:[/-][0-9]{1,4}[a-z]?)?"
_NUMBER = r"[0-9]{1,5}(?:\s?[a-zA-Z](?![\w'’]))?(?:[/-][0-9]{1,4}[a-z]?)?"
_EN = (
    r"(?:Street|St\.?|Road|Rd\.?|Avenue|Ave\.?|Lane|Ln\.?|Drive|Dr\.?|Court|Ct\.?|Boulevard|Blvd\.?|Way|Place|Pl\.?|Terrace|Ter\.?|Square|Sq\.?"
    r"|Close|Crescent|Parkway|Pkwy\.?|Highway|Hwy\.?|Circle|Cir\.?|Gardens|Grove|Row|Mews|Quay|Hill|Trail)(?![\w])"
)
_FLAT = r"(?:,?\s(?:Apt\.?|Apartment|Suite|Ste\.?|Flat|Unit|Floor|#)\s?#?[\w-]{1,6})?"
_UK = r"[A-Z]{1,2}[0-9][0-9A-Z]?\s[0-9][A-Z]{2}"
_PLACE = r"[A-ZÀ-ÖØ-ÞŁŚŻŹĆ][a-zß-öø-ÿąćęłńóśźż'’.]{1,30}"
_TOWN = rf"{_PLACE}(?:[\s-](?:{_PLACE}|am|an|der|de|la|sur|upon|on)){{0,3}}"
_TAIL_EN = (
    rf"{_FLAT}(?:,\s(?:{_TOWN})(?:,?\s(?:[A-Z]{{2}}\s[0-9]{{5}}(?:-[0-9]{{4}})?|{_UK}|[A-Z]{{2}}\b))?)?(?:,?\s{_UK})?"
)
_TAIL = rf"(?:,\s?(?:[A-Z]{{1,2}}-)?(?:[0-9]{{4,5}}(?:-[0-9]{{3}})?(?:\s[A-Z]{{2}}(?=\s))?|[0-9]{{2}}-[0-9]{{3}})\s{_TOWN})?"
_ENGLISH = (
    rf"(?!(?:19|20)[0-9]{{2}} \w+ Court){_EN_NUMBER} (?:(?:North|South|East|West|[NSEW]\.?) )?(?:{_WORD} ){{1,4}}{_EN}{_TAIL_EN}"
    rf"|P\.?\s?O\.?\sBox\s[0-9]{{1,6}}{_TAIL_EN}"
)
# German, Dutch: the street type is the end of the name
_GERMANIC = (
    r"(?:(?:[A-ZÄÖÜ]\w{0,30}\.?[\s-]){0,3}[A-ZÄÖÜ]\w{0,30}"
    r"(?:stra(?:ß|ss)e|str\.|weg|platz|allee|gasse|damm|ufer|straat|laan|plein|gracht|kade|dreef|singel)"
    rf"|(?:Am|An\sder|Im|In\sder|Auf\sdem|Zum|Zur)\s{_CAP}(?:\s{_CAP})?)\s{_NUMBER}{_TAIL}"
)
_FRENCH = (
    r"[0-9]{1,4}(?:\s?(?:bis|ter))?,?\s(?:rue|avenue|av\.|boulevard|bd|chemin|impasse|quai|allée"
    r"|(?:place|cours|route)(?=\s(?:d\w{1,2}\s|de\sla\s)?[A-ZÀ-Þ]))"
    rf"\s[^\W\d][\w'’-]{{0,30}}(?:\s[^\W\d][\w'’-]{{0,30}}){{0,5}}?(?=,|$|[.;\n]|\s[0-9]{{5}}){_TAIL}"
)
_ROMANCE = (
    r"(?:Calle|C/|Avenida|Avda\.?|Plaza|Paseo|Rua|Av\.|Travessa|Praça|Alameda|Via|Viale|Piazza|Corso|Largo)"
    rf"\s(?:(?:{_CAP}|de|del|da|das|do|dos|la|las|los|di|della|e|y)\s){{0,5}}{_CAP},?\s{_NUMBER}{_TAIL}"
)
_POLISH = rf"(?:ul\.|al\.|pl\.|os\.)\s(?:{_CAP}\s){{1,4}}{_NUMBER}(?:\s?/\s?[0-9]{{1,4}})?{_TAIL}"
_JAPANESE = r"(?:〒\s?)?(?<![0-9-])[0-9]{3}-[0-9]{4}\s?[一-龠]{2,3}[都道府県][一-龠ァ-ヶー0-9０-９\-－]+"
_ADDRESS = re.compile(rf"(?<![\w])(?:{_ENGLISH}|{_GERMANIC}|{_FRENCH}|{_ROMANCE}|{_POLISH})|{_JAPANESE}")
_PEOPLE = ("PERSON", "PER")
"""Entity labels for a person, in OntoNotes and WikiNER."""
_TITLE = re.compile(
    r"(?i)\A(?:(?:mr|mrs|ms|miss|dr|prof|sir|herr|frau|monsieur|madame|m|mme|señora?|sra?|dona?)\.?\s+)+"
)
_LETTER = re.compile(r"[^\W\d_]")
_UNLIKE = re.compile(r"[\d@_=<>\[\]{}|\\/]")
_INSTALL = "pip install 'spacy>=3.8,<4' && python -m spacy download en_core_web_sm, or set data.scrub_names: false"


def finder_of(data: DataSpec, names: bool = True) -> Finder:
    """Return the finder for a task; it finds names if both the task and `names` ask for them. Raises FindingsError if it needs
    a model and none is installed."""
    recogniser = load_recogniser() if names and data.scrub_names else None
    return partial(find_spans, recogniser=recogniser, regions=data.scrub_region)


@cache
def load_recogniser() -> Finder:
    """Return a function that finds names (with every installed spaCy pipeline that recognises people) and street addresses (by
    shape) in a text; loaded once per process. Raises FindingsError if spaCy or such a model is missing, because names must
    never stay in the text silently."""
    try:
        import spacy
    except ImportError:
        raise _missing("spaCy is not installed") from None
    pipelines = []
    for model in sorted(spacy.util.get_installed_models()):
        try:
            pipeline = spacy.load(model, exclude=["lemmatizer", "attribute_ruler", "tagger", "parser", "senter"])
        except (OSError, ImportError, ValueError) as error:
            raise _missing(f"the model {model} cannot be loaded: {error}") from error
        if "ner" in pipeline.pipe_names:
            pipeline.max_length = 1 << 40  # the limit is for parsers; a cut text would keep its names
            pipelines.append(pipeline)
    if not pipelines:
        raise _missing("no installed model recognises people")

    def recognise(text: str) -> list[Span]:
        people = [span for pipeline in pipelines for span in _people(pipeline, text)]
        return [*(Span(start, end, "address") for start, end in addresses(text)), *people]

    return recognise


def _people(pipeline: Any, text: str) -> list[Span]:
    spans = []
    for entity in (entity for entity in pipeline(text).ents if entity.label_ in _PEOPLE):
        start = entity.start_char
        end = start + len(text[start : entity.end_char].partition("\n")[0].rstrip(" ,.;:-"))
        title = _TITLE.match(text[start:end])
        start += title.end() if title else 0
        end -= 2 * text[start:end].endswith(("'s", "’s"))
        value = text[start:end]
        if len(value) > 1 and _LETTER.search(value) and not _UNLIKE.search(value) and not value.islower():
            spans.append(Span(start, end, "name"))
    return spans


def _missing(problem: str) -> FindingsError:
    message, place = f"{problem}, but data.scrub_names asks for names", "task.yaml: data.scrub_names"
    return FindingsError([Finding("data.no_recogniser", "error", place, message, _INSTALL)])


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """Find street addresses (English, German, French, Spanish, Portuguese, Italian, Dutch, Polish, Japanese forms)."""
    return ((hit.start(), hit.start() + len(hit[0].rstrip(" ,."))) for hit in _ADDRESS.finditer(text))
