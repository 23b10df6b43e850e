"""``finetune export --verify``: a real tiny model behind real servers, one right and the others wrong in one way each."""

import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
import yaml

from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.evaluation.verification import (
    JudgedRow,
    Verification,
    _system_note,
    required_share,
    rows_needed,
    verify,
)
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.serving.server import chat_app
from finetune_pipeline.serving.service import LogWriter, Service
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline_tests.openai_server import completion, openai_server
from finetune_pipeline_tests.shared import copy_database, copy_skilled_model
from finetune_pipeline_tests.skilled_model import LABELS, SYSTEM, exchange, question
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.cli.exported import TASK, make_store
from finetune_pipeline_tests.unit.models.architectures import make_adapter

LONGEST = 5
CONTROL = ["<|im_end|>", "<|im_start|>"]
ROWS = 30
LOCK = Lock()


@pytest.fixture(scope="module")
def skilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skilled")
    copy_skilled_model(folder / "right")
    copy_skilled_model(folder / "other", right=False)
    return folder


@pytest.fixture(scope="module")
def judged(skilled: Path) -> list[JudgedRow]:
    rng, model = random.Random(11), loaded(skilled / "right")
    turns = [exchange(SYSTEM, question(rng, LABELS[i % 2]), "")[0] for i in range(ROWS)]
    answers = model.answers([encode_prompt(model.tokenizer, t) for t in turns], None, LONGEST, 8)
    assert {a.text for a in answers} == set(LABELS) and all(a.status == "ok" for a in answers)
    return [JudgedRow(t, a) for t, a in zip(turns, answers, strict=True)]


@cache
def loaded(folder: Path) -> Answerer:
    return Answerer(folder)


