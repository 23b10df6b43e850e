"""The page on which people review: one self-contained file, driven by keys, that works without a network and a server.

Decisions are kept in the browser as they are made, and are handed in as a download; served by ``finetune review`` they are
also stored at every key press. Texts of strangers get into the document as text: never as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.report.page import html_templates


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
    """Render the page.

    Args:
        sheet: A name under which browsers keep what is decided.
        mode: ``outputs`` (ratings of answers, people.ratings) or ``rows`` (decisions about data, data.review). It decides
            the form of the lines that come out.
        choices: {value, label, key, answer: whether the right answer has to be given}.
        items: {id, blocks: [{title, text}], sides: two of them, beside each other, or None}.
        file: Name of the download, in which RATER is replaced.
        token: Set when a server stores what is decided.
        done: Decisions made before, {id, choice, rater, comment, time, answer}.
        answers: The labels to choose the right answer from; empty: a text field; None: no choice asks for one.
    """
    data = {
        "sheet": sheet,
        "mode": mode,
        "choices": [dict(choice) for choice in choices],
        "items": [dict(item) for item in items],
        "file": file,
        "rater": rater,
        "server": bool(token),
        "token": token,
        "done": [dict(decision) for decision in done],
    }
    template = html_templates().get_template("review.html")
    return template.render(title=title, intro=intro, data=data, answers=answers)
