"""Export: a folder that plain transformers loads, which answers as the trained model does; and never half of one."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.exceptions import Abort, ClickException
from click.testing import CliRunner, Result
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from finetune_pipeline.cli import export as command
from finetune_pipeline.cli.export import export
from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.engine.store import ArtifactStore, ChangedArtifact
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.report.page import fenced
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model
from finetune_pipeline_tests.unit.cli.exported import TASK, add_refusal, make_store
from finetune_pipeline_tests.unit.models.architectures import make_adapter
from finetune_pipeline_tests.unit.models.test_soft_prompts import soft
from finetune_pipeline_tests.unit.tracking.test_registry import register

Run = Callable[..., Result]
VLLM_READS = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p", "max_new_tokens")
QUESTIONS = ["my invoice is wrong", "the app crashes", "how do I add a user"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    base = make_tiny_model(root / "base", dtype="bfloat16")
    (base / "LICENSE").write_text("Do what is right.")
    config = json.loads((base / "generation_config.json").read_text())
    config |= {"do_sample": True, "temperature": 0.7, "top_k": 9}
    config |= {"num_beams": 3, "no_repeat_ngram_size": 1, "min_new_tokens": 5}
    (base / "generation_config.json").write_text(json.dumps(config))
    make_store(root, base, make_adapter(base, root / "adapter", size=0.1))
    return root


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A copy of the project, to be changed at will."""
    return Path(shutil.copytree(trained, tmp_path / "project", symlinks=True))


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return running(project, monkeypatch)


