"""Postal addresses by their shape: a street with its number, and what stands behind it (flat, postcode, town).

Looked for together with names, where the task asks for both: a street's shape is weaker than a check digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
# German, Dutch: the kind of street ends its name
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


def addresses(text: str) -> Iterator[tuple[int, int]]:
    """Places of street addresses (English, German, French, Spanish, Portuguese, Italian, Dutch, Polish, Japanese forms)."""
    for hit in _ADDRESS.finditer(text):
        end = hit.end()
        while text[end - 1] in " ,.":
            end -= 1
        yield hit.start(), end
