"""Pieces of HTML that pages are made of: every text is escaped here, nothing is loaded, nothing runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from finetune_pipeline.report.tables import Table

_CODE = re.compile(r"`([^`\n]+)`")


def minus(text: str) -> str:
    """Hyphens before numbers as minus signs: ` -3.1` but not `8-shot` or `2026-11-24`."""
    padded = f" {text}"
    for digit in "0123456789":
        padded = padded.replace(f" -{digit}", f" \u2212{digit}").replace(f"(-{digit}", f"(\u2212{digit}")
    return padded[1:]


def prose(text: str) -> str:
    """A text with true minus signs, escaped; what stands between backticks is shown as code."""
    return _CODE.sub(r"<code>\1</code>", escape(minus(text)))


def paragraphs(texts: Iterable[str], style: str = "") -> str:
    """Each text as a paragraph."""
    kind = f' class="{style}"' if style else ""
    return "".join(f"<p{kind}>{prose(text)}</p>" for text in texts)


def table(told: Table | None, style: str = "", marks: Mapping[tuple[int, int], str] | None = None) -> str:
    """A table; empty text without rows. marks: CSS classes of single cells, by (row, column)."""
    if told is None or not told.rows:
        return ""
    sides = ["r" if side == "r" else "" for side in told.align]
    head = "".join(f"<th{_class(side)}>{escape(h)}</th>" for h, side in zip(told.headers, sides, strict=True))
    body = ""
    for i, row in enumerate(told.rows):
        cells = ""
        for j, (cell, side) in enumerate(zip(row, sides, strict=True)):
            mark = (marks or {}).get((i, j), "")
            cells += f"<td{_class(f'{side} {mark}'.strip())}>{escape(minus(cell))}</td>"
        body += f"<tr{_class('strong' if i in told.strong else '')}>{cells}</tr>"
    head = f"<thead><tr>{head}</tr></thead>" if any(told.headers[1:]) else ""
    return f'<div class="wide"><table{_class(style)}>{head}<tbody>{body}</tbody></table></div>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def bars(rows: Sequence[tuple[str, int]], title: str, total: int | None = None) -> str:
    """Names with counts, shares and bars as long as the largest; empty text without rows."""
    if not rows:
        return ""
    most, whole = max(n for _, n in rows) or 1, (sum(n for _, n in rows) if total is None else total) or 1
    body = "".join(
        f'<tr><td class="nowrap">{escape(name)}</td><td class="r">{n:,}</td><td class="r">{n / whole:.1%}</td>'
        f'<td class="bar"><span style="width:{100 * n / most:.1f}%"></span></td></tr>'
        for name, n in rows
    )
    head = f'<tr><th>{escape(title)}</th><th class="r">Rows</th><th class="r">Share</th><th></th></tr>'
    return f'<div class="wide"><table class="bars"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def page(title: str, lead: str, style: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """A whole page. head: HTML above the contents; sections: (anchor, title, HTML); those without HTML are left out."""
    shown = [(key, name, body) for key, name, body in sections if body]
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in shown)
    bodies = "".join(f'<section><h2 id="{key}">{escape(name)}</h2>{body}</section>' for key, name, body in shown)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{head}<nav>{links}</nav>{bodies}'
        "</main></body></html>\n"
    )