def running(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FINETUNE_HOME", str(project / "home"))
    monkeypatch.setenv("FINETUNE_DATA", str(project / "data"))
    return lambda *arguments: CliRunner().invoke(export, [TASK, *map(str, arguments)], standalone_mode=False)


def store(project: Path) -> ArtifactStore:
    return ArtifactStore(project / "home" / "artifacts")


def answers(model: Any, tokenizer: Any, result: dict[str, Any], **more: Any) -> list[str]:
    """What a user gets who follows export.json; generation settings are the folder's own."""
    texts = []
    for question in QUESTIONS:
        system = {"role": "system", "content": result["prompt"]["system_prompt"]}
        messages = [system, {"role": "user", "content": question}]
        kind = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        prompt = tokenizer.apply_chat_template(messages, **kind)
        new_tokens = model.generate(**prompt, **more)[0, prompt["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new_tokens, skip_special_tokens=True))
    return texts


def test_the_folder_answers_as_the_trained_model_and_says_all(run: Run, project: Path, tmp_path: Path) -> None:
    add_refusal(store(project))
    result = run("--to", tmp_path / "out")
    assert result.return_value == 0, result.output
    assert "version 3" in result.output and "gates said no: beats_baseline" in result.output
    record = json.loads((tmp_path / "out/export.json").read_text())
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    got = answers(model, AutoTokenizer.from_pretrained(tmp_path / "out"), record)
    base: Any = AutoModelForCausalLM.from_pretrained(project / "base", dtype=torch.float32)
    peft_model: Any = PeftModel.from_pretrained(base, project / "adapter").eval()
    peft_model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=2)
    expected = answers(
        peft_model, AutoTokenizer.from_pretrained(project / "base"), record, do_sample=False, max_new_tokens=6
    )
    assert got == expected and any(expected)
    config = model.generation_config
    assert (config.do_sample, config.max_new_tokens, config.eos_token_id) == (False, 6, [2])
    # as vLLM reads it (ModelConfig.get_diff_sampling_param), which does not know do_sample
    assert {n: v for n, v in config.to_diff_dict().items() if n in VLLM_READS} == {
        "temperature": 0.0, "max_new_tokens": 6,
    }  # fmt: skip

    merged = store(project).all_versions(TASK, "merged_model")[-1]
    assert record["format"] == 1 and record["what"] == "model" and record["method"] == "lora"
    assert record["model_version"] == 3
    assert record["prompt"]["control_tokens"] == ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
    assert record["prompt"]["system_prompt"] == SYSTEM and record["labels"] == LABELS
    assert record["prompt"]["chat_template_sha256"] == digest_file(project / "base/chat_template.jinja")
    assert record["generation"] == {
        "do_sample": False, "temperature": 0, "max_new_tokens": 6, "stop_token_ids": [2], "stop_tokens": ["<|im_end|>"],
        "json_schema": None,
    }  # fmt: skip
    assert record["artifacts"]["merged_model"] == merged.version
    assert record["artifacts"]["dataset"] == "0123456789abcdef"
    assert record["artifacts"]["adapter_sha256"] == digest_file(project / "adapter/adapter_model.safetensors")
    assert record["training"]["lora"] == {"r": 4} and record["parity"]["passed"] is True
    assert record["base_model"]["id"] == "base" and record["base_model"]["identity"]["kind"] == "local"
    assert record["evaluation"]["scores"]["accuracy"] == 0.8 and record["evaluation"]["passed"] is False
    assert record["versions"]["torch"] and record["versions"]["finetune_pipeline"]
    on_disk = {p.name for p in (tmp_path / "out").iterdir()}
    assert on_disk == {*record["files"], "export.json", "README.md"} and "LICENSE" in on_disk
    assert all(digest_file(tmp_path / "out" / n) == f["sha256"] for n, f in record["files"].items())
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode & 0o777 == 0o644
        if path.suffix in (".json", ".md", ".jinja"):
            assert str(project) not in path.read_text() and str(tmp_path) not in path.read_text(), path.name

    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "transformers" and card.data.license == "other"
    assert card.data.license_name == "that-of-the-base-model" and card.data.license_link == "LICENSE"
    rendered = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{{text}}<|im_end|>\n<|im_start|>assistant\n"
    assert record["prompt"]["rendered"] == rendered and fenced(rendered) in card.text


def test_the_adapter_alone(run: Run, trained: Path, project: Path, tmp_path: Path) -> None:
    result = run("--to", tmp_path / "out", "--adapter")
    assert result.return_value == 0 and str(trained / "base") in result.output
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["what"] == "adapter" and record["dtype"] == "float32"
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base"
    assert "vllm serve BASE --enable-lora --max-lora-rank 4" in (tmp_path / "out/README.md").read_text()
    model: Any = AutoModelForCausalLM.from_pretrained(project / "base", dtype=torch.float32)
    with_adapter = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    path = store(project).all_versions(TASK, "merged_model")[-1].path("model")
    merged: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(with_adapter(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=0.1, atol=0.1)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"} <= names
    assert "config.json" not in names and "model.safetensors" not in names


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    error = run("--to", out).exception
    assert isinstance(error, FindingsError) and "already exists and is not an empty folder" in str(error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "project"]
    assert "needs the whole model" in str(run("--to", tmp_path / "other", "--for", "ollama", "--adapter").exception)


def test_never_half_a_folder(run: Run, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, alive = (tmp_path / f".out.unfinished-{n}" for n in (2**22 + 1, os.getppid()))
    dead.mkdir(), alive.mkdir()

    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(command, "card_of", stop)
        assert isinstance(run("--to", tmp_path / "out").exception, Abort)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {alive.name, "project"}, "its own folder is gone, and that of a dead export; a live one's stays"
    assert run("--to", tmp_path / "out").return_value == 0
    first = {p.name: digest_file(p) for p in (tmp_path / "out").iterdir()}
    assert run("--to", tmp_path / "again").return_value == 0
    assert first == {p.name: digest_file(p) for p in (tmp_path / "again").iterdir()}


def test_for_ollama_a_modelfile_lies_beside_the_weights(run: Run, tmp_path: Path) -> None:
    result = run("--to", tmp_path / "out", "--for", "ollama")
    assert result.return_value == 0, result.output
    manifest = json.loads((tmp_path / "out/export.json").read_text())
    assert manifest["target"] == "ollama"
    for name in ("model.safetensors", "Modelfile"):
        assert manifest["files"][name]["sha256"] == digest_file(tmp_path / "out" / name)
    text = (tmp_path / "out/Modelfile").read_text()
    assert text.startswith("FROM .\n") and f'SYSTEM """{SYSTEM}"""' in text
    card = (tmp_path / "out/README.md").read_text()
    assert "ollama create demo -f Modelfile" in card and "finetune export demo --verify" in card


def test_what_is_registered_is_exported_however_new_another_folder_is(run: Run, project: Path, tmp_path: Path) -> None:
    from finetune_pipeline.tracking import registry
    from finetune_pipeline.tracking.tracking import Tracking

    artifacts = store(project)
    old = artifacts.all_versions(TASK, "merged_model")[-1]
    copy_database(project / "home/mlflow")
    tracking = Tracking()
    tracking.prepare()
    client = tracking.client()
    adapter = artifacts.all_versions(TASK, "adapter")[-1]
    places = {"adapter": adapter.path("adapter"), "merged": old.folder}
    register(tracking, project, adapter.version, name=TASK, merged_version=old.version, **places)
    newer = Path(shutil.copytree(old.folder, old.folder.with_name("f" * 16)))
    record = json.loads((newer / "artifact.json").read_text())
    (newer / "artifact.json").write_text(json.dumps({**record, "version": "f" * 16}))
    for place, *alias in (["none"], ["candidate", "--alias", "candidate"]):
        assert run("--to", tmp_path / place, *alias).return_value == 0
        manifest = json.loads((tmp_path / place / "export.json").read_text())
        assert (manifest["artifacts"]["merged_model"], manifest["model_version"]) == (old.version, 1)
    assert "demo has no champion" in str(run("--to", tmp_path / "champion", "--alias", "champion").exception)
    client.set_model_version_tag(TASK, "1", registry.FORGOTTEN, "told")
    refused = run("--to", tmp_path / "forgotten")
    assert isinstance(refused.exception, ClickException) and "rows that have been forgotten" in str(refused.exception)
    assert not (tmp_path / "forgotten").exists()


@pytest.mark.parametrize(
    ("step", "name"), [("evaluation_report", "report.json"), ("merged_model", "model/model.safetensors")]
)
def test_a_flipped_byte_is_refused_and_named(run: Run, project: Path, tmp_path: Path, step: str, name: str) -> None:
    add_refusal(store(project))
    path = store(project).all_versions(TASK, step)[-1].path(name)
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    error = run("--to", tmp_path / "out", "--adapter").exception
    assert isinstance(error, ChangedArtifact) and f"{name} has changed" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_soft_prompts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_tiny_model(tmp_path / "base")
    make_store(tmp_path, base, soft(base, tmp_path / "adapter", kind), kind)
    run = running(tmp_path, monkeypatch)
    if kind == "prefix":
        result = run("--to", tmp_path / "out")
        assert isinstance(result.exception, FindingsError) and "--adapter" in str(result.exception)
        assert run("--to", tmp_path / "out", "--adapter").return_value == 0
        assert set(load_file(tmp_path / "out/adapter_model.safetensors")) == {"prompt_embeddings"}
        assert "Load it with PEFT" in (tmp_path / "out/README.md").read_text()
        return
    assert run("--to", tmp_path / "out").return_value == 0
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["prompt"]["soft_tokens"][0] == "<|soft_0|>" and record["prompt"]["prompt_prefix"].startswith(
        "<|soft_0|>"
    )
    assert "5 added tokens" in (tmp_path / "out/README.md").read_text()
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    got = answers(plain, AutoTokenizer.from_pretrained(tmp_path / "out"), record)
    peft: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    # without a cache: with one, PEFT 0.21's generate loses the prompt after the first token
    alone = {"do_sample": False, "max_new_tokens": 6, "use_cache": False}
    assert got == answers(peft, AutoTokenizer.from_pretrained(base), record, **alone) and any(got)
