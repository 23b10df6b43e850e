"""Finds the encoding and size of a raw file in one pass, and whether it can be unpacked.

UTF-8, and UTF-16 and UTF-32 with a byte order mark, are certain. Of other encodings, charset-normalizer proposes those that
fit, and one is taken only if common words of a language that is written in it appear. Other files are refused. The message
names the key to set, and shows some words as each likely encoding would decode them.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.data.readers.records import GZIP, RawStream, too_large
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec import TaskSpec

_BLOCK = 1 << 20
_BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
PARQUET, ZIP, OLE = b"PAR1", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BINARY = (PARQUET, ZIP, OLE)
_UNREADABLE_STARTS = {
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"\xfd7zXZ\0": "packed by xz",
    b"BZh9": "packed by bzip2",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    GZIP: "packed by gzip twice",
    b"ARROW1": "an Arrow file; `to_parquet` of Hugging Face datasets saves it as Parquet, which is read",
    b"\xff\xff\xff\xff": "an Arrow stream; `to_parquet` of Hugging Face datasets saves it as Parquet, which is read",
    b"SQLite format 3": "an SQLite database",
    b"%PDF-": "a PDF",
    b"\x80\x04\x95": "a Python pickle",
    b"\x80\x05\x95": "a Python pickle",
}
_MAIL_HEADERS = rb"Return-Path|Delivered-To|Received|From|To|Subject|Date|MIME-Version|Message-ID|X-[\w-]+"
_E_MAIL = rb"(From \S+ .*\r?\n)?((" + _MAIL_HEADERS + rb"): .*\r?\n[ \t]?){2}"
_MESSENGER = rb"\[?\d{1,4}[./-]\d{1,2}[./-]\d{1,4},? \d{1,2}:\d\d(:\d\d)?( ?[AaPp]\.?[Mm]\.?)?(\]| -) "
TAGGED_WORDS = (
    "words with a tag each, for token classification, which is not trained here",
    'write a row for each sentence, with its text, and its entities as a JSON answer: {"text": "Ann sails to Oslo", '
    '"answer": {"PER": ["Ann"], "LOC": ["Oslo"]}}',
)
"""Description of files for token classification, and the fix."""
# one delimiter separates all columns: a sentence, a tab and a label are not such a row
_CONLL = rb"(-DOCSTART-.*\r?\n\s*)?(\w+(\t\w+)+[ \t]*\r?\n\s*)?(?:(?:(?:\S+ +)+|(?:\S+\t)+)(?:O|[BIESLU]-\S+)[ \t]*\r?\n\s*){3}"
_CONLL_U = rb"(#.*\r?\n\s*)*1\t(?:[^\t\n]*\t){8}[^\t\n]*\r?\n2\t"
_OTHER_TEXT_STARTS = {
    _CONLL: TAGGED_WORDS,
    _CONLL_U: TAGGED_WORDS,
    rb"__label__\S+ ":
        ("lines of fastText", r"put label and text into columns: sed -E 's/^__label__(\S+) +/\1\t/' FILE > rows.tsv"),
    rb"<(\?xml|!DOCTYPE|html|table)\b": ("XML or HTML", "write a row for each of its elements, as CSV or JSON Lines"),
    rb"(INSERT INTO|CREATE TABLE|-- .*dump)": ("an SQL dump", "export the table as CSV from the database"),
    rb"\|.*\|[ \t]*\r?\n[ \t]*\|[-:| \t]+\|[ \t]*\r?\n": ("a table in Markdown", "save it as CSV, without the line of dashes"),
    rb"(((#|---|[\w-]+: ).*|[ \t\r]*)\n)*[\w-]+:[ \t]*\r?\n[ \t]*- |- [\w-]+: .*\r?\n  [\w-]+:":
        ("YAML", "write a row for each of its entries, as CSV or JSON Lines"),
    _E_MAIL: ("e-mail", "write a row for each message, with its text and the answer to it, as CSV or JSON Lines"),
    _MESSENGER: ("the log of a messenger", 'write each conversation as a line {"messages": [{"role": "user", "content": "…"}, …]}'),
}  # fmt: skip
"""Text files that may look like tables but are not: pattern of their beginning, description, and fix."""
_WORDS = {
    "cp1252 iso8859_15 mac_roman cp850": """
        à ça été être où très même déjà après voilà problème numéro français für über können möchte müssen wäre
        würde schön schöne grüße größe natürlich während später prüfen könnte heißt está están qué más también días aquí
        contraseña niño año mañana número dónde opción código información sesión não são você também já até
        informações perché più può già così città för är på också også være når får så må før gør følgende vælg
        även hän myös että tämä käyttäjä käytetään näytä lisää jälkeen més però només aquesta það ég að við või één
        geïnstalleerd coördinaten categorieën it’s don’t can’t i’m that’s i’ve doesn’t didn’t won’t isn’t you’re
        we’re couldn’t there’s""",
    "cp1250 iso8859_2": """
        się są być również także mogę mogą który która które już że dziękuję proszę książka działa hasło że není děkuji prosím
        může který která když při také už můžete objednávka účet nelze uživatel uživatele název číslo více těchto môže ktorý
        ktoré súbor používateľ počas ďalšie ďakujem možné még köszönöm kérem hogyan később szeretném időpont található
        több hiba létre fájl új után şi în să că până što već želim može također če več želite račun napačno""",
    "cp1251 koi8_r cp866 iso8859_5 mac_cyrillic": """
        не на что это как мне мой моя где для или если пожалуйста заказ могу нет они меня був що від для мене дякую це да се
        за моля няма как""",
    "cp1253 iso8859_7": "και το την για δεν με να μου που είναι στο από θα ένα πώς",
    "cp1254": "için çok değil lütfen teşekkürler nasıl sipariş şifre müşteri siparişim şifrem ödeme ürün olduğu",
    "cp1257": "už nėra jūsų būti galite ačiū prašau lūdzu paldies jūsu šis pēc būt tiek nevarēja",
    "cp1255": "של את לא על זה אני עם מה כל",
    "cp1256": "في من على إلى أن هذا هذه لا ما مع كيف",
    "cp932 euc_jp": "です ます した して ない から ください という",
    "cp949": "니다 습니 하는 에서 으로 합니 있는",
    "gb18030": "我们 什么 没有 怎么 可以 请问 不能 如何 一个 这个 谢谢 我的 您的",
    "big5": "我們 什麼 沒有 怎麼 可以 請問 不能 如何 一個 這個 謝謝 我的 您的",
}
"""Encodings, by charset-normalizer's names, and common words with letters that tell them apart."""
_ENCODINGS = {encoding: words.split() for encodings, words in _WORDS.items() for encoding in encodings.split()}
_UNSPACED = ("cp932", "euc_jp", "cp949", "gb18030", "big5")
"""Encodings of languages that write words without blanks between them."""
_ODD = re.compile(r"[\x80-\x9f\ufffd¤]|(?<=[^\W\d_])[¦¬¯±¶¸¹¼½¾†‡‰¡£¥¢¨ƒ]|[¦¬¯±¶¸¹¼½¾†‡‰¨ƒ](?=[^\W\d_])")
"""Characters that hardly occur in written text: controls, and signs at a letter."""
_LEAST_WORDS, _LEAST_SHARE = 2, 0.05
"""Common words that confirm an encoding: how many different ones, and their share of the words that are not ASCII."""
_MAX_DIFFERING = 0.02
"""Largest share of the words that may differ between two encodings that the common words fit equally."""
_MAX_UTF8 = 0.02
_MANY_ZEROS = 0.1
_QUOTED = re.compile(rb'"[^"]*"?')
_HOW_TO_DECLARE = "`--encoding …` of `finetune init`, `data: {csv: {encoding: …}}` in task.yaml"
_SAMPLE_BYTES = 1 << 16
_MOST_STRAY = 0.01
"""If at most this share of the lines is not UTF-8, single rows are broken, not the file's encoding."""


