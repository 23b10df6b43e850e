"""Finds the encoding and size of a raw file in one pass, and whether it can be unpacked.

UTF-8 and UTF-16 are certain. Of the single-byte encodings only Windows' Western one (cp1252) is recognised, and only if the
decoded text looks like written words; detectors guess the others wrong too often. Files in other encodings are refused. The
message names the key to set, and shows some words as each likely encoding would decode them.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_pipeline.data.json_lines import is_cesu8
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
# one delimiter separates all columns: a sentence, a tab and a label are no such row
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
    _MESSENGER: ("the log of a messenger", "write a row for each message, with conversation_id, role (customer or agent) and "
                 "text, as CSV or JSON Lines"),
}  # fmt: skip
"""Text files that may look like tables but are none: pattern of their beginning, description, and fix."""
WESTERN = "cp1252"
_LETTERS = "àáâãäåæçèéêëìíîïñòóôõöøùúûüœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒßŸÿ"
"""Letters of Western languages, without ð, þ, ý, š and ž: the most common letters of other encodings decode to these."""
_SIGNS = "‘’“”‚„†•–—…‹›€™¡¿£¥§©®°ª«»±·´¼½¾×÷²³µº\xa0\xad"
_ODD = re.compile(
    rf"[^\x00-\x7f{_LETTERS}{_SIGNS}]"
    r"|(?<=[a-zà-ÿœ])[À-ÖØ-ÞŒŸ]"  # a capital after a small letter
    rf"|(?<=[A-Za-z{_LETTERS}])[‚„“”–—…€£¡¿§°ª«»·´²³º¼½¾×±](?=[a-z{_LETTERS}])"  # a sign inside a word
    rf"|[{_LETTERS}]{{3,}}"
    r"|(?<![^\W\d_])[^\x00-\x7fàáåéèêóòöÀÁÅÉÈÊÓÖ\W](?![^\W\d_])"  # a letter by itself that is no word
)
_IN_WORD = re.compile(rf"[A-Za-z][{_LETTERS}]|[{_LETTERS}][a-z]|[a-z]’[a-z]")
_QUOTED = re.compile(rb'"[^"]*"?')
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_ALPHABETS = tuple(
    frozenset(letters)
    for letters in (
        "àâæçèéêëîïôœùûüÿ",  # French
        "äöüßéàô",  # German
        "áéíóúüñàçèïò",  # Spanish, Catalan
        "áâãàçéêíóôõúü",  # Portuguese
        "àèéìíîòóù",  # Italian
        "åäöæøéüàóô",  # Scandinavian, Finnish
        "éëïóöüáíúèêç",  # Dutch, English
    )
)
_COMMON_ENCODINGS = """cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp850 cp866 cp932 cp949 big5 gb18030 euc_jp koi8_r
            mac_roman mac_cyrillic iso8859_2 iso8859_5 iso8859_7 iso8859_15""".split()
"""Common encodings, by charset-normalizer's names."""
_HOW_TO_DECLARE = "`--encoding …` of `finetune init`, `data: {csv: {encoding: …}}` in task.yaml"
_MAX_ODD = 0.02
_SAMPLE_LINES = 200
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
        wrong: Lines that are not UTF-8. The other attributes describe these, decoded as cp1252.
        foreign: Non-ASCII characters.
        odd: Characters that are implausible at their place.
        in_word: Letters inside words.
        hungarian: The number of õ less three times the number of ã.
        sample: The first lines.
    """

    filled: int = 0
    utf8: int = 0
    wrong: int = 0
    foreign: int = 0
    odd: int = 0
    in_word: int = 0
    hungarian: int = 0
    sample: list[bytes] = field(default_factory=list)

    def add(self, block: bytes) -> None:
        """Count the lines of a block; blank blocks are fast."""
        if not block or block.isspace():
            return
        lines = [line for line in block.split(b"\n") if line and not line.isspace()]
        self.filled += len(lines)
        foreign = [] if block.isascii() else [line for line in lines if not line.isascii()]
        if not foreign or _is_utf8(block):
            self.utf8 += len(foreign)
            return
        for line in foreign:
            if _is_utf8(line):
                self.utf8 += 1
            else:
                self._add_wrong(line)

    def _add_wrong(self, line: bytes) -> None:
        self.wrong += 1
        text = line.decode(WESTERN, "replace")
        self.foreign += len(_FOREIGN.findall(text))
        letters = {c for c in _FOREIGN.findall(text.lower()) if c in _LETTERS}
        self.odd += sum(len(run) for run in _ODD.findall(text)) + min(len(letters - a) for a in _ALPHABETS)
        self.in_word += len(_IN_WORD.findall(text))
        self.hungarian += text.count("õ") - 3 * text.count("ã")
        if len(self.sample) < _SAMPLE_LINES:
            self.sample.append(line[:1000])

    @property
    def is_western(self) -> bool:
        """Whether the lines that are not UTF-8 look like words in cp1252. Portuguese has both õ and ã; õ without ã is
        Hungarian's ő in cp1250."""
        return self.hungarian <= 0 and self.odd <= _MAX_ODD * self.foreign and (self.in_word > 0 or self.foreign >= 3)


def _is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8. A single line may hold CESU-8: then the row is faulty, not the file's encoding."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return b"\n" not in data and is_cesu8(data, error.start)
    return True


