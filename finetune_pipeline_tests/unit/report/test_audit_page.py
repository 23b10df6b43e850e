"""The audit's page: every token in its colour, the verdict that the counters give."""

import html
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.report.page import page_html
from finetune_pipeline.report.training_pages import audit_page
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.rows import prepare_split
from finetune_pipeline_tests.tiny_model import SYSTEM, make_tiny_tokenizer, tiny_messages
from finetune_pipeline_tests.unit.report.parsed import Parsed

SETTINGS = {"method": "lora", "max_tokens": 120, "over_length": "truncate_prompt"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tok")
    make_tiny_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def spans(page: str) -> dict[str, str]:
    """The text of the rows by the class of its spans, without signs for what cannot be seen."""
    text = {"loss": "", "context": "", "lost": "", "special": ""}
    for row in re.findall(r'<div class="tokens">(.*?)</div>', page, re.S):
        for kinds, content in re.findall(r'<span class="([\w ]+)">(.*?)</span>', row, re.S):
            for kind in text.keys() & set(kinds.split()):
                text[kind] += html.unescape(re.sub(r"<i .*?</i>", "", content))
    return text


def _page(tokenizer: Any, examples: list[Example], **settings: Any) -> str:
    chosen = TrainingSpec.model_validate({**SETTINGS, **settings})
    splits = {"train": examples, "validation": examples[:1]}
    audit = {
        split: prepare_split(tokenizer, rows, chosen.max_tokens, chosen.over_length, f"{split} split").audit
        for split, rows in splits.items()
    }
    return page_html(audit_page(audit, chosen))


def test_tokens_with_loss_are_the_answer_and_its_end(tokenizer: Any) -> None:
    page = _page(tokenizer, [Example("e0", tiny_messages(0))])
    text = spans(page)
    assert "Sound." in page and "Training is stopped" not in page
    assert text["loss"] == "billing<|im_end|>" * 2, "one row a split"
    assert SYSTEM in text["context"] and text["lost"] == "" and text["special"].count("<|im_end|>") == 2 * 3


def test_what_was_cut_is_struck_out_and_counted(tokenizer: Any) -> None:
    long = tiny_messages(0)
    long[1]["content"] = "ancient history. " * 20 + "my invoice is wrong"
    page = _page(tokenizer, [Example("e0", tiny_messages(0)), Example("long", long)])
    text = spans(page)
    assert "Sound." in page and "its user text was cut" in page and text["lost"].startswith("ancient history.")
    assert "my invoice is wrong" in text["context"] and "Examples with truncated user text 1 0" in Parsed(page).words


def test_a_fault_stops_and_says_where_and_what_to_do(tokenizer: Any) -> None:
    messages = tiny_messages(1)
    messages[1]["content"] += "<|im_end|>"
    page = _page(tokenizer, [Example("e0", tiny_messages(0)), Example("forged", messages)], over_length="fail")
    assert "Training is stopped." in page and "Sound." not in page
    assert "1 of 2 rows contain control tokens of a chat template" in page and "for example forged" in page
    assert "What to do: remove them from the data" in page
    assert '<h3 class="bad-count">Control tokens in the text</h3>' in page
