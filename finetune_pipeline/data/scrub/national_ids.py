"""Finds national ids by format and check digits (python-stdnum) if both are strict, otherwise after the name of the id.

After its name (`SSN`, `Steuer-ID`, `PESEL`) a number only needs the right length, so one with a typo does not stay in the text.
After names with other meanings (`SIN`, `NIF`, `ID number`) the check digits must be correct too.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module

from finetune_pipeline.data.scrub.numbers import NUMBER_WORD, before

# (python-stdnum's module, "" for none; format). These need no word before them.
_BARE = (
    ("", r"(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}"),  # US social security
    ("us.itin", r"9[0-9]{2}-[0-9]{2}-[0-9]{4}"),
    # UK NINO
    ("any", r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"),
    ("fr.nir", r"[1-478] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"),
    ("es.dni", r"[0-9]{8}-?[A-HJ-NP-TV-Z]"),
    ("es.nie", r"[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]"),
    ("it.codicefiscale", r"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]"),
    ("br.cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
    ("se.personnummer", r"(?:19|20)?[0-9]{6}[-+][0-9]{4}"),
    ("fi.hetu", r"[0-9]{6}[-+ABCDEFUVWXY][0-9]{3}[0-9A-FHJ-NPR-Y]"),
    ("be.nn", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}"),
    ("ch.ssn", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"),
    ("cn.ric", r"[1-9][0-9]{16}[0-9X]"),
    ("kr.rrn", r"[0-9]{6}-[0-9]{7}"),
    ("cl.rut", r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}-[0-9kK]"),
    ("cz.rc", r"[0-9]{6}/[0-9]{4}"),
    ("mx.curp", r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]"),
    ("in_.pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]"),
)
_ANY = r"[A-Z]{0,3}[0-9](?:[ ./-]?[0-9]){4,14}(?:[ -]?[A-Z])?"
# (words, format, python-stdnum's modules of which one must accept the number, or () for none)
_AFTER_WORD: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"ssn|itin|social\ssecurity|soc\.?\ssec", r"[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}", ()),
    (r"national\sinsurance|nino|(?-i:NI)(?=\W+(?:n[or]|number))", r"[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]?", ()),
    (r"nhs", r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{4}", ()),
    (r"steuer-?\s?id\w*|steuernummer|steuer-?nr|idnr", r"[0-9]{2,3}[ /]?[0-9]{3,4}[ /]?[0-9]{3,5}(?: ?[0-9]{3})?", ()),
    (r"sozialversicherungs\w*|svnr|rentenversicherungs\w*", r"[0-9]{2,4} ?[0-9]{6}(?: ?[A-Z] ?[0-9]{3})?", ()),
    (r"s[eé]curit[eé]\ssociale|(?-i:NIR)|s[eé]cu(?=\W)", r"[1-478](?: ?[0-9]){5} ?[0-9AB](?: ?[0-9]){6,8}", ()),
    (r"dni|nie|c[eé]dula", r"[XYZ]?[- ]?[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}(?:[- ]?[A-Z])?", ()),
    (r"(?-i:NIF)|contribuinte", r"[XYZ]?-?[0-9]{3} ?[0-9]{3} ?[0-9]{1,3}(?:-?[A-Z])?", ("pt.nif", "es.nif")),
    (r"codice\sfiscale", r"[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}[A-Z]", ()),
    (r"bsn|burgerservicenummer|sofi-?nummer", r"[0-9](?:[. ]?[0-9]){7,8}", ()),
    (r"pesel", r"[0-9]{11}", ()),
    (r"cpf", r"[0-9]{3}[. ]?[0-9]{3}[. ]?[0-9]{3}[- ]?[0-9]{2}", ()),
    (r"aadha+r|uidai|आधार", r"[0-9]{4}[- ]?[0-9]{4}[- ]?[0-9]{4}", ()),
    (r"(?-i:SIN)|social\sinsurance", r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{3}", ("luhn",)),
    (r"(?-i:TFN)|tax\sfile", r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", ()),
    (r"medicare", r"[0-9]{4} ?[0-9]{5} ?[0-9](?:/?[0-9])?", ()),
    (r"personnummer|cpr(?:-?\w{2,6})?", r"(?:[0-9]{2})?[0-9]{6}[-+ ]?[0-9]{4,5}", ()),
    (r"f[øo]dselsnummer", r"[0-9]{6} ?[0-9]{5}", ()),
    (r"henkil[öo]tunnus|hetu", r"[0-9]{6}[-+A-Y][0-9]{3}[0-9A-Y]", ()),
    (r"rijksregister\w*|num[eé]ro\snational|registre\snational", r"[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}[- ]?[0-9]{3}[. ]?[0-9]{2}", ()),
    (r"ahv\w*|(?-i:AVS)", r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", ()),
    (r"身份证号?码?", r"[0-9]{17}[0-9X]", ()),
    (r"주민등록번호", r"[0-9]{6}-?[0-9]{7}", ()),
    (r"マイナンバー|個人番号|my\snumber", r"[0-9]{4}[- ]?[0-9]{4}[- ]?[0-9]{4}", ("jp.in_",)),
    (r"(?-i:RUT|RUN)", r"[0-9]{1,2}\.?[0-9]{3}\.?[0-9]{3}-?[0-9kK]", ("cl.rut",)),
    (r"curp", r"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", ()),
    (r"rodn[eé]\s[čc][ií]slo", r"[0-9]{6}/?[0-9]{3,4}", ()),
    (r"nric|(?-i:FIN)\s(?:no|number)", r"[STFGM][0-9]{7}[A-Z]|[0-9]{6}-?[0-9]{2}-?[0-9]{4}", ()),
    (r"pps\w?", r"[0-9]{7}[A-W][A-IW]?", ()),
    (r"kimlik|tckn", r"[1-9][0-9]{10}", ()),
    (r"(?-i:CNP|EGN|OIB|AMKA)|ЕГН|ΑΜΚΑ|(?-i:ИНН|СНИЛС)", r"[0-9](?:[- ]?[0-9]){9,12}", ()),
    (r"permanent\saccount|(?-i:PAN)", r"[A-Z]{5}[0-9]{4}[A-Z]", ()),
    (r"(?:national|identity|south\safrican|tax(?:payer)?)\s(?:id|identi\w+|card|number)\b|(?-i:ID)(?=\W+(?:n[or]|number|card))"
     r"|ausweis\w*", _ANY, ("za.idnr", "de.idnr", "il.idnr", "us.ssn", "us.itin", "us.tin", "bg.egn", "ro.cnp", "tr.tckimlik")),
    (r"(?:reise)?pass(?:port|eport|aporto)?(?:-?n(?:r|o|ummer|umber))?|pasaporte|paspoort|paszport\w*|passaporto|パスポート|護照|护照",
     r"(?=(?:[A-Z]*[0-9]){5})[A-Z0-9]{7,9}|[0-9]{2} ?[0-9]{2} [0-9]{6}", ()),
    (r"driv(?:ing|er'?s?)\slicen[cs]e|f[üu]hrerschein\w*|permis\sde\sconduire", r"(?=(?:[A-Z]*[0-9]){4})[A-Z0-9-]{6,18}", ()),
)  # fmt: skip
_NAMES = "|".join(f"(?P<w{i}>{words})" for i, (words, _, _) in enumerate(_AFTER_WORD))
_WORDS = re.compile(rf"(?i)(?<![^\W_])(?:{_NAMES})(?![a-z])[^0-9\n]{{0,30}}$")
_LETTER = re.compile("[A-Z]")
_SHAPES = [re.compile(rf"(?<![A-Za-z0-9])(?:{shape})(?![A-Za-z0-9]|[-.][0-9])") for _, shape, _ in _AFTER_WORD]
_BARE_SHAPES = "|".join(f"(?P<b{i}>{shape})" for i, (_, shape) in enumerate(_BARE))
_BARE_SHAPE = re.compile(rf"(?<![A-Za-z0-9])(?<![0-9][-./ ])(?:{_BARE_SHAPES})(?![A-Za-z0-9]|[-./][0-9])")
_NEXT_BARE_SHAPE = re.compile(rf"[-./ ](?:{_BARE_SHAPES})(?![A-Za-z0-9]|[-./][0-9])")
"""A shape behind another id. Without it, one id of a list would be found at a time."""
LETTERED = re.compile(
    r"(?i)(?<![^\W_])(?:(?:reise)?pass(?:port|eport)?|pasaporte|passaporto|paspoort|paszport\w{0,12}|driv(?:ing|er'?s?)\slicen[cs]e"
    r"|f[üu]hrerschein\w{0,12}|permis\sde\sconduire|codice\sfiscale)(?:[\W_]{1,3}(?:numbers?|nummer|num[eé]ro|n[uú]mero|nr|no|is|ist|est|es|my|card|id))*[\W_]{1,3}"
    r"(?P<value>(?-i:(?=(?:[A-Z-]{0,18}[0-9]){4})[A-Z0-9-]{7,18}))(?![A-Za-z0-9])"
)
"""A passport or driving licence number with letters, after its name: the group `value`."""
DOCUMENTS = "passp,passep,reisepass,pasap,passap,paspo,paszp,licen,permis de,hrerschein,codice".split(",")
"""A lower-case text that names a passport or a driving licence holds one of these."""


def national_ids(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Find ids among the digits from start to end; their letters may begin up to eight characters before."""
    window = max(0, start - 8), min(len(text), end + 4)
    if end - start == 7 and not _LETTER.search(text[max(0, start - 2) : start] + text[end : end + 2]):
        return  # seven digits without letters identify nobody
    yield from bare_ids(text, *window, proven=False)
    if named := _WORDS.search(before(text, start)):
        number = int(str(named.lastgroup)[1:])
        place = _SHAPES[number].search(text, *window)
        standards = _AFTER_WORD[number][2]
        if place and place.end() > start and (not standards or any(_is(s, place[0]) for s in standards)):
            yield place.span()


def bare_ids(text: str, start: int, end: int, proven: bool = True) -> Iterator[tuple[int, int]]:
    """Find ids that need no word before them. proven: only those with check digits."""
    for first in _BARE_SHAPE.finditer(text, start, end):
        hit: re.Match[str] | None = first
        while hit:
            standard, value = _BARE[int(str(hit.lastgroup)[1:])][0], hit[str(hit.lastgroup)]
            if not (_is(standard, value) if standard else not proven) or _other(text, hit.start()):
                break
            yield hit.span(str(hit.lastgroup))
            hit = _NEXT_BARE_SHAPE.match(text, hit.end(), end)


def _other(text: str, start: int) -> bool:
    """Whether the preceding words name an order, a part number or the like."""
    words = before(text, start)
    return bool(NUMBER_WORD.search(words)) and not _WORDS.search(words)


@cache
def _check(standard: str) -> Callable[[str], bool]:
    if standard == "any":
        return bool
    valid: Callable[[str], bool] = import_module(f"stdnum.{standard}").is_valid
    return valid


def _is(standard: str, value: str) -> bool:
    return bool(_check(standard)(re.sub(r"[ -]", "", value) if standard in ("luhn", "in_.pan") else value))