def other_container(head: bytes) -> str:
    """Describe a file that no reader reads, by its first bytes; empty for any other file."""
    if head[257:262] == b"ustar":
        return "a tar archive"
    return next((name for mark, name in _UNREADABLE_STARTS.items() if head.startswith(mark)), "")


def survey(path: Path, file: str, spec: TaskSpec) -> Survey:
    """Survey a whole file in constant memory. file: its name in findings."""
    limit = int(spec.data.max_unpacked_gib * (1 << 30))
    with RawStream(path, limit=limit) as stream:
        head = stream.buffered().read(1 << 16)
        if head.startswith(_BINARY) or other_container(head):
            return Survey(stream.compressed, path.stat().st_size)
    wide_encoding = _wide_encoding(head)
    unquoted = _QUOTED.sub(b"", head)
    has_returns = not wide_encoding and b"\r" in unquoted and b"\n" not in unquoted
    counts, size = _LineCounts(), 0
    with RawStream(path, wide_encoding or "utf-8", has_returns, limit) as stream:
        source = stream.buffered()
        while block := source.read(_BLOCK):
            block += source.readline(8 * _BLOCK)  # up to the end of a line, if there is one
            size += len(block)
            if not wide_encoding:  # the last line of a broken stream is incomplete
                counts.add(block[: block.rfind(b"\n") + 1] if stream.problem else block)
    problem = too_large(file, limit).findings[0] if stream.too_large else None
    surveyed = Survey(stream.compressed, size, counts.filled, wide_encoding or "utf-8", has_returns, problem=problem)
    return _with_encoding(surveyed, counts, file, spec.data.csv.encoding) if counts.wrong and not problem else surveyed


def _wide_encoding(head: bytes) -> str:
    """Return the encoding of a file whose characters take two or four bytes; empty for any other file."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    even_zeros, odd_zeros = head[::2].count(0), head[1::2].count(0)
    if even_zeros + odd_zeros <= 0.1 * len(head) or min(even_zeros, odd_zeros) > 0.05 * (even_zeros + odd_zeros):
        return ""
    encoding = "utf-16-le" if odd_zeros > even_zeros else "utf-16-be"
    try:
        head[: len(head) // 2 * 2 - 2].decode(encoding)
    except UnicodeDecodeError:
        return ""
    return encoding


def _with_encoding(surveyed: Survey, counts: _LineCounts, file: str, declared: str | None) -> Survey:
    """Add the encoding, or a finding about it, to the survey of a file with lines that are not UTF-8."""
    is_stray = counts.wrong <= max(1, _MOST_STRAY * counts.filled)
    share_text = f"{counts.wrong} of {counts.filled} lines are not UTF-8"
    if counts.utf8 > _MAX_ODD * counts.wrong:
        message = f"{share_text}, and {counts.utf8} others are: two encodings are mixed in one file"
        fix = "convert the parts to UTF-8 one by one, then join them"
        mixed = Finding("data.mixed_encodings", "error", file, message, fix)
        return surveyed if is_stray else replace(surveyed, notes=(mixed,))
    if declared is not None:
        return replace(surveyed, encoding=declared)
    if counts.is_western:
        words = [word for line in counts.sample for word in _words(line.decode(WESTERN, "replace"))]
        examples = ", ".join(quoted(word) for word in list(dict.fromkeys(words))[:5])
        message = f"{share_text}; the file was read as {WESTERN}, which produces words such as {examples}"
        fix = f"check these words: if they are wrong, declare the encoding: {_HOW_TO_DECLARE}"
        note = Finding("data.encoding_detected", "warning", file, message, fix)
        return replace(surveyed, encoding=WESTERN, notes=(note,))
    if is_stray:
        return surveyed
    guesses = _guesses(counts.sample)
    message = f"{share_text}, and the encoding is ambiguous" + "".join(f"; {e} gives {t}" for e, t in guesses)
    fix = f"save the file as UTF-8, or declare the encoding that gives the right words: {_HOW_TO_DECLARE}"
    return replace(surveyed, problem=Finding("data.unknown_encoding", "error", file, message, fix))


def _words(text: str) -> list[str]:
    """Return the words of a text with a character that is not ASCII."""
    return [word for word in re.findall(r"\S+", re.sub(r"[\",;|\t{}\[\]]", " ", text)) if not word.isascii()]


def _guesses(sample: list[bytes]) -> list[tuple[str, str]]:
    """Return (encoding, the first words decoded with it) of up to four likely encodings that give different texts."""
    from charset_normalizer import from_bytes

    guesses: dict[str, str] = {}
    for match in from_bytes(b"\n".join(sample), cp_isolation=_COMMON_ENCODINGS):
        text = quoted(" ".join(list(dict.fromkeys(_words(str(match))))[:3]), 40)
        guesses.setdefault(text, re.sub("(iso8859|mac)_", r"\1-", match.encoding))
    return [(encoding, text) for text, encoding in guesses.items()][:4]


def other_text(head: bytes) -> tuple[str, str] | None:
    """Return (description, fix) of a text file that holds no rows, by its first lines; None if it may hold rows."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    matches = (text for pattern, text in _OTHER_TEXT_STARTS.items() if re.match(pattern, start, re.IGNORECASE))
    return next(matches, None)