@dataclass(frozen=True)
class Survey:
    """The result of a pass over a file.

    Attributes:
        size: Unpacked, in bytes.
        lines: Number of lines that are not blank.
        encoding: To read the file in.
        returns: Whether lines end with a carriage return only.
        notes: Findings to report with the rows.
        problem: Why the file cannot be read.
    """

    compressed: bool
    size: int = 0
    lines: int = 0
    encoding: str = "utf-8"
    returns: bool = False
    notes: tuple[Finding, ...] = ()
    problem: Finding | None = None


@dataclass
class _LineCounts:
    """Counts that decide the encoding of a file.

    Attributes:
        filled: Lines that are not blank.
        utf8: Lines with non-ASCII characters in UTF-8.
        wrong: Lines that are not UTF-8.
        sample: The first of these.
    """

    filled: int = 0
    utf8: int = 0
    wrong: int = 0
    sample: bytes = b""

    def add(self, block: bytes) -> None:
        """Count the lines of a block; blank blocks are fast."""
        if not block or block.isspace():
            return
        lines = [line for line in block.split(b"\n") if line and not line.isspace()]
        self.filled += len(lines)
        foreign = [] if block.isascii() else [line for line in lines if not line.isascii()]
        if foreign and not _is_utf8(block):
            wrong = [line for line in foreign if not _is_utf8(line)]
            self.wrong += len(wrong)
            self.sample = (
                b"\n".join([self.sample, *wrong])[:_SAMPLE_BYTES] if len(self.sample) < _SAMPLE_BYTES else self.sample
            )
            self.utf8 -= len(wrong)
        self.utf8 += len(foreign)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def other_container(head: bytes) -> str:
    """Describe a file that no reader reads, by its first bytes; empty for any other file."""
    if head[257:262] == b"ustar":
        return "a tar archive"
    return next((name for mark, name in _UNREADABLE_STARTS.items() if head.startswith(mark)), "")


