"""JSON answers decoded under a schema: in form, as likely as the schema allows, and only where the free answer is not."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from finetune_pipeline.data.answer_rules import strict
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.evaluation.correctness import is_valid
from finetune_pipeline.evaluation.predict import baseline, predict
from finetune_pipeline.evaluation.predictions import of_model, read_predictions, restricted_name
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import BaselineJob, KeptAnswers, ModelSet, Perturbed, PredictJob
from finetune_pipeline.models.chat import encode_prompt, load_tokenizer
from finetune_pipeline.models.inference.constrained import Grammar, Restriction
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.spec.json_grammar import UnsupportedSchema
from finetune_pipeline.spec.outputs import JsonOutput
from finetune_pipeline_tests.openai_server import openai_server
from finetune_pipeline_tests.tiny_model import make_tiny_model, tiny_messages, write_tiny_examples


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """The schema of an object that has no other keys."""
    return {
        "type": "object", "properties": properties, "required": list(required), "additionalProperties": False,
    }  # fmt: skip


TAGS = {"type": "array", "items": {"enum": ["new", "old", None]}, "maxItems": 2}
TICKET = closed({"kind": {"enum": ["billing", "bug_report", "how_to"]}, "tags": TAGS}, "kind")
_LINE = {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}]}
_ORDER = closed({"line": {"$ref": "#/$defs/line"}, "paid": {"type": ["boolean", "null"]}}, "paid", "line")
SCHEMAS: dict[str, dict[str, Any]] = {
    "enum and null": closed({"day": {"enum": ["monday", "tuesday", None]}}, "day"),
    "nested": {"$defs": {"line": _LINE}, **closed({"order": _ORDER}, "order")},
    "an order nobody declared": TICKET,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, one that has learned to answer every second ticket in JSON, and tickets."""
    root = tmp_path_factory.mktemp("constrained")
    make_tiny_model(root / "base", seed=3)
    make_tiny_model(root / "learned", seed=3)
    write_tiny_examples(root / "rows.jsonl", range(6))
    write_tiny_examples(root / "train.jsonl", range(10, 30))
    _teach(root / "learned", ['{"kind": "billing"}', "it is billing"])
    return root


def _teach(folder: Path, answers: list[str]) -> None:
    """Ticket after ticket gets one of `answers`, in turn."""
    tokenizer, model = load_tokenizer(folder), load_for_prediction(folder, torch.device("cpu"))
    ids, labels = [], []
    for i in range(6):
        prompt = encode_prompt(tokenizer, tiny_messages(i, answer=False))
        answer = [*tokenizer(answers[i % len(answers)])["input_ids"], tokenizer.eos_token_id]
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    batch = {"input_ids": pad_sequence(ids, batch_first=True), "labels": pad_sequence(labels, True, -100)}
    model.requires_grad_(True).train()
    steps = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        steps.zero_grad()
        model(**batch).loss.backward()
        steps.step()
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any, list[list[int]]]:
    """(random model, its tokenizer, prompts)."""
    tokenizer = load_tokenizer(folder / "base")
    prompts = [encode_prompt(tokenizer, tiny_messages(n, answer=False)) for n in range(6)]
    return load_for_prediction(folder / "base", torch.device("cpu")), tokenizer, prompts


def run(folder: Path, out: Path, model: str, schema: Any, of_set: Any = None, **more: Any) -> tuple[Any, Any, Any]:
    """(facts of the set, measured, rows)."""
    job = PredictJob(
        out=out, examples=folder / "rows.jsonl", labels=[], max_new_tokens=40, batch_size=2,
        sets=[ModelSet(name="base", model=folder / model, restricted=schema, **(of_set or {}))],
        answers=KeptAnswers(file=out / "kept" / "answers.sqlite", limit_mib=8), **more,
    )  # fmt: skip
    facts, measured = predict(job)
    return facts.sets["base"], measured, read_predictions(out / "predictions.parquet")


def restricted(loaded: tuple[Any, Any, list[list[int]]], schema: Any, longest: int, batch_size: int) -> list[Answer]:
    """Answers to all prompts, none of which complies when written freely."""
    model, tokenizer, prompts = loaded
    restriction = Restriction(Grammar(schema, tokenizer), lambda _: False)
    answers = generate_and_score(model, tokenizer, prompts, None, longest, batch_size, restriction=restriction)
    return [answer.restricted for answer in answers if answer.restricted]


