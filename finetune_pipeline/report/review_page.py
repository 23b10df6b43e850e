"""The page on which people review: one self-contained file, driven by keys, that works without a network and a server.

Decisions are kept in the browser as they are made, so a reload loses nothing, and are handed in as a download; served by
``finetune review`` they are stored by every key press as well. Texts of strangers get into the page as data, and from
there into the document as text: never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.report.style import STYLE

_STYLE = """
main { max-width: 76rem; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: baseline; }
header input { font: inherit; padding: .25rem .5rem; border: 1px solid var(--line); border-radius: 5px;
  background: var(--paper); color: var(--ink); }
.track { height: 6px; background: var(--panel); border-radius: 3px; margin: 1rem 0; overflow: hidden; }
.track span { display: block; height: 100%; width: 0; background: var(--accent); }
.block { margin: 0 0 1rem; } .block h3 { margin: 0 0 .3rem; color: var(--soft); font-size: .8125rem; font-weight: 600; }
.block pre { margin: 0; padding: .7rem .9rem; background: var(--panel); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .95rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  max-height: 22rem; overflow: auto; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.sides pre { border: 1px solid var(--line); background: var(--paper); min-height: 4.5rem; }
.choices { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; }
button { font: inherit; color: var(--ink); background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .5rem .9rem; cursor: pointer; } button:hover { border-color: var(--accent); }
button.on { background: var(--accent); border-color: var(--accent); color: var(--paper); }
button:focus-visible, input:focus-visible, textarea:focus-visible, select:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
kbd { font: .8em ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; border: 1px solid currentColor;
  border-radius: 3px; padding: 0 .3em; margin-right: .4em; opacity: .75; }
textarea, select { font: inherit; width: 100%; max-width: 52rem; padding: .45rem .6rem; border: 1px solid var(--line);
  border-radius: 6px; background: var(--paper); color: var(--ink); } textarea { height: 3.6rem; }
.row { margin: .6rem 0; } .row label { display: block; font-size: .8125rem; color: var(--soft); }
footer { margin-top: 1.6rem; padding-top: 1rem; border-top: 1px solid var(--line); display: flex; flex-wrap: wrap;
  gap: .6rem 1rem; align-items: center; } .hidden { display: none; } #state { color: var(--soft); font-size: .875rem; }
#state.bad { color: var(--bad); font-weight: 600; }
@media (max-width: 46rem) { .sides { grid-template-columns: 1fr; } }
"""

_SCRIPT = Path(__file__).with_name("review_page.js").read_text("utf-8")


def render_review(
    *,
    title: str,
    intro: str,
    sheet: str,
    mode: str,
    choices: Sequence[Mapping[str, Any]],
    items: Sequence[Mapping[str, Any]],
    file: str,
    rater: str = "",
    token: str = "",
    done: Sequence[Mapping[str, Any]] = (),
    answers: Sequence[str] | None = None,
) -> str:
    """The page.

    mode: ``outputs`` (ratings of answers, people.ratings) or ``rows`` (decisions about data, data.review); it decides the
    form of the lines that come out. choices: {value, label, key, answer: whether the right answer has to be given}.
    items: {id, blocks: [{title, text}], sides: two of them, beside each other, or None}. file: name of the download, in
    which RATER is replaced. token: set when a server stores what is decided. done: decisions made before, {id, choice,
    rater, comment, time, answer}. answers: the labels to choose the right answer from; empty: a text field; None: no
    choice asks for one.
    """
    told = {
        "sheet": sheet,
        "mode": mode,
        "choices": [dict(c) for c in choices],
        "items": [dict(i) for i in items],
        "file": file,
        "rater": rater,
        "server": bool(token),
        "token": token,
        "done": [dict(d) for d in done],
    }
    answer = ""
    if answers is not None:
        options = "".join(f"<option>{_text(label)}</option>" for label in ("", *answers))
        field = f'<select id="answer">{options}</select>' if answers else '<textarea id="answer"></textarea>'
        answer = f'<div class="row hidden" id="answer-row"><label for="answer">The right answer</label>{field}</div>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}{_STYLE}</style></head><body><main>"
        f'<header><h1>{_text(title)}</h1><label>Your name <input id="rater" autocomplete="off"></label></header>'
        f'<p class="lead">{_text(intro)}</p><div class="track"><span id="bar"></span></div>'
        '<p class="note" id="where"></p><div id="item"></div><div class="choices" id="choices"></div>'
        f"{answer}"
        '<div class="row"><label for="comment">Comment (key c; Esc leaves the field)</label>'
        '<textarea id="comment"></textarea></div>'
        '<footer><button type="button" id="back"><kbd>k</kbd>back</button>'
        '<button type="button" id="next"><kbd>j</kbd>next</button>'
        '<button type="button" id="open"><kbd>o</kbd>first undecided</button>'
        '<button type="button" id="download">Download</button><span id="state" role="status"></span>'
        '<strong id="ready" class="hidden">All decided.</strong></footer>'
        f'</main><script type="application/json" id="data">{_json(told)}</script><script>{_SCRIPT}</script></body></html>\n'
    )


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _json(value: Any) -> str:
    """JSON that no text in it can end the script element with."""
    told = json.dumps(value, ensure_ascii=False)
    return told.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
