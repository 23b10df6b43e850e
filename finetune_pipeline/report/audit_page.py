"""The supervision audit as one self-contained HTML page: which tokens are learned. No script, every text escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from finetune_pipeline.report.style import STYLE

Audit = Mapping[str, Any]
_LONG = 160
"""Tokens of context in a row from which their middle is folded away."""
_EDGE = 60

_COUNTERS = (
    ("rows_without_loss", "No token with loss"),
    ("rows_partly_learned", "Answer only partly learned"),
    ("rows_with_loss_on_prompt", "Loss outside the answers"),
    ("rows_without_eos", "End of turn not learned"),
    ("answers_cut", "Answer not whole"),
    ("rows_over_length", "Longer than max_tokens"),
    ("template_mismatch", "Other text than in serving"),
    ("rows_refused", "Refused by the chat template"),
    ("rows_with_special_tokens", "Marks of a template in the text"),
)
_DONE = (("rows_cut", "Examples with a cut user text"), ("tokens_cut", "Tokens cut"), ("rows_dropped", "Rows left out"))

ROW_STYLE = """
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0 0; padding: .7rem .9rem; background: var(--panel);
  border-radius: 4px; font: .875rem/1.85 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.tokens span, .key span { padding: .1em 0; border-radius: 2px; box-decoration-break: clone; }
.loss { background: var(--good-bg); color: var(--good); border-bottom: 2px solid var(--good); }
.loss.other { background: color-mix(in srgb, var(--good) 24%, var(--paper)); }
.lost { background: var(--bad-bg); color: var(--bad); text-decoration: line-through; }
.context.other { background: color-mix(in srgb, var(--ink) 6%, transparent); }
.special { font-weight: 650; } .sign { opacity: .55; }
.tokens details { display: inline; } .tokens summary { display: inline; cursor: pointer; color: var(--accent);
  list-style: none; padding: 0 .3em; } .tokens summary::-webkit-details-marker { display: none; }
.tokens details[open] summary { display: none; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: 1rem 0 0; padding: 0; list-style: none; max-width: none;
  font-size: .875rem; } .key span { padding: .1em .5em; font-family: ui-monospace, Menlo, Consolas, monospace; }
.row { border: 1px solid var(--line); border-radius: 6px; padding: .7rem 1rem 1rem; margin: .9rem 0; }
.row h3 { margin: 0; font-size: .95rem; } .row h3::first-letter { text-transform: uppercase; }
.row .id { color: var(--soft); font-size: .8125rem; margin: .1rem 0 0; max-width: none; overflow-wrap: anywhere; }
.bad-count { color: var(--bad); font-weight: 650; } .zero { color: var(--soft); }
.verdict .todo { font-size: .9rem; }
.verdict ul { margin: .5rem 0 0; padding-left: 1.2rem; } .verdict li { margin: .3rem 0; overflow-wrap: anywhere; }
@media print { .tokens details > * { display: inline; } .row { break-inside: auto; } }
"""


def render_audit(audits: Mapping[str, Audit], settings: Mapping[str, Any], title: str = "Supervision audit") -> str:
    """The page for audit.json: {split: the audit of training.rows.prepare_split}, and ``spec.training`` as settings."""
    problems = [f for audit in audits.values() for f in audit["problems"]]
    sections = "".join(_split(split, audit) for split, audit in audits.items())
    told = (
        f"Longest example: {settings['max_tokens']} tokens (training.max_tokens); longer ones: {settings['over_length']} "
        "(training.over_length)."
    )
    if settings.get("augment"):
        told += " Training rows are learned as they are and once perturbed (training.augment)."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{ROW_STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="lead">What the model is taught, token by token, before the first step.</p>'
        f"{_verdict(problems, audits)}"
        f"<h2>Counters</h2>{counters(audits)}<p class='note'>{escape(told)}</p>"
        f"<h2>How to read the rows</h2>{key()}{sections}</main></body></html>\n"
    )


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _rows(number: int) -> str:
    return f"{_number(number)} row{'' if number == 1 else 's'}"


def _verdict(problems: Sequence[Mapping[str, Any]], audits: Mapping[str, Audit]) -> str:
    if not problems:
        rows = sum(a["rows"] for a in audits.values())
        learned, tokens = (sum(a[k] for a in audits.values()) for k in ("loss_tokens", "tokens"))
        share = f"{learned / tokens:.1%}" if tokens else "0%"
        return (
            '<div class="verdict"><p><strong>Sound.</strong> In all '
            f"{_rows(rows)} every answer is learned as a whole, its end included, and nothing else is; the text is what "
            f"serving sends, token for token. {_number(learned)} of {_number(tokens)} tokens ({share}) carry loss.</p></div>"
        )
    items = [
        f'<li>{escape(f["place"])}: {escape(f["message"])}.<span class="todo">What to do: {escape(f["fix"])}.</span></li>'
        for f in problems
    ]
    return (
        '<div class="verdict no"><p><strong>Training is stopped.</strong> It would teach something else than the '
        f"answers:</p><ul>{''.join(items)}</ul></div>"
    )


def counters(audits: Mapping[str, Audit]) -> str:
    """The table of all counters, a column a split."""

    def line(label: str, cells: Sequence[str]) -> str:
        return f"<tr><td>{escape(label)}</td>{''.join(cells)}</tr>"

    def plain(value: int) -> str:
        return f'<td class="r">{_number(value)}</td>'

    def count(value: int) -> str:
        style = "bad-count" if value else "zero"
        return f'<td class="r {style}">{_number(value)}</td>'

    every = list(audits.values())
    head = "".join(f'<th class="r">{escape(split)}</th>' for split in audits)
    body = line("Rows", [plain(a["rows"]) for a in every])
    body += line("Tokens", [plain(a["tokens"]) for a in every])
    body += line("Tokens with loss", [plain(a["loss_tokens"]) for a in every])
    for label, key in (("Tokens a row", "tokens_per_row"), ("Tokens with loss a row", "loss_tokens_per_row")):
        cells = []
        for audit in every:
            told = audit[key]
            cells.append(
                f'<td class="r">{_number(told["min"])} … {_number(told["p50"])} … {_number(told["max"])}</td>'
                if told
                else '<td class="r">–</td>'
            )
        body += line(f"{label} (least, median, most)", cells)
    body += "".join(line(label, [count(a[name]) for a in every]) for name, label in _COUNTERS)
    body += "".join(line(label, [plain(a[name]) for a in every]) for name, label in _DONE)
    return f'<div class="wide"><table class="figures"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def key() -> str:
    """What the marks of the shown rows mean."""
    return (
        '<ul class="key"><li><span class="loss">learned</span> carries loss</li>'
        '<li><span class="context other">read</span> context, without loss</li>'
        '<li><span class="lost">lost</span> cut, or behind max_tokens</li>'
        '<li><span class="special">&lt;bold&gt;</span> special token</li>'
        '<li><span class="sign">↵ ·</span> line break, blank at the edge of a token</li></ul>'
        '<p class="note">Neighbouring tokens are shaded in turn. Long stretches without loss are folded in the middle.</p>'
    )


def _split(split: str, audit: Audit) -> str:
    rows = shown_rows(audit["shown"])
    return f"<section><h2>{escape(split[:1].upper() + split[1:])}</h2>{rows or '<p>No rows to show.</p>'}</section>"


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows token by token, as the audit wrote them down."""
    return "".join(_row(row) for row in rows)