def survey(path: Path, file: str, spec: TaskSpec, opened: io.RawIOBase | None = None) -> Survey:
    """Survey a whole file in constant memory. file: its name in findings. opened: the file; it may be left unread."""
    limit = int(spec.data.max_unpacked_gib * (1 << 30))
    with RawStream(path, limit=limit) as stream:
        head = stream.buffered().read(1 << 16)
        if head.startswith(_BINARY) or other_container(head):
            return Survey(stream.compressed, path.stat().st_size)
    wide_encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "")
    if not wide_encoding and head.count(b"\0") > _MANY_ZEROS * len(head):
        wide_encoding = spec.data.csv.encoding or ""
        if not wide_encoding:
            message = "it holds zero bytes, as text in UTF-16 without a byte order mark does"
            fix = f"save the file as UTF-8, or declare utf-16-le or utf-16-be: {_HOW_TO_DECLARE}"
            zeros = Finding("data.unknown_encoding", "error", file, message, fix)
            return Survey(stream.compressed, path.stat().st_size, problem=zeros)
    unquoted = _QUOTED.sub(b"", head)
    has_returns = not wide_encoding and b"\r" in unquoted and b"\n" not in unquoted
    counts, size = _LineCounts(), 0
    with RawStream(path, wide_encoding or "utf-8", has_returns, limit, opened) as stream:
        source = stream.buffered()
        while block := source.read(_BLOCK):
            block += source.readline(8 * _BLOCK)  # up to the end of a line, if there is one
            size += len(block)
            if not wide_encoding:  # the last line of a broken stream is incomplete
                counts.add(block[: block.rfind(b"\n") + 1] if stream.problem else block)
    problem = too_large(file, limit).findings[0] if stream.too_large else None
    surveyed = Survey(stream.compressed, size, counts.filled, wide_encoding or "utf-8", has_returns, problem=problem)
    return _with_encoding(surveyed, counts, file, spec.data.csv.encoding) if counts.wrong and not problem else surveyed


