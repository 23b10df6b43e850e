"""Foreign texts come out of every door without characters that a terminal obeys or a file cannot hold."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from finetune_pipeline.data.json_lines import encode_line
from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.escaping import printable
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import Finding
from finetune_pipeline.orchestration.materialize import as_metadata
from finetune_pipeline.report.blocks import Code, Page, Section, Text
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.tracking.mlflow_store import redact

HOSTILE = "a\udc00b\x1b[31mc\x9bd\u202ee\rf\U000e0001"
SHOWN = r"a\udc00b\u001b[31mc\u009bd\u202ee\u000df\udb40\udc01"
ORDINARY = "café\t日本\nمرحبا 👨\u200d👩\u200d👧 \r\n\\u001b"


def test_what_terminals_obey_is_escaped_and_scripts_and_emoji_stay() -> None:
    assert printable(HOSTILE) == SHOWN and printable(ORDINARY) == ORDINARY and printable(SHOWN) == SHOWN


@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_written_and_keeps_its_value_in_json(text: str) -> None:
    shown = printable(text)
    assert shown.encode() is not None and printable(shown) == shown and "\x1b" not in shown
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


def test_every_output_escapes() -> None:
    finding = Finding("data.x", "error", HOSTILE, HOSTILE, HOSTILE)
    page = Page(HOSTILE, HOSTILE, None, [Section("s", HOSTILE, [Text(HOSTILE), Code(HOSTILE)])])
    metadata = as_metadata({"text": HOSTILE, "list": [{"key": [HOSTILE]}], HOSTILE: "x", "n": 1.0})
    shown: dict[str, Any] = {
        "finding": f"{finding}",
        "check": CheckResult(False, HOSTILE).message,
        "fault": str(OutsideError(HOSTILE)),
        "rows": encode_line({HOSTILE: [HOSTILE]}).decode(),
        "html": page_html(page),
        "markdown": page_markdown(page),
        "mlflow": redact(HOSTILE),
        "dagster": f"{[*metadata, metadata['text'], metadata['list'].value]}",
    }
    wrong = {name: text for name, text in shown.items() if any(c in text for c in "\udc00\x1b\x9b\u202e\U000e0001")}
    assert wrong == {} and all(text.encode() for text in shown.values())
    assert msgspec.json.decode(shown["rows"]) == {SHOWN: [SHOWN]}
