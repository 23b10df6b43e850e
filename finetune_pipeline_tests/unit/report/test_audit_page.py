"""The audit's page: every token in its colour, every text escaped, the verdict that the counters give."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.report.page import page_html
from finetune_pipeline.report.training_pages import audit_page
from finetune_pipeline.training.rows import prepare_split
from finetune_pipeline_tests.tiny_model import SYSTEM, make_tiny_tokenizer, tiny_messages
from finetune_pipeline_tests.unit.report.parsed import Parsed

SETTINGS = {"max_tokens": 120, "over_length": "truncate_prompt"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tok")
    make_tiny_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


class Spans(HTMLParser):
    """The text of the rows by the class of its span, and all tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: dict[str, str] = {"loss": "", "context": "", "lost": "", "special": ""}
        self.tags: list[str] = []
        self.within: list[str] = []
        self.rows = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        kind = dict(attrs).get("class") or ""
        self.rows += kind == "tokens"
        if tag == "span" and self.rows:
            self.within = kind.split()

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self.within = []

    def handle_data(self, data: str) -> None:
        for name in self.within:
            if name in self.text and data not in ("·", "↵", "␍"):
                self.text[name] += data


def _page(tokenizer: Any, examples: list[Example], **settings: Any) -> str:
    training_settings = {**SETTINGS, **settings}
    done = {
        split: prepare_split(
            tokenizer, rows, training_settings["max_tokens"], training_settings["over_length"], f"{split} split"
        ).audit
        for split, rows in {"train": examples, "validation": examples[:1]}.items()
    }
    return page_html(audit_page(done, training_settings))


def test_tokens_with_loss_are_the_answer_and_its_end(tokenizer: Any) -> None:
    page = _page(tokenizer, [Example("e0", tiny_messages(0))])
    spans = Spans(page)
    assert "Sound." in page and "Training is stopped" not in page
    assert spans.rows == 2  # one row a split
    assert spans.text["loss"] == "billing<|im_end|>" * 2
    assert SYSTEM in spans.text["context"] and spans.text["lost"] == ""
    assert spans.text["special"].count("<|im_end|>") == 2 * 3


def test_everything_from_the_data_is_escaped(tokenizer: Any) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;"
    messages = [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]
    page = _page(tokenizer, [Example('"><b>id', messages, source={"file": "<i>f", "line": 1})], max_tokens=400)
    spans = Spans(page)
    assert {"img", "b"} & set(spans.tags) == set()
    assert evil in spans.text["loss"] and evil in spans.text["context"]
    assert '"><b>id, <i>f:1' in Parsed(page).words
    Parsed(page).assert_inert()


def test_what_was_cut_is_struck_out_and_counted(tokenizer: Any) -> None:
    long = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "ancient history. " * 20 + "my invoice is wrong"},
        {"role": "assistant", "content": "billing"},
    ]
    page = _page(tokenizer, [Example("e0", tiny_messages(0)), Example("long", long)])
    spans = Spans(page)
    assert "Sound." in page and "its user text was cut" in page
    assert spans.text["lost"].startswith("ancient history.")
    assert "my invoice is wrong" in spans.text["context"]
    assert "Examples with a cut user text 1 0" in Parsed(page).words


def test_a_fault_stops_and_says_where_and_what_to_do(tokenizer: Any) -> None:
    messages = tiny_messages(1)
    messages[1]["content"] += "<|im_end|>"
    page = _page(tokenizer, [Example("e0", tiny_messages(0)), Example("forged", messages)], over_length="fail")
    assert "Training is stopped." in page and "Sound." not in page
    assert "1 of 2 rows hold marks of a chat template" in page and "for example forged" in page
    assert "What to do: remove them from the data" in page
    assert '<h3 class="bad-count">Marks of a template in the text</h3>' in page