def read_alone(answer: Answer) -> Answer:
    """The answer without its log-probabilities, whose last digits depend on the batch."""
    return replace(answer, log_probabilities=[])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_random_model_answers_in_form(loaded: tuple[Any, Any, list[list[int]]], name: str) -> None:
    model, tokenizer, prompts = loaded
    output = JsonOutput(json_schema=SCHEMAS[name])
    free = generate_and_score(model, tokenizer, prompts[:3], None, 60, 3)
    assert not any(is_valid(vars(answer), output) for answer in free)
    restriction = Restriction(Grammar(SCHEMAS[name], tokenizer), lambda answer: is_valid(vars(answer), output))
    answers = generate_and_score(model, tokenizer, prompts, None, 60, 3, restriction=restriction)
    assert [read_alone(replace(answer, restricted=None)) for answer in answers[:3]] == list(map(read_alone, free))
    together = [answer.restricted for answer in answers if answer.restricted]
    assert [a.status for a in together] == ["ok"] * len(prompts), [a.text for a in together]
    assert all(is_valid(vars(answer), output) for answer in together), [a.text for a in together]
    for prompt, answer in zip(prompts[:2], together, strict=False):
        (alone,) = generate_and_score(model, tokenizer, [prompt], None, 60, 1, restriction=restriction)
        assert alone.restricted and read_alone(alone.restricted) == read_alone(answer)
        assert alone.restricted.log_probabilities == pytest.approx(answer.log_probabilities, abs=1e-4)


def test_every_token_is_the_most_likely_of_those_that_are_allowed(loaded: tuple[Any, Any, list[list[int]]]) -> None:
    """`{"type": "boolean"}` allows few texts: the answer is the better beginning of the two, step by step."""
    model, tokenizer, prompts = loaded
    letters = {
        text: {i for i in range(400) if tokenizer.decode([i]) and text.startswith(tokenizer.decode([i]))}
        for text in ("true", "false")
    }
    answers = restricted(loaded, {"type": "boolean"}, 12, 6)
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        best = max(letters["true"] | letters["false"], key=lambda i: float(logits[i]))
        assert answer.new_ids[0] == best and strict(answer.text) is (best in letters["true"])
        shares = logits[sorted(letters["true"] | letters["false"])].double().softmax(0)
        assert math.exp(answer.log_probabilities[0]) == pytest.approx(float(shares.max()), abs=1e-5)
    answers = restricted(loaded, {"type": "string", "minLength": 200}, 9, 3)
    assert {(a.status, a.new_tokens) for a in answers} == {("truncated", 9)}, "a long answer is cut and says so"


