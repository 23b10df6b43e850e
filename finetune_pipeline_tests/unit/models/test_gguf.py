"""GGUF files: llama.cpp computes what transformers computes, and what it cannot is refused by name. The Modelfile: its
template writes what the chat template writes, for every conversation that servers are sent."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from jinja2 import Environment
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune_pipeline.evaluation.llama_cpp import llama_cpp_server
from finetune_pipeline.evaluation.openai_endpoint import ask
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.base import _unpack_gguf
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.chat_templates import NAMED, written
from finetune_pipeline.models.gguf import write_gguf
from finetune_pipeline.models.ollama import go_template, modelfile
from finetune_pipeline_tests.tiny_model import SYSTEM, TEMPLATE, make_tiny_tokenizer
from finetune_pipeline_tests.unit.models.architectures import load, make_model

LONGEST = 8
QUESTIONS = [
    *(f"ticket {n}: the board page is {word}" for n, word in enumerate("empty gone slow wrong back old".split())),
    "my invoice is wrong",
    "the app crashes 1234 times,\n\n  when I save!",
    "Größe: ½ 日本語 🙂 don't we'll",
]
LLAMA3 = {"rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 24}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}},
    "qwen2": {},
    "qwen3": {},
    "gemma": {"norms": 4.0},
    "gemma2": GEMMA,
    "gemma3": {**GEMMA, "num_hidden_layers": 7, "layer_types": None, "sliding_window": 256},
}


build_tensors = GGUFReader._build_tensors


def gguf(folder: Path, stop_ids: Sequence[int] = (2,)) -> Path:
    write_gguf(folder, folder.with_suffix(".f16"), "f16", name="m", stop_ids=stop_ids)
    return folder.with_suffix(".f16")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def same_answers(folder: Path) -> None:
    """All prompts have as many tokens, and all answers but near ties are the same: llama.cpp's keys are in float16.
    Pieces of characters do not count: servers write those in ways of their own."""
    conversations = [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}] for question in QUESTIONS
    ]
    tokenizer, model = load_tokenizer(folder), load(folder)
    expected = []
    for messages in conversations:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            generated = model.generate(
                prompt, do_sample=False, max_new_tokens=LONGEST, eos_token_id=[2], pad_token_id=2
            )
        text = tokenizer.decode(generated[0, prompt.shape[1] :], skip_special_tokens=True)
        expected.append((text.replace("\ufffd", ""), prompt.shape[1]))
    with llama_cpp_server(gguf(folder), 512) as endpoint:
        answers = [
            (a.text.replace("\ufffd", ""), a.prompt_tokens) for a in ask(endpoint, conversations, LONGEST).answers
        ]
    assert [n for _, n in answers] == [n for _, n in expected]
    different = [pair for pair in zip(expected, answers, strict=True) if pair[0] != pair[1]]
    assert len(different) <= 2, different
    assert len({text for text, _ in expected}) > 3, "answers that could differ"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llama_cpp_answers_as_transformers(architecture: str, tmp_path: Path) -> None:
    settings = {"norms": 0.2, **ARCHITECTURES[architecture]}
    same_answers(make_model(tmp_path / "model", architecture, dtype=torch.float16, **settings))


@pytest.mark.parametrize(
    ("architecture", "settings"), [("llama", {}), ("llama", {"tied": False}), ("gemma3", ARCHITECTURES["gemma3"])]
)
def test_a_file_is_unpacked_into_the_model_it_was_written_from(architecture, settings, tmp_path, monkeypatch) -> None:
    folder = make_model(tmp_path / "model", architecture, dtype=torch.float16, norms=0.2, **settings)
    parsed: list[Any] = []
    monkeypatch.setattr(GGUFReader, "_build_tensors", lambda *args: parsed.append(build_tensors(*args)))
    _unpack_gguf(gguf(folder), tmp_path / "back")
    assert len(parsed) == 1, "a large vocabulary takes seconds each time"
    before, after = load(folder).state_dict(), load(tmp_path / "back").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor.bfloat16().float()) for name, tensor in before.items())


def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    """Joins pairs by rank, falls back to bytes, puts its begin token first, and no space before the first word."""
    folder = make_model(tmp_path / "model", "llama", dtype=torch.float16, tied=False)
    # no answer has bytes: pieces of characters are written differently
    change_weights(folder, lambda weights: weights["lm_head.weight"][:261].zero_())
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    marks = ["<pad>", "<bos>", "<|im_end|>", "<unk>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*marks, *(f"<0x{i:02X}>" for i in range(256))], show_progress=False
    )
    raw.train_from_iterator([SYSTEM, "my invoice is wrong", "the app crashes when I save", "system user"] * 3, trainer)
    stored = json.loads(raw.to_str())
    stored["added_tokens"] = [t for t in stored["added_tokens"] if not t["content"].startswith("<0x")]
    raw = Tokenizer.from_str(json.dumps(stored))
    raw.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<|im_end|>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
    tokenizer.save_pretrained(folder)
    same_answers(folder)


@pytest.mark.parametrize(
    ("architecture", "file", "changes", "rule"),
    [
        ("gpt2", None, {}, "gguf.architecture"),
        ("gemma3", None, {}, "gguf.settings"),  # divides by the root of 256, with heads of 16
        ("llama", "config.json", {"rope_parameters": {**LLAMA3, "rope_type": "dynamic"}}, "gguf.settings"),
        ("llama", "config.json", {"hidden_act": "gelu"}, "gguf.settings"),
        ("qwen2", "config.json", {"use_sliding_window": True, "sliding_window": 64}, "gguf.settings"),
        ("llama", "tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "gguf.tokenizer"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(architecture, file, changes, rule, tmp_path) -> None:
    folder = make_model(tmp_path / "model", architecture)
    if file:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))
    with pytest.raises(FindingsError) as error:
        gguf(folder)
    assert [f.rule for f in error.value.findings] == [rule] and error.value.findings[0].fix


def test_a_token_that_the_model_cannot_read_is_left_out(tmp_path: Path) -> None:
    """Gemma 3's tokenizer has a token for images, and models that read text only have no row for it."""
    folder = make_model(tmp_path / "model", "llama", dtype=torch.float16)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    tokens = GGUFReader(gguf(folder)).fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 400 and "<image>" not in tokens and tokens[2] == "<|im_end|>"


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama")
    with pytest.raises(FindingsError, match="ends answers with 4 tokens"):
        gguf(folder, stop_ids=[0, 1, 2, 3])
    change_weights(folder, lambda weights: weights["model.layers.0.mlp.up_proj.weight"][0, 0].fill_(1e6))
    with pytest.raises(FindingsError, match="float16 cannot"):
        gguf(folder)


# --- the Modelfile for Ollama

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
    serving = {"system_prompt": 'Say "yes".', "stop_tokens": ["<|im_end|>"], "max_new_tokens": 7}
    text = modelfile(tokenizer_with(tmp_path), "m-f16.gguf", serving, context=512, other_weights=["m-q8_0.gguf"])
    lines = text.splitlines()
    assert lines[:2] == ["FROM ./m-f16.gguf", "# FROM ./m-q8_0.gguf"]
    assert lines[-6:] == [
        'SYSTEM """Say "yes"."""',
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
        "PARAMETER num_predict 7",
        "PARAMETER num_ctx 512",
        'PARAMETER stop """<|im_end|>"""',
    ]
    with pytest.raises(FindingsError, match="three quotation marks"):
        modelfile(tokenizer_with(tmp_path), "m.gguf", {**serving, "system_prompt": 'Say """yes""".'}, context=512)


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
