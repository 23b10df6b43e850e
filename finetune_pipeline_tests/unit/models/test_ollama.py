"""Ollama's Modelfile: its template writes what the chat template writes, for every conversation that servers are sent."""

import re
from pathlib import Path

import pytest
from jinja2 import Environment
from msgspec.structs import replace

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat_templates import NAMED, written
from finetune_pipeline.models.facts import Serving
from finetune_pipeline.models.ollama import go_template, modelfile
from finetune_pipeline_tests.tiny_model import SYSTEM, TEMPLATE, make_tiny_model, make_tiny_tokenizer

TURNS = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")]


def tokenizer_with(folder: Path, template: str | None = None) -> Path:
    make_tiny_tokenizer(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def as_ollama(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama writes: its template's few words of Go, put into Jinja's."""
    words = {
        r"range \$i, \$m := \.Messages": "{% for m in messages %}{% set i = loop.index0 %}",
        r'if eq \$m\.Role "(\w+)"': r'{% if m.role == "\1" %}',
        r'else if eq \$m\.Role "(\w+)"': r'{% elif m.role == "\1" %}',
        r"if eq \$i 0": "{% if i == 0 %}",
        r"else if gt \$i 1": "{% elif i > 1 %}",
        r"else": "{% else %}",
        r"\$m\.Content": "{{ m.content }}",
    }
    for go, jinja in words.items():
        template = re.sub(r"\{\{ " + go + r" \}\}", jinja, template)
    for end in ("endif", "endif", "endfor"):
        template = template.replace("{{ end }}", f"{{% {end} %}}", 1)
    return Environment(keep_trailing_newline=True).from_string(template).render(messages=messages)


@pytest.mark.parametrize(
    ("template", "begin"), [(None, ""), ("llama3", "<|begin_of_text|>"), ("gemma", "<|im_start|>"), ("refuses", "")]
)
def test_the_template_in_go_writes_the_same(template: str | None, begin: str, tmp_path: Path) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + TEMPLATE
    folder = tokenizer_with(tmp_path, template and {**NAMED, "refuses": refuses}[template])
    turns = [{"role": role, "content": text} for role, text in TURNS]
    for system in ([], [{"role": "system", "content": SYSTEM}])[: 1 if template == "refuses" else 2]:
        for number in (1, 3, 5):
            messages = [*system, *turns[:number]]
            expected = written(folder, messages) or ""
            assert as_ollama(go_template(folder, begin), messages) == expected.removeprefix(begin)


def test_the_modelfile_asks_as_the_model_was_judged(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    serving = Serving(
        system_prompt='Say "yes".', labels=[], max_new_tokens=7, stop_token_ids=[2], stop_tokens=["<|im_end|>"]
    )
    text = modelfile(folder, serving, context=512)
    lines = text.splitlines()
    assert lines[0] == "FROM ."
    assert lines[-6:] == [
        'SYSTEM """Say "yes"."""',
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
        "PARAMETER num_predict 7",
        "PARAMETER num_ctx 512",
        'PARAMETER stop """<|im_end|>"""',
    ]
    with pytest.raises(FindingsError, match="three quotation marks"):
        modelfile(folder, replace(serving, system_prompt='Say """yes""".'), context=512)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages[-1:] %}{{ m['content'] }}{% endfor %}", "leaves out a turn"),
        ("{{ messages | length }}{% for m in messages %}{{ m['role'] + m['content'] + ';' }}{% endfor %}", "differently"),
        ("{% for m in messages %}{{ '{' + '{' + m['content'] + '\n' }}{% endfor %}{{ '{' + '{' }}", "double braces"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_said_is_refused(template: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match=why):
        go_template(tokenizer_with(tmp_path, template))