def _with_encoding(surveyed: Survey, counts: _LineCounts, file: str, declared: str | None) -> Survey:
    """Add the encoding, or a finding about it, to the survey of a file with lines that are not UTF-8."""
    is_stray = counts.wrong <= max(1, _MOST_STRAY * counts.filled)
    share_text = f"{counts.wrong} of {counts.filled} lines are not UTF-8"
    if counts.utf8 > _MAX_UTF8 * counts.wrong:
        message = f"{share_text}, and {counts.utf8} others are: two encodings are mixed in one file"
        fix = "convert the parts to UTF-8 one by one, then join them"
        mixed = Finding("data.mixed_encodings", "error", file, message, fix)
        return surveyed if is_stray else replace(surveyed, notes=(mixed,))
    if declared is not None:
        return replace(surveyed, encoding=declared)
    texts = _decodings(counts.sample)
    if encoding := _confirmed(texts):
        examples = ", ".join(quoted(word) for word in list(dict.fromkeys(_words(texts[encoding])))[:5])
        message = f"{share_text}; the file was read as {encoding}, which produces words such as {examples}"
        fix = f"check these words: if they are wrong, declare the encoding: {_HOW_TO_DECLARE}"
        note = Finding("data.encoding_detected", "warning", file, message, fix)
        return replace(surveyed, encoding=encoding, notes=(note,))
    if is_stray:
        return surveyed
    shown: dict[str, str] = {}
    for name, text in texts.items():
        shown.setdefault(quoted(" ".join(list(dict.fromkeys(_words(text)))[:3]), 40), name)
    guesses = [f"; {name} gives {words}" for words, name in shown.items()][:4]
    message = f"{share_text}, and the encoding is ambiguous{''.join(guesses)}"
    fix = f"save the file as UTF-8, or declare the encoding that gives the right words: {_HOW_TO_DECLARE}"
    return replace(surveyed, problem=Finding("data.unknown_encoding", "error", file, message, fix))


def _words(text: str) -> list[str]:
    """Return the words of a text with a character that is not ASCII."""
    return [word for word in re.findall(r"\S+", re.sub(r"[\",;|\t{}\[\]]", " ", text)) if not word.isascii()]


def _decodings(sample: bytes) -> dict[str, str]:
    """Return the sample as each encoding that fits decodes it, the likeliest first."""
    from charset_normalizer import from_bytes

    encodings = (
        name for match in from_bytes(sample, cp_isolation=[*_ENCODINGS]) for name in match.could_be_from_charset
    )
    return {name: sample.decode(name, "replace") for name in encodings if name in _ENCODINGS}


def _confirmed(texts: Mapping[str, str]) -> str | None:
    """Return the encoding whose text holds the common words of its languages; None if none surely does."""
    common = {name: _common_words(text, name) for name, text in texts.items()}
    odd = {name: len(_ODD.findall(text)) for name, text in texts.items()}
    scores = {name: len(common[name]) - odd[name] for name in texts}
    best = max(sorted(texts, key=[*_ENCODINGS].index), key=lambda name: scores[name], default="")
    if not best:
        return None
    foreign = _words(texts[best])
    is_sure = len({*common[best]}) >= min(_LEAST_WORDS, len({*foreign})) and scores[best] >= _LEAST_SHARE * len(foreign)
    for rival in (name for name in texts if texts[name] != texts[best]):
        if _ENCODINGS[rival] != _ENCODINGS[best]:
            is_sure &= 2 * len(common[rival]) < scores[best]
        elif scores[rival] == scores[best]:
            differing = sum(a != b for a, b in zip(_words(texts[rival]), foreign, strict=False))
            is_sure &= differing <= _MAX_DIFFERING * len(foreign)
    return best if is_sure else None


def _common_words(text: str, encoding: str) -> list[str]:
    """Return the common words of an encoding's languages in a text, each as often as it occurs."""
    words = _ENCODINGS[encoding]
    if encoding in _UNSPACED:
        return [word for word in words for _ in range(text.count(word))]
    return [word for word in re.findall(r"[^\W\d_]+(?:’[^\W\d_]+)?", text.lower()) if word in words]


def other_text(head: bytes) -> tuple[str, str] | None:
    """Return (description, fix) of a text file that holds no rows, by its first lines; None if it may hold rows."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    matches = (text for pattern, text in _OTHER_TEXT_STARTS.items() if re.match(pattern, start, re.IGNORECASE))
    return next(matches, None)
