"""Formats numbers for people, the same in terminal, Markdown and HTML."""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

NOTHING = "n/a"


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number (booleans are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_interval(value: Any) -> TypeGuard[Sequence[float]]:
    """Two finite numbers in order."""
    return isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


def percent(share: Any) -> str:
    """0.8125 reads 81.3%; anything but a number reads n/a. Only a share of exactly 1 reads 100%."""
    if not is_number(share):
        return NOTHING
    text = f"{100 * share:.1f}%"
    return text if text != "100.0%" else "99.9%" if share < 1 else "100%"


def level(share: float) -> str:
    """A declared level, with all its digits: 0.95 reads 95%, 0.975 reads 97.5%."""
    return f"{100 * share:.4g}%"


def percent_range(interval: Any) -> str:
    """[0.76, 0.861] reads `76.0% to 86.1%`."""
    return f"{percent(interval[0])} to {percent(interval[1])}" if is_interval(interval) else NOTHING


def points(gain: Any, *, sign: bool = True) -> str:
    """A difference of shares in percentage points: 0.123 reads +12.3."""
    if not is_number(gain):
        return NOTHING
    text = f"{100 * gain:+.1f}" if sign else f"{100 * gain:.1f}"
    return text[1:] if text in ("+0.0", "-0.0") else text


def points_range(interval: Any) -> str:
    """[0.08, 0.167] reads `+8.0 to +16.7`."""
    return f"{points(interval[0])} to {points(interval[1])}" if is_interval(interval) else NOTHING


def p_value(p: Any) -> str:
    """Exact enough to judge by: 0.034, 0.0004, or `<0.0001`."""
    if not is_number(p):
        return NOTHING
    if p < 0.0001:
        return "<0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def number(value: Any, digits: int = 3) -> str:
    """1234567 reads 1,234,567; other numbers with `digits` decimals; text as it is; nothing as n/a."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def counted(n: int, noun: str) -> str:
    """1 row, 2 rows, 1,200 rows."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def duration(seconds: Any) -> str:
    """75.2 reads `1 min 15 s`."""
    if not is_number(seconds):
        return NOTHING
    rounded = round(seconds)
    if rounded < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{rounded} s"
    minutes, remaining_seconds = divmod(rounded, 60)
    return f"{minutes} min {remaining_seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def dollars(amount: float | None) -> str:
    """$0, under a cent, or cents; whole dollars from 100 on."""
    if amount is None:
        return NOTHING
    if amount == 0:
        return "$0"
    return "under $0.01" if amount < 0.01 else f"${amount:,.2f}" if amount < 100 else f"${amount:,.0f}"


def dollars_range(low: float, high: float) -> str:
    """`$1.20 to $3.40`, or one of them where they read the same."""
    return " to ".join(dict.fromkeys(map(dollars, (low, high))))


def prompt_name(name: Any) -> str:
    """`8_shot` reads `8-shot`, `3_nearest` reads `3 nearest examples`, `prompt_2_zero_shot` reads `prompt 2, zero-shot`."""
    if not name:
        return "unknown"
    if numbered := re.fullmatch(r"prompt_(\d+)_(.+)", str(name)):
        return f"prompt {numbered[1]}, {prompt_name(numbered[2])}"
    if str(name).startswith("api_"):
        return f"API model, {prompt_name(str(name)[4:])}"
    if nearest := re.fullmatch(r"(\d+)_nearest(_embedded)?", str(name)):
        examples = f"{nearest[1]} nearest examples" if nearest[1] != "1" else "nearest example"
        return f"{examples} by embeddings" if nearest[2] else examples
    if passages := re.fullmatch(r"(\d+)_documents", str(name)):
        return f"{passages[1]} nearest passages of documents" if passages[1] != "1" else "nearest passage of documents"
    return str(name).replace("_", "-")


def inside(title: str) -> str:
    """A title as written inside a sentence: `TF-IDF …` stays, `The nearest …` begins with a small letter."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def in_words(names: Sequence[str]) -> str:
    """Join names as `a`, `a and b` or `a, b and c`; empty without names."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def capital(title: str) -> str:
    """A title at the beginning of a sentence."""
    return title[:1].upper() + title[1:]


def cut(text: str, limit: int) -> str:
    """The text, or its first `limit` characters and the number of the others."""
    return text if len(text) <= limit else f"{text[:limit]} […{len(text) - limit:,} more characters]"