def test_control_tokens_stay_out_and_an_end_token_ends_what_is_complete(folder: Path) -> None:
    """A model that wants control tokens most, then `a`, then the end of the text."""
    tokenizer = load_tokenizer(folder / "base")
    tokenizer.add_tokens(["<t>"])  # a mark that the tokenizer does not call special, such as <tool_call>
    answer, ends = Grammar({"type": "string", "maxLength": 3}, tokenizer).begin(), {tokenizer.eos_token_id}
    logits = np.zeros(401, dtype=np.float32)
    for rank, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<t>", "a", '"']):
        logits[tokenizer.convert_tokens_to_ids(token)] = 99.0 - rank
    ids: list[int] = []
    while len(ids) < 80 and not ends & set(ids):
        ids.append(answer.choose(logits, ends)[0])
    assert tokenizer.decode(ids) == '"aaa"<|im_end|>'


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string", "not": {"const": "x"}}, '"not"'),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
        ({"$ref": "#/$defs/nowhere"}, "does not exist"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_told_and_loses_nothing(folder, tmp_path, schema, why) -> None:
    with pytest.raises(UnsupportedSchema, match="decoding cannot be constrained to output.json_schema"):
        Grammar(schema, load_tokenizer(folder / "base"))
    if "$ref" in schema:
        return  # a schema that is none is refused with the task
    facts, _, rows = run(folder, tmp_path, "base", schema)
    assert facts.restricted and why in facts.restricted.why
    assert (facts.restricted.asked, facts.restricted.available, facts.restricted.statuses) == (0, False, {})
    assert [r["model"] for r in rows] == ["base"] * 6


def test_valid_free_answers_stay_and_only_the_others_are_asked_again(folder: Path, tmp_path: Path) -> None:
    facts, measured, rows = run(folder, tmp_path, "learned", TICKET)
    free, restricted = of_model(rows, "base"), of_model(rows, restricted_name("base"))
    assert [r["text"] for r in free] == ['{"kind": "billing"}', "it is billing"] * 3
    assert [{**r, "model": "base"} for r in restricted[::2]] == free[::2]
    output = JsonOutput(json_schema=TICKET)
    assert all(is_valid(r, output) and r["gold"] == f["gold"] for r, f in zip(restricted, free, strict=True))
    assert facts.statuses == facts.restricted.statuses == {"ok": 6, "truncated": 0, "empty": 0, "error": 0}
    assert (facts.restricted.asked, facts.restricted.available, facts.restricted.why) == (3, True, "")
    assert measured["answers"] == {"known": 0, "asked": 6}
    second_run = run(folder, tmp_path, "learned", TICKET)
    assert second_run[1]["answers"] == {"known": 6, "asked": 0} and second_run[2] == rows


def test_a_model_that_is_served_under_the_schema_has_no_other_answers(folder: Path, tmp_path: Path) -> None:
    asked = {"constrained": True}
    facts, _, rows = run(folder, tmp_path, "learned", TICKET, of_set=asked)
    assert {row["model"] for row in rows} == {"base"} and facts.restricted is None
    _, _, both = run(folder, tmp_path, "learned", TICKET)
    assert [r["text"] for r in rows] == [r["text"] for r in of_model(both, restricted_name("base"))]
    perturbed = ModelSet(name="candidate", model=folder, restricted=TICKET, **asked)
    assert perturbed.on_perturbed(Perturbed(kind="typos", rows=2, seed=0)).constrained
    assert perturbed.on_file("production", folder).restricted == TICKET
    with pytest.raises(
        JobError, match=r"constrained to output.json_schema[^$]*leave evaluation.constrained_decoding out"
    ):
        run(folder, tmp_path, "learned", {"type": "string", "not": {"const": "x"}}, of_set=asked)


def test_an_endpoint_is_sent_the_schema_of_a_model_that_is_served_under_it(folder: Path, tmp_path: Path) -> None:
    with openai_server(lambda body, seen: '{"kind": "how_to"}') as server:
        endpoint = {"url": server.url, "base": "small", "candidate": "small", "concurrency": 2, "tries": 2}
        asked = {"served": "small", "constrained": True}
        _, _, rows = run(folder, tmp_path, "base", TICKET, endpoint=endpoint, of_set=asked)
        sent = [request["response_format"] for request in server.requests]
    described = {"name": "answer", "strict": True, "schema": TICKET}
    assert sent == [{"type": "json_schema", "json_schema": described}] * 6
    assert [row["text"] for row in rows] == ['{"kind": "how_to"}'] * 6


def test_an_answer_under_another_schema_or_order_of_keys_is_another_answer(folder: Path, tmp_path: Path) -> None:
    def known(schema: dict[str, Any]) -> int:
        return int(run(folder, tmp_path, "base", schema)[1]["answers"]["known"])

    two = {"a": {"type": "null"}, "b": {"type": "boolean"}}
    schema = closed(two, "a", "b")
    assert known(schema) == 0 and known(schema) == 6
    turned = {**schema, "properties": dict(reversed(two.items()))}
    assert known(turned) == known({**turned, "required": ["a"]}) == 0


def test_every_prompt_of_a_baseline_is_restricted_and_labels_never_are(folder: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"base": folder / "base", "max_new_tokens": 60, "batch_size": 3}
    common |= {"examples": folder / "rows.jsonl", "train": folder / "train.jsonl", "shots": [0, 2], "seed": 1}
    facts, _ = baseline(BaselineJob(**common, labels=[], restricted=TICKET, out=tmp_path / "json"))
    rows = read_predictions(tmp_path / "json" / "predictions.parquet")
    for name in ("zero_shot", "2_shot"):
        assert facts.prompts[name].restricted.available
        assert all(is_valid(r, JsonOutput(json_schema=TICKET)) for r in of_model(rows, restricted_name(name)))
    common["max_new_tokens"] = 4
    facts, _ = baseline(BaselineJob(**common, labels=["billing", "how_to"], out=tmp_path / "labels"))
    rows = read_predictions(tmp_path / "labels" / "predictions.parquet")
    assert {r["model"] for r in rows} == {"zero_shot", "2_shot"} and facts.prompts["zero_shot"].restricted is None


@pytest.mark.parametrize(("said", "available"), [("it is billing", False), ('{"kind": "billing"}', True)])
def test_an_endpoint_is_asked_for_free_answers_alone(folder: Path, tmp_path: Path, said: str, available: bool) -> None:
    """Where all of them are in form already, they are the restricted ones."""
    first = read_examples(folder / "rows.jsonl")[0].user_text

    def mind(body: dict[str, Any], seen: int) -> str:
        return said if body["messages"][-1]["content"] == first else json.dumps({"kind": "how_to"})

    with openai_server(mind) as server:
        endpoint = {"url": server.url, "base": "small", "candidate": "small", "concurrency": 2, "tries": 2}
        facts, _, rows = run(folder, tmp_path, "base", TICKET, endpoint=endpoint, of_set={"served": "small"})
        assert len(server.requests) == 6
    assert facts.restricted.available is available and len(of_model(rows, "base_restricted")) == 6 * available
    assert facts.restricted.why == "" if available else "endpoint" in facts.restricted.why