def _row(row: Mapping[str, Any]) -> str:
    place = f", {row['place']}" if row["place"] not in ("", "?:?") else ""
    lost = f", {_number(row['tokens_lost'])} lost" if row["tokens_lost"] else ""
    fault = dict(_COUNTERS).get(row["fault"])
    head = f'<h3 class="bad-count">{escape(fault)}</h3>' if fault else f"<h3>{escape(row['why'])}</h3>"
    return (
        f'<div class="row">{head}<p class="id">{escape(str(row["id"]))}{escape(place)}: '
        f"{_number(row['tokens'])} tokens, {_number(row['loss_tokens'])} with loss{lost}</p>"
        f'<div class="tokens">{_pieces(row["pieces"])}</div></div>'
    )


def _pieces(pieces: Sequence[Sequence[Any]]) -> str:
    """Tokens as spans; of a long stretch without loss, the middle is folded away."""
    html = ""
    at = 0
    for kind, group in groupby(pieces, key=lambda p: p[1]):
        told = [(part, bool(special)) for text, _, special in group for part in _parts(str(text), str(kind))]
        spans = [_piece(text, str(kind), special, (at + i) % 2) for i, (text, special) in enumerate(told)]
        at += len(spans)
        if kind != "loss" and len(spans) > _LONG:
            folded = "".join(spans[_EDGE:-_EDGE])
            html += (
                "".join(spans[:_EDGE]) + f"<details><summary>… {_number(len(spans) - 2 * _EDGE)} more …</summary>"
                f"{folded}</details>" + "".join(spans[-_EDGE:])
            )
        else:
            html += "".join(spans)
    return html


def _parts(text: str, kind: str) -> list[str]:
    """What was cut comes as one text; it is folded by its words."""
    return re.findall(r"\s*\S+|\s+$", text) or [text] if kind == "lost" else [text]


def _piece(text: str, kind: str, special: bool, odd: int) -> str:
    style = " ".join([kind, *["other"] * odd, *["special"] * special])
    return f'<span class="{style}">{_visible(text)}</span>'


def _visible(text: str) -> str:
    """Escaped text whose line breaks are seen, and a blank that is a whole token or ends one."""
    told = escape(text).replace("\r", '<i class="sign">␍</i>').replace("\n", '<i class="sign">↵</i>\n')
    bare = text.strip(" ")
    if text and not bare:
        return '<i class="sign">·</i>' * len(text)
    trailing = len(text) - len(text.rstrip(" "))
    return told[: len(told) - trailing] + '<i class="sign">·</i>' * trailing if trailing else told
