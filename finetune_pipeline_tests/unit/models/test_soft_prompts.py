"""Soft prompts outside PEFT: the same logits, and new tokens that are never generated."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.jobs import MergeJob
from finetune_pipeline.models.chat import encode_prompt, load_tokenizer
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.merging import merge_and_compare
from finetune_pipeline.models.parity import parity
from finetune_pipeline.models.soft_prompts import plain_model
from finetune_pipeline_tests.tiny_model import LABELS, tiny_messages, write_tiny_examples
from finetune_pipeline_tests.unit.models.architectures import load, logits, make_model, with_adapter

TOKENS = 5


def soft(base: Path, folder: Path, kind: str = "prompt", size: float = 0.5, seed: int = 1) -> Path:
    """Save a random soft prompt for `base`."""
    config = PromptTuningConfig if kind == "prompt" else PrefixTuningConfig
    model = get_peft_model(load(base), config(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("architecture", "tied"), [("gemma3_with_images", True), ("gpt_neox", False)])
def test_the_plain_model_gives_the_same_logits_and_answers(architecture: str, tied: bool, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", architecture, tied=tied)
    adapter = soft(base, tmp_path / "adapter")
    facts = plain_model(base, adapter, tmp_path / "out")
    assert facts.soft_ids == list(range(400, 400 + TOKENS))
    written = {path.name: digest_file(path) for path in (tmp_path / "out/model").iterdir()}
    assert facts.files == written, "each file that answers depend on, as it is"
    peft, plain = with_adapter(base, adapter), AutoModelForCausalLM.from_pretrained(tmp_path / "out/model").eval()
    for number in range(3):
        prompt = tiny_messages(number, answer=False)
        before, after = (encode_prompt(load_tokenizer(folder), prompt) for folder in (base, tmp_path / "out/model"))
        assert after == [*facts.soft_ids, *before]
        expected = logits(peft, torch.tensor([before]))
        torch.testing.assert_close(logits(plain, torch.tensor([after]))[..., :400], expected, rtol=1e-4, atol=1e-4)
        assert (expected[:, TOKENS:] - logits(load(base), torch.tensor([before]))).abs().max() > 0.1
        with torch.no_grad():
            answer = plain.generate(torch.tensor([after]), max_new_tokens=8, do_sample=False)[0, len(after) :]
            step = list(before)
            for token in answer.tolist():
                assert logits(peft, torch.tensor([step]))[0, -1].argmax() == token
                step.append(token)


def test_a_tokenizer_that_splits_text_after_the_new_tokens_differently_is_refused(tmp_path: Path) -> None:
    """As SentencePiece's do: only a text's first word gets a space in front. The model would get input it never saw."""
    base = make_model(tmp_path / "base", "llama")
    path = base / "tokenizer.json"
    first_word = {"type": "Metaspace", "replacement": "Ġ", "prepend_scheme": "first", "split": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), "pre_tokenizer": first_word}))
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    with pytest.raises(JobError, match="splits the following text differently(.|\n)*fix: export the adapter alone"):
        plain_model(base, soft(base, tmp_path / "adapter"), tmp_path / "out")


def test_embeddings_that_cannot_get_more_rows_are_refused(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "llama")
    adapter, tensors = soft(base, tmp_path / "adapter"), load_file(base / "model.safetensors")
    second = {"encoder.embed_tokens.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file({**tensors, **second}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        JobError, match=r"the embeddings of 'base' \(Embedding\) are not a matrix that can get more rows"
    ):
        plain_model(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_new_tokens_are_never_chosen_whatever_was_read(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "llama")
    plain_model(base, soft(base, tmp_path / "adapter", size=20.0), tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model").eval()
    read = torch.randint(0, 405, (64, 30), generator=torch.Generator().manual_seed(0))
    scores = logits(model, read).flatten(0, 1)
    assert (scores[:, 400:].max(1).values < scores[:, :400].max(1).values).all()
    assert all((torch.softmax(scores / heat, -1)[:, 400:].sum(-1) <= TOKENS / 405).all() for heat in (0.3, 1.0, 5.0))
    # without that care, the trained vectors as rows of a tied head would be chosen
    with torch.no_grad():
        model.lm_head.weight[400:] = model.get_input_embeddings().weight[400:]
    assert (logits(model, read).argmax(-1) >= 400).any()
    config = json.loads((tmp_path / "out/model/generation_config.json").read_text())
    assert config["suppress_tokens"] == [*range(400, 405)]


@pytest.mark.parametrize(("architecture", "kind"), [("llama", "prefix"), ("gemma3", "prompt"), ("gemma3", "prefix")])
def test_the_merge_job_compares_what_is_served_with_peft(architecture: str, kind: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", architecture, dtype=torch.bfloat16)
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<image>"], special_tokens=True)  # without a row in the embedding, as in Gemma 3
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(base)
    rows = write_tiny_examples(tmp_path / "e.jsonl", range(8))
    job = MergeJob(
        base=base, adapter=soft(base, tmp_path / "adapter", kind), examples=rows, labels=LABELS,
        max_new_tokens=6, batch_size=3, out=tmp_path / "out",
    )  # fmt: skip
    facts = merge_and_compare(job)
    parity = facts.parity
    assert facts.kind == kind and parity.passed, parity
    assert parity.same_greedy_share >= 7 / 8 and parity.new_tokens_chosen == 0
    if kind == "prompt":
        assert "tool_use" not in str(load_tokenizer(tmp_path / "out").chat_template)
        config = json.loads((tmp_path / "out/model/generation_config.json").read_text())
        assert config["suppress_tokens"] == list(range(400, 401 + TOKENS))  # also the token that the base cannot read
    if kind == "prefix":  # whoever does not know prefixes fails, and does not get the bare base
        assert parity.mean_kl < 1e-8
        with pytest.raises(FindingsError, match=r"no config\.json"):
            model_folder(tmp_path / "out")


def test_a_soft_prompt_that_was_left_out_is_seen(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "llama")
    adapter = soft(base, tmp_path / "adapter")
    plain_model(base, soft(base, tmp_path / "other", seed=2), tmp_path / "out")
    examples = read_examples(write_tiny_examples(tmp_path / "e.jsonl", range(8)))
    facts = parity(base, adapter, tmp_path / "out", examples, max_new_tokens=6, batch_size=3)
    assert not facts.passed and facts.mean_kl > 0.05
