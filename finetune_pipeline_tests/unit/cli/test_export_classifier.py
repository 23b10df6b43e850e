"""A classifier behind ``/classify``, exported, and verified: the same probabilities everywhere, and each difference is named."""

import io
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.class_verification import verify_classes
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.verification import JudgedRow, Verification
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.models.export import export_adapter, export_model
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.manifest import Manifest, Source
from finetune_pipeline.models.merging import merge
from finetune_pipeline.report.model_card import card_of
from finetune_pipeline.serving.classify import parse_classify
from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.serving.requests import BadRequest
from finetune_pipeline.serving.server import chat_app
from finetune_pipeline.serving.service import LogWriter, Service
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model, tiny_messages
from finetune_pipeline_tests.unit.cli.exported import TASK, make_store
from finetune_pipeline_tests.unit.models.test_classifier import make_classifier_adapter

ROWS = 30


@dataclass
class Made:
    """A store with a classifier, its task and what it is judged by."""

    root: Path
    source: Source
    task: Task
    judged: list[JudgedRow]

    @property
    def model(self) -> Path:
        return model_folder(self.source.merged.folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("exported")
    base = make_tiny_model(root / "base")
    store = make_store(root, base, make_classifier_adapter(base, root / "adapter"), "classifier")
    merged, adapter = (store.all_versions(TASK, step)[-1] for step in ("merged_model", "adapter"))
    base_model = store.all_versions("shared", "base_model")[-1]
    task = load_task(root / "data" / TASK)
    source = Source(TASK, task.spec.description, task.spec.card, merged, adapter, base_model)
    model = Answerer(model_folder(merged.folder))
    turns = [tiny_messages(i, answer=False) for i in range(ROWS)]
    numbers = [[[number] for number in range(len(LABELS))]] * ROWS
    answers = model.answers([encode_prompt(model.tokenizer, t) for t in turns], numbers, 6, 8)
    assert len({answer.text for answer in answers}) > 1
    return Made(root, source, task, [JudgedRow(t, a) for t, a in zip(turns, answers, strict=True)])


def run_card(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, base: Path | None = None) -> dict[str, float]:
    """The output of the Python example of a folder's README.md for a user's text."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    with redirect_stdout(io.StringIO()) as output:
        exec(code.replace('"..."', repr(text)).replace('"BASE"', repr(str(base))), {})
    result: dict[str, float] = json.loads(output.getvalue().splitlines()[-1].replace("'", '"'))
    return result


@pytest.mark.parametrize("what", ["model", "adapter"])
def test_the_example_of_an_exported_folder_gives_the_judged_probabilities(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    export = export_adapter if what == "adapter" else export_model
    manifest = export(made.source, tmp_path / "out", lambda m: card_of(None, m))
    assert (manifest.kind, manifest.method, manifest.labels) == ("classifier", "classifier", LABELS)
    assert Manifest.read(tmp_path / "out" / "export.json") == manifest
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "gives each label a probability" in card
    assert "generate(" not in card and "Decode greedily" not in card
    for row in made.judged[:4]:
        shares = run_card(tmp_path / "out", row.messages[-1]["content"], monkeypatch, made.root / "base")
        assert list(shares) == LABELS
        assert list(shares.values()) == pytest.approx([math.exp(s) for s in row.answer.label_scores], abs=1e-3)


def test_the_card_for_vllm_asks_classify_and_servers_of_texts_are_refused(made: Made, tmp_path: Path) -> None:
    export_model(made.source, tmp_path / "out", lambda m: card_of(None, m), "vllm")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"vllm serve . --runner pooling --served-model-name {TASK} --dtype float32" in card
    assert '"add_generation_prompt": True' in card and "127.0.0.1:8000/classify" in card
    for target in ("ollama", "tgi"):
        with pytest.raises(
            FindingsError, match=rf"writes no text, and {target} serves only(.|\n)*--for vllm or transformers"
        ):
            export_model(made.source, tmp_path / target, lambda m: card_of(None, m), target)
        assert not (tmp_path / target).exists()


@contextmanager
def serving(made: Made, logs: Path, model: Path | None = None) -> Iterator[tuple[Service, LocalServer]]:
    champion = ServedModel(f"{TASK}:1", model or made.model, None, SYSTEM, 6)
    service = Service(made.task, lambda: champion, LogWriter(logs))
    with LocalServer(chat_app(service)) as server:
        yield service, server


def test_the_server_answers_chats_with_the_label_and_classify_with_probabilities(made: Made, tmp_path: Path) -> None:
    row, gone = made.judged[0], Event()
    body = {"messages": list(row.messages), "add_generation_prompt": True, "user": "u1"}
    with serving(made, tmp_path / "logs") as (service, _):
        response, (_, completion) = service.classify(body, gone), service.chat({"messages": row.messages}, gone)
    data = response["data"][0]
    assert data.pop("probs") == pytest.approx([math.exp(s) for s in row.answer.label_scores], rel=1e-4)
    assert data == {"index": 0, "label": row.answer.text, "num_classes": 3} and response["object"] == "list"
    assert response["usage"]["prompt_tokens"] == row.answer.prompt_tokens == completion["usage"]["prompt_tokens"]
    assert completion["choices"][0]["message"]["content"] == row.answer.text
    assert completion["choices"][0]["finish_reason"] == "stop" and completion["usage"]["completion_tokens"] == 0
    logged = [json.loads(line) for line in (tmp_path / "logs" / "served.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["output"]) for entry in logged] == [
        (response["id"], row.answer.text),
        (completion["id"], row.answer.text),
    ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": "my invoice is wrong", "messages": None}, "input"),
        ({"add_generation_prompt": None}, "add_generation_prompt"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"use_activation": False}, "use_activation"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"model": "another"}, "model"),
        ({"messages": [{"role": "system", "content": "another"}, {"role": "user", "content": "x"}]}, "messages[0]"),
    ],
)
def test_requests_whose_answer_would_not_be_the_judged_one_are_refused(
    made: Made, change: dict[str, Any], param: str
) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": True, **change}
    with pytest.raises(BadRequest) as error:
        parse_classify({key: value for key, value in body.items() if value is not None}, SYSTEM, [f"{TASK}:1", TASK])
    assert error.value.param == param


def verified(made: Made, server: LocalServer, classes: list[str] | None = None, **body: Any) -> Verification:
    endpoint = Endpoint(f"{server.url}/v1", f"{TASK}:1", body={"store": False, **body})
    return verify_classes(endpoint, made.judged, classes or LABELS, required=0.9)


def test_verification_passes_the_judged_classifier_and_names_what_is_wrong(made: Made, tmp_path: Path) -> None:
    other = make_classifier_adapter(made.root / "base", tmp_path / "adapter", 0.3)
    merge(made.root / "base", other, tmp_path / "other")
    with serving(made, tmp_path / "logs") as (_, server):
        right = verified(made, server)
        renamed = verified(made, server, ["a", *LABELS[1:]])
        with pytest.raises(EndpointError, match="classifies nothing: .*add_generation_prompt"):
            verified(made, server, add_generation_prompt=False)
    assert right.passed and right.cause is None and (right.same, right.failed) == (ROWS, 0)
    assert [q.name for q in right.questions] == ["prompt", "classes", "answers", "shares"]
    assert not (tmp_path / "logs" / "served.jsonl").exists()
    assert [q.name for q in renamed.questions if not q.passed] == ["classes", "shares"]
    assert renamed.cause and "other labels; it answers 'billing'" in renamed.cause
    with serving(made, tmp_path / "logs", model_folder(tmp_path / "other")) as (_, server):
        wrong = verified(made, server)
    assert not wrong.passed and wrong.cause and "another model, or other weights" in wrong.cause
    assert [q.name for q in wrong.questions if q.passed] == ["prompt", "classes"]


def test_a_model_that_writes_its_answers_has_no_classify(made: Made, tmp_path: Path) -> None:
    refused = pytest.raises(EndpointError, match="is no classifier: ask /v1/chat/completions")
    with serving(made, tmp_path / "logs", made.root / "base") as (_, server), refused:
        verified(made, server)
