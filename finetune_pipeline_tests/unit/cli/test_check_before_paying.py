"""``finetune check`` finds what the plan would refuse, before any prompt is paid for: once, with file, line and count."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import yaml

from finetune_pipeline.models.identity import BUNDLED, bundled_files
from finetune_pipeline_tests.unit.cli.test_commands import SPEC
from finetune_pipeline_tests.unit.data.rows import random_text

BASE = "bundled/smollm2-135m-instruct"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Writes a task of these rows."""

    def write(rows: list[dict[str, Any]], base: str | Path, **spec: Any) -> None:
        folder = tmp_path / "data" / "demo"
        (folder / "raw").mkdir(parents=True, exist_ok=True)
        settings = {**SPEC, "base_model": str(base), "data": {"min_examples": 30, "min_per_label": 5}, **spec}
        (folder / "task.yaml").write_text(yaml.safe_dump(settings))
        (folder / "raw" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


def chats(tools: bool) -> list[dict[str, Any]]:
    """60 chats, the last 40 of them with tools."""
    rows: list[dict[str, Any]] = []
    for i in range(60):
        asked = {"role": "user", "content": random_text(i, 12)}
        answer: dict[str, Any] = {"role": "assistant", "content": random_text(900 + i, 6)}
        if tools and i >= 20:
            answer = {"role": "assistant", "content": "", "tool_calls": [CALL]}
        rows.append({"messages": [asked, answer], **({"tools": TOOLS} if tools and i >= 20 else {})})
    return rows


def labelled(text: str = "") -> list[dict[str, Any]]:
    return [
        {"text": f"{random_text(i, 12)} {text * (i >= 55)}".strip(), "label": ("yes", "no")[i % 2]} for i in range(60)
    ]


TEXT = {
    "output": {"kind": "text"}, "system_prompt": "Help.", "gates": {"learnable": "warn"},
    "data": {"min_examples": 30, "inject": True},
}  # fmt: skip


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_tools_that_the_template_leaves_out_are_one_finding_and_a_base_that_writes_them_is_named(
    make: Any, finetune: Any, tiny: Path, is_unpacked: bool
) -> None:
    """Also of a bundled base whose tokenizer is not unpacked yet."""
    make(chats(tools=True), tiny if is_unpacked else BASE, **TEXT)
    result = finetune("check", "demo")
    assert result.returncode == 2, result.stdout
    assert result.stdout.count("40 of 60 rows cannot be encoded: the model's chat template leaves out the list of") == 2
    assert "the pipeline would stop: rows_fit: 40 of 60 rows" in result.stdout
    finding, places, fix = result.stdout.partition("error: chat.content_lost")[2].splitlines()[:3]
    assert finding == ": 40" and places.startswith("  raw/a.jsonl:21; raw/a.jsonl:22; raw/a.jsonl:23 and 37 more: ")
    assert "set base_model: Qwen/Qwen2.5-0.5B-Instruct" in fix
    if is_unpacked:
        planned = finetune("plan", "demo").stderr
        assert planned.count("leaves out the list of tools") == 1 and " more: the model's chat template" in planned
    make(chats(tools=False), tiny if is_unpacked else BASE, **TEXT)
    clean = finetune("check", "demo", "--json").json
    assert not clean["stops"] and clean["quality"]["parts"]["tokens"]["passed"]


def test_the_known_template_of_a_bundled_model_is_the_one_in_its_file() -> None:
    fields = gguf.GGUFReader(bundled_files(BASE)[0]).fields
    known, names = BUNDLED[BASE], fields["tokenizer.ggml.tokens"]
    assert fields["tokenizer.chat_template"].contents() == known.template
    for key in ("bos", "eos"):
        token = fields[f"tokenizer.ggml.{key}_token_id"].contents()
        assert bytes(names.parts[names.data[token]]).decode() == known.special[f"{key}_token"]


def test_rows_that_training_refuses_for_their_length_stop_a_check_unless_they_are_left_out(
    make: Any, finetune: Any, tiny: Path
) -> None:
    make(labelled("word " * 200), tiny, training={"max_tokens": 200, "method": "lora"})
    result = finetune("check", "demo")
    assert result.returncode == 2 and "the pipeline would stop: rows_fit: " in result.stdout
    assert "5 of 60 rows are longer than 200 tokens (training.max_tokens)" in result.stdout
    assert "raw/a.jsonl:56 and 4 more: 5 of 60 rows have more than 200 tokens" in result.stdout
    make(labelled("word " * 200), tiny, training={"max_tokens": 200, "method": "lora", "over_length": "drop"})
    assert not [stop for stop in finetune("check", "demo", "--json").json["stops"] if "rows_fit" in stop]
    long = labelled("word " * 400)
    make(long, tiny, training={"max_tokens": 4096, "method": "lora"})
    assert f"than 1,024 tokens (training.max_tokens, as the context of {tiny}" in finetune("check", "demo").stdout


def test_a_base_that_does_not_fit_and_a_test_that_is_too_small_stop_a_check(
    make: Any, finetune: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(labelled(), tiny, gates={"learnable": "warn"})
    result = finetune("check", "demo")
    assert result.returncode == 0 and "\nok    fits_memory" in result.stdout, result.stdout
    assert " steps over 42 rows of " in result.stdout and " tokens in 42 training rows" in result.stdout, "of 60 rows"
    assert "\nlook  enough_test_rows" in result.stdout and result.stdout.count("would refuse every candidate") == 1
    assert "A run trains all the same, unless gates.enough_test_rows is block." in result.stdout
    monkeypatch.setenv("FINETUNE_MEMORY_GIB", "0.1")
    make(labelled(), tiny, gates={"learnable": "warn", "enough_test_rows": "block"})
    result = finetune("check", "demo")
    assert result.returncode == 2 and "the pipeline would stop: fits_memory: " in result.stdout
    assert "it does not fit" in result.stdout and "the pipeline would stop: enough_test_rows: " in result.stdout
    assert "A run stops there (gates.enough_test_rows)." in result.stdout and "all the same" not in result.stdout