@cache
def next_token(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """The logits after these tokens, kept: every server is asked the same."""
    with torch.no_grad():
        return loaded(folder).model(torch.tensor([ids])).logits[0, -1]


@dataclass
class Mind:
    """How a server answers with the tiny model; each field is one way to be wrong."""

    folder: Path
    template: bool = True
    stop: bool = True
    skip: bool = True
    temperature: float = 0.0
    default_temperature: float = 0.0
    system: str | None = None
    usage: bool = True
    fails: int = 0
    sharpened: float = 1.0
    """Factor of the logits from which the reported probabilities are made."""
    scores: bool = True
    ends: bool = False
    """Whether they include the token that ends the turn."""

    def __post_init__(self) -> None:
        self.tokenizer, self.random = loaded(self.folder).tokenizer, torch.Generator().manual_seed(1)

    def __call__(self, body: dict[str, Any], seen: int) -> Any:
        turns = body["messages"]
        if self.fails and sum(map(ord, turns[-1]["content"])) % self.fails == 0:
            return 500, {}, b"broken"
        if self.system is not None:
            turns = [{"role": "system", "content": self.system}, *(t for t in turns if t["role"] != "system")]
        plain = "\n".join(f"{t['role']}: {t['content']}" for t in turns) + "\nassistant:"
        prompt = encode_prompt(self.tokenizer, turns) if self.template else self.tokenizer(plain)["input_ids"]
        temperature = self.temperature or (0 if "temperature" in body else self.default_temperature)
        new: list[int] = []
        logs: list[float] = []
        with LOCK:
            while len(new) < body["max_tokens"]:
                logits = next_token(self.folder, (*prompt, *new))
                chances = torch.softmax(logits / temperature, -1) if temperature else None
                drawn = logits.argmax() if chances is None else torch.multinomial(chances, 1, generator=self.random)
                new.append(int(drawn))
                logs.append(float(torch.log_softmax(logits * self.sharpened, -1)[drawn]))
                if self.stop and new[-1] == self.tokenizer.eos_token_id:
                    break
        ended = self.stop and new[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(new, skip_special_tokens=self.skip)
        reply = completion(text, "stop" if ended else "length", (len(prompt), len(new)) if self.usage else None)
        if body.get("logprobs") and self.scores:
            shown = list(zip(new, logs, strict=True))[: None if self.ends or not ended else -1]
            entries = [{"token": self.tokenizer.decode([token]), "logprob": log} for token, log in shown]
            reply["choices"][0]["logprobs"] = {"content": entries}
        return reply


def ask(mind: Mind, judged: list[JudgedRow], promised: bool = False) -> Verification:
    with openai_server(mind) as server:
        endpoint, required = Endpoint(server.url, "m"), required_share(0.9, 1.0)
        return verify(endpoint, judged, LONGEST, control_tokens=CONTROL, required=required, promised=promised)


def failed(result: Verification) -> set[str]:
    return {question.name for question in result.questions if not question.passed}


def test_finetune_serve_is_the_model_that_was_judged(skilled: Path, judged: list[JudgedRow], tmp_path: Path) -> None:
    spec = {"name": "colours", "description": "d", "system_prompt": SYSTEM}
    folder = tmp_path / "colours"
    folder.mkdir()
    (folder / "task.yaml").write_text(yaml.safe_dump({**spec, "output": {"kind": "labels", "labels": LABELS}}))
    champion = ServedModel("colours:1", skilled / "right", None, SYSTEM, LONGEST)
    service = Service(load_task(folder), lambda: champion, LogWriter(folder / "logs"))
    with LocalServer(chat_app(service)) as server:
        endpoint = Endpoint(f"{server.url}/v1", "colours")
        result = verify(endpoint, judged, LONGEST, control_tokens=CONTROL, required=0.9, promised=True)
    assert (result.passed, result.same, result.cause) == (True, ROWS, None)
    assert result.questions[-1].message.startswith("probabilities of 30 answers differ by 0.0000 on average")
    assert result.notes == ["It adds the system prompt itself if a client omits it."]


def test_a_simple_model_in_service_is_told_from_another_by_its_answers_alone(tmp_path: Path) -> None:
    spec = {
        "name": "colours",
        "description": "d",
        "system_prompt": SYSTEM,
        "output": {"kind": "labels", "labels": LABELS},
    }
    (tmp_path / "colours").mkdir()
    (tmp_path / "colours" / "task.yaml").write_text(yaml.safe_dump(spec))
    texts = [f"{'fire' if i % 2 else 'water'} number {i}" for i in range(40)]
    right = ["red" if i % 2 else "blue" for i in range(40)]
    fitted = fit_simple_models(texts, right, LabelsOutput(labels=LABELS))["nearest"]
    fitted.save(tmp_path / "nearest")
    champion = ServedSimple("colours:1", tmp_path / "nearest", SYSTEM)
    service = Service(load_task(tmp_path / "colours"), lambda: champion, LogWriter(tmp_path / "logs"))
    rows = [
        JudgedRow([{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}], Answer(answer))
        for text, answer in zip(texts, fitted.predict(texts), strict=True)
    ]
    others = [replace(row, answer=Answer("blue")) for row in rows]
    with LocalServer(chat_app(service)) as server:
        endpoint = Endpoint(f"{server.url}/v1", "colours")
        same, other = (verify(endpoint, judged, LONGEST, required=0.9) for judged in (rows, others))
    assert (same.passed, same.same, same.cause, same.notes) == (True, 40, None, [])
    assert "prompt" not in {question.name for question in same.questions}, "it reads no tokens"
    assert not other.passed and other.cause and "another model" in other.cause


@pytest.mark.parametrize("ends", [False, True])
def test_another_engine_with_the_same_probabilities_is_as_sure(
    skilled: Path, judged: list[JudgedRow], ends: bool
) -> None:
    result = ask(Mind(skilled / "right", ends=ends), judged, promised=True)
    assert result.passed and result.questions[-1].name == "probabilities"
    assert "of 30 answers differ by 0.0000 on average" in result.questions[-1].message


def test_other_probabilities_of_the_same_answers_fail_where_an_error_is_promised(
    skilled: Path, judged: list[JudgedRow]
) -> None:
    flattened = Mind(skilled / "right", sharpened=0.05)
    assert ask(flattened, judged).passed, "nothing is promised"
    result = ask(flattened, judged, promised=True)
    assert (
        failed(result) == {"probabilities"} and result.cause and "the certified threshold does not hold" in result.cause
    )
    silent = ask(Mind(skilled / "right", scores=False), judged, promised=True)
    assert failed(silent) == {"probabilities"} and "No answer has log-probabilities" in silent.questions[-1].message
    other = ask(Mind(skilled / "other"), judged, promised=True)
    assert other.cause and "another model" in other.cause


def test_a_failed_request_makes_the_system_prompt_no_duty() -> None:
    answers = [Answer("a", prompt_tokens=9), Answer("b", prompt_tokens=8)]
    rows, failed_answer = [JudgedRow([], answer) for answer in answers], Answer(status="error", error="timeout")
    assert _system_note(rows, answers, [answers[0], failed_answer]).startswith("It adds the system prompt itself")
    assert _system_note(rows, answers, [Answer("c", prompt_tokens=2), failed_answer]).endswith("1 of 1 answers change.")
    assert _system_note(rows, answers, [failed_answer] * 2) == "Without the system prompt it answers nothing: timeout."


def test_a_server_without_defaults_says_what_clients_must_send(skilled: Path, judged: list[JudgedRow]) -> None:
    result = ask(Mind(skilled / "right", default_temperature=30.0), judged)
    assert result.passed and result.cause is None
    assert result.notes[0].startswith("Clients must send the system prompt")
    assert result.notes[1].startswith("Without temperature 0 in the request it samples")


@pytest.mark.parametrize(
    ("model", "wrong", "questions", "cause"),
    [("other", {}, {"answers"}, "another model, or other weights"),
        ("right", {"template": False}, {"prompt"}, "the chat template is lost"),
        ("right", {"system": "Say the last one, please."}, {"prompt"}, "the system prompt is missing"),
        ("right", {"stop": False}, {"stop"}, "the stop token is missing"),
        ("right", {"stop": False, "skip": False}, {"stop", "answers"}, "the stop token is missing"),
        ("right", {"temperature": 30.0}, {"greedy", "answers"}, "sampling is on"),
        ("right", {"usage": False}, {"prompt"}, "the server reports no usage.prompt_tokens"),
        ("right", {"fails": 5}, {"answers"}, "rows could not be asked: refused: 500")],
)  # fmt: skip
def test_a_wrong_server_is_told_with_its_cause(
    skilled: Path, judged: list[JudgedRow], model: str, wrong: dict[str, Any], questions: set[str], cause: str
) -> None:
    result = ask(Mind(skilled / model, **wrong), judged)
    assert not result.passed and questions <= failed(result) and result.cause and cause in result.cause


def test_few_rows_prove_nothing_and_no_answer_is_an_error(skilled: Path, judged: list[JudgedRow]) -> None:
    mind = Mind(skilled / "right")
    few = ask(mind, judged[: rows_needed(0.9) - 1])
    assert failed(few) == {"answers"} and few.same == few.rows == 28
    assert few.cause == "28 rows are too few: 29 equal answers are the least that shows a share of 0.90"
    one_off = [replace(judged[0], answer=replace(judged[0].answer, text="green")), *judged[1:29]]
    assert failed(ask(mind, one_off)) == {"answers"}, "28 of 29 are not enough: the bound decides, not the share"
    with pytest.raises(EndpointError, match="refused: 500"):
        ask(Mind(skilled / "right", fails=1), judged)


def test_the_command_takes_the_model_and_rows_of_the_store(tmp_path: Path, finetune: Any) -> None:
    copy_database(tmp_path / "home" / "mlflow")
    base = make_tiny_model(tmp_path / "base")
    store = make_store(tmp_path, base, make_adapter(base, tmp_path / "adapter", size=0.1))
    merged = store.all_versions(TASK, "merged_model")[-1]
    task_file = tmp_path / "data" / TASK / "task.yaml"
    task_file.write_text(f"{task_file.read_text()}automation: {{max_error: 0.05}}\n")
    results = []
    for folder in (model_folder(merged.folder), base):
        with openai_server(Mind(folder)) as server:
            server.models = lambda: [TASK, "another"]
            result = finetune("export", TASK, "--verify", server.url, "--json")
            assert {(request["model"], request["store"]) for request in server.requests} == {(TASK, False)}
            results.append((result.returncode, result.json))
    (code, right), (other, wrong) = results
    assert (code, right["passed"], right["rows"], right["same"]) == (0, True, 30, 30)
    assert "probabilities" in {question["name"] for question in right["questions"]}
    assert right["merged_model"] == merged.version
    assert (other, wrong["passed"]) == (2, False) and wrong["cause"].startswith("another model")
    result = finetune("export", TASK, "--verify", "http://127.0.0.1:9/v1")
    assert result.returncode == 1 and "does not list its models" in result.stderr
    for wrong in (["--verify", "http://127.0.0.1:9/v1", "--simple"], [], ["--to", tmp_path / "out", "--rows", "9"]):
        result = finetune("export", TASK, *wrong)
        assert result.returncode == 1 and "Usage: finetune export" in result.stderr and "--verify" in result.stderr
