"""Exported GGUF files through llama.cpp: the right one of two passes, and the fault of the other is found and named."""

import json
import random
import shutil
from pathlib import Path

import pytest

from finetune_pipeline.evaluation import llama_cpp
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.llama_cpp import GgufProof, prove, require_llama_cpp
from finetune_pipeline.evaluation.verification import JudgedRow
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.models.gguf import write_gguf
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline_tests.shared import copy_skilled_model
from finetune_pipeline_tests.skilled_model import LABELS, SYSTEM, exchange, question

LONGEST = 5
STOP = "[STOP]"
"""In place of the mark of the turn's end, which llama.cpp knows by its name whatever the file says."""


@pytest.fixture(scope="module")
def skilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skilled")
    for name in ("right", "other"):
        copy_skilled_model(folder / name, right=name == "right")
        for path in (folder / name).iterdir():
            if path.suffix in (".json", ".jinja"):
                path.write_text(path.read_text().replace("<|im_end|>", STOP))
    return folder


@pytest.fixture(scope="module")
def judged(skilled: Path) -> list[JudgedRow]:
    rng, answerer = random.Random(11), Answerer(skilled / "right")
    labels = [LABELS[i % 2] for i in range(40)]
    turns = [exchange(SYSTEM, question(rng, label), "")[0] for label in labels]
    answers = answerer.answers([encode_prompt(answerer.tokenizer, t) for t in turns], None, LONGEST, 8)
    assert {a.text for a in answers} == set(LABELS) and all(a.status == "ok" for a in answers)
    return [JudgedRow(t, a, label) for t, a, label in zip(turns, answers, labels, strict=True)]


def proof(f16: Path, q8: Path, judged: list[JudgedRow], folder: Path, stop: int = 2) -> GgufProof:
    write_gguf(f16, folder / "f16.gguf", "f16", name="m", stop_ids=[stop])
    write_gguf(q8, folder / "q8.gguf", "q8_0", name="m", stop_ids=[2])
    output, limits = LabelsOutput(kind="labels", labels=LABELS), {"context": 512, "required": 0.9}
    files, marks = (folder / "f16.gguf", folder / "q8.gguf"), [STOP, "<|im_start|>"]
    return prove(*files, judged, output, LONGEST, control_tokens=marks, **limits)


def test_other_weights_in_eight_bits_are_found_by_their_score(skilled, judged, tmp_path) -> None:
    proven = proof(skilled / "right", skilled / "other", judged, tmp_path)
    assert proven.exact.passed and proven.exact.same >= 39 and not proven.quantized.passed and not proven.passed
    assert proven.quantized.gain < -0.2 and json.loads(json.dumps(proven.to_dict()))["q8_0"]["passed"] is False


def test_a_wrong_template_is_found(skilled: Path, judged: list[JudgedRow], tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(skilled / "right", tmp_path / "wrong"))
    template = wrong / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "> "))
    proven = proof(wrong, skilled / "right", judged, tmp_path)
    assert not proven.passed and "the chat template is lost" in str(proven.exact.cause)
    assert proven.quantized.passed and proven.quantized.rows == 40 and abs(proven.quantized.gain) <= 0.05


def test_without_llama_cpp_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_llama_cpp()
    monkeypatch.setattr(llama_cpp, "PACKAGE", "no-such-package")
    with pytest.raises(FindingsError, match=r"finetune-pipeline\[gguf\]"):
        require_llama_cpp()
