"""Finds template slots that nobody filled, such as ``Dear {{name}}``, and leaves code with double braces alone.

A slot is forgotten if it is a plain name, its line is otherwise natural language, and nothing in the row is code or speaks of
templates.
"""

import re
from collections.abc import Iterable

from finetune_pipeline.data.dedup.text_similarity import WITHOUT_BLANKS

_BRACES = re.compile(r"\{\{[^{}\n]{0,80}\}\}")
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0dff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Signs within words that Python counts to no word: accents and vowels, as in Hindi, Thai or vocalised Arabic."""
_SLOT = re.compile(rf"\{{\{{[ ]?[^\W\d_][\w{_MARKS}-]*(?:[ .][\w{_MARKS}-]+){{0,3}}[ ]?\}}\}}")
_IN_CODE_BEFORE = re.compile(r"""[`\\/@<>{}|=_~.]\Z|(?:=|:\s?)["']\Z""")
_IN_CODE_AFTER = re.compile(r"""[`\\/<>{}|=(\[_~]|[.:@]\w|"\s?[:,}\]]""")
# Signs of code anywhere in a text: other template tags, markup, fences, comparisons, calls, options, keys of YAML, LaTeX
_CODE = re.compile(
    r"""(?mx)
    \{[%#] | [%#]\} | ``` | `[^`\n]*\{\{ | </?[A-Za-z][^<>\n]*> | => | := | [=!<>]= | \w\((?!\w{1,3}\))\S | "\w+":\s
  | \s--?\w[\w-]*[=\s]
  | \$\{\{[ ]?[\w-]+\. | \\[A-Za-z]+\{ | [;{][ \t]*$ | ^[ \t]*[}\])] | ^[ \t]+-\s | ^[ \t]*(?:-\s)?[\w.-]+:[ \t]*$
  | ^[a-z][\w.-]*:\s.*\n[ \t]*[\w.-]+:(?:\s|$)     # two keys, one below the other
  | ^[ \t]*(?:def\s+\w+\s*\(|class\s+\w+\s*[:({]|import\s+\S+(?:\s+from\b|;|$)|function\s*\w*\s*\(|(?:const|let|var)\s+\w+\s*="""
    r"""|export\s+\w+=|curl\s|sudo\s|echo\s+["']|(?:GET|POST|PUT|DELETE)\s+[/{h]|SELECT\s.*\sFROM\b|run:\s)
"""
)
_TEMPLATES = re.compile(
    r"(?i)templat|jinja|django|handlebars|mustache|twig|nunjucks|\bvue\b|angular|svelte|\bhelm\b|ansible|cookiecutter|placeholder"
    r"|variable|interpolat|\bbrace|curly|merge (?:tag|field)|mail merge|\bliquid (?:tag|loop|filter|object)|github action"
    r"|vorlage|platzhalter|plantilla|modèle|gabarit|szablon|шаблон|переменн|模板|占位符|变量|テンプレート|変数"
)
_CODE_WORDS = re.compile(
    r"(?i)ya?ml|html|\bjsx\b|\bwiki|latex|postman|\bmacros?\b|snippet|syntax|\brender|javascript|python|workflow|\bdbt\b"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NOT_IN_WORDS = set("/\\=_")


def forgotten_slot(text: str, row_texts: Iterable[str], system_prompt: str) -> str | None:
    """Return the first slot of a text that somebody forgot to fill; None without one. The texts of the row and the system prompt
    say whether the row is about templates."""
    prose = (line for line in text.split("\n") if "{{" in line and _is_prose(line))
    slot = next((hit[0] for line in prose for hit in _SLOT.finditer(line) if _replaces_a_word(line, hit)), None)
    if slot is None or _TEMPLATES.search(system_prompt):
        return None
    if any(pattern.search(other) for other in row_texts for pattern in (_CODE, _TEMPLATES, _CODE_WORDS)):
        return None
    is_expression = any(not _SLOT.fullmatch(braces) for braces in _BRACES.findall(text))
    return None if is_expression else slot


def _is_prose(line: str) -> bool:
    """Whether a line has at least two words beside its double braces."""
    rest = " ".join(part for part in _BRACES.sub(" ", line).split() if not set(part) & _NOT_IN_WORDS)
    words = [word for word in _WORD.findall(rest) if len(word) > 1 or word in "aAIàyeo"]
    return len(words) >= 2 or len(WITHOUT_BLANKS.findall(rest)) >= 4


def _replaces_a_word(line: str, slot: re.Match[str]) -> bool:
    """Whether the slot stands between blanks or punctuation, as a word does."""
    before, after = line[max(0, slot.start() - 3) : slot.start()], line[slot.end() : slot.end() + 3]
    if before[-1:].isalnum():
        return WITHOUT_BLANKS.match(before[-1]) is not None
    return not _IN_CODE_BEFORE.search(before) and not _IN_CODE_AFTER.match(after)
