"""The baseline and predict actions: shots, sets, and a predictions table with nothing missing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.data.perturbations import KINDS
from finetune_pipeline.evaluation.predict import baseline, encode_labels, predict
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.probabilities import field_table
from finetune_pipeline.evaluation.prompts import shots_as_turns
from finetune_pipeline.jobs import BaselineJob, ModelSet, Perturbed, PredictJob, Prompt
from finetune_pipeline.models.chat import encode_answer, encode_example, encode_prompt, load_tokenizer
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.models.test_chat import TOOL_TEMPLATE

TURN = [{"role": "user", "content": "weather?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predict")
    make_tiny_model(root / "base")
    make_tiny_model(root / "other", seed=9)
    write_tiny_examples(root / "train.jsonl", range(30))
    write_tiny_examples(root / "validation.jsonl", range(30, 37))
    return root


def predicted(folder: Path, out: Path, sets: list[Any], **more: Any) -> tuple[Any, list[dict[str, Any]]]:
    settings = {"examples": folder / "validation.jsonl", "labels": LABELS, "max_new_tokens": 4, "batch_size": 3, **more}
    facts, _ = predict(PredictJob(sets=sets, out=out, **settings))
    return facts, read_predictions(out / "predictions.parquet")


def test_baselines(folder: Path, tmp_path: Path) -> None:
    job = BaselineJob(
        base=folder / "base", train=folder / "train.jsonl", shots=[0, 3], seed=1, out=tmp_path,
        examples=folder / "validation.jsonl", labels=LABELS, max_new_tokens=4, batch_size=3,
    )  # fmt: skip
    facts, measured = baseline(job)
    rows = read_predictions(tmp_path / "predictions.parquet")
    ids = [e.id for e in read_examples(folder / "validation.jsonl")]
    assert [(r["model"], r["example_id"]) for r in rows] == [(name, i) for name in ("zero_shot", "3_shot") for i in ids]
    assert all(len(r["label_scores"]) == len(LABELS) and r["gold"] in LABELS for r in rows)
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    train = {e.id: e for e in read_examples(folder / "train.jsonl")}
    chosen = [train[i] for i in prompts["3_shot"]["ids"]]
    assert {e.label for e in chosen} == set(LABELS) and not {e.id for e in chosen} & {*ids}
    assert prompts["3_shot"]["turns"] == shots_as_turns(chosen) and len(prompts["3_shot"]["turns"]) == 6
    zero, three = (facts.prompts[name] for name in ("zero_shot", "3_shot"))
    assert zero.ids == [] and three.shots == 3
    assert three.mean_prompt_tokens > zero.mean_prompt_tokens + 20
    assert three.shared_prefix_tokens > zero.shared_prefix_tokens
    assert sum(zero.statuses.values()) == facts.rows == 7
    assert list(measured["seconds_by_set"]) == ["zero_shot", "3_shot"]


def test_several_models_in_one_job_and_a_prefix_beside_the_base_it_stands_in_front_of(folder, tmp_path) -> None:
    from finetune_pipeline_tests.unit.models.architectures import logits, with_adapter
    from finetune_pipeline_tests.unit.models.test_soft_prompts import soft

    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "billing"}]
    prefix = soft(folder / "base", tmp_path / "prefix", "prefix", size=1.0)
    sets = [
        ModelSet(name="base", model=folder / "base"),
        ModelSet(name="fronted", model=folder / "base", adapter=prefix),
        ModelSet(name="candidate", model=folder / "other"),
        ModelSet(name="shown", model=folder / "base", prompt=Prompt(turns=turns)),
        ModelSet(name="champion", model=folder / "base"),
    ]
    facts, rows = predicted(folder, tmp_path, sets)
    assert list(facts.sets) == ["base", "fronted", "candidate", "shown", "champion"] and len(rows) == 5 * 7
    by = {name: of_model(rows, name) for name in facts.sets}
    answers = {name: [(r["text"], r["label_scores"]) for r in model_rows] for name, model_rows in by.items()}
    assert answers["base"] == answers["champion"] and len({str(answer) for answer in answers.values()}) == 4
    assert by["shown"][0]["prompt_tokens"] > by["base"][0]["prompt_tokens"]
    # the label scores against PEFT's own forward, a label at a time
    tokenizer, peft = load_tokenizer(folder / "base"), with_adapter(folder / "base", prefix)
    example = read_examples(folder / "validation.jsonl")[0]
    prompt = encode_prompt(tokenizer, example.prompt_messages)
    for label, score in zip(LABELS, by["fronted"][0]["label_scores"], strict=True):
        ids = encode_answer(tokenizer, example.prompt_messages, label)
        logprobs = torch.log_softmax(logits(peft, torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1], -1)
        assert logprobs.gather(1, torch.tensor(ids)[:, None]).sum().item() == pytest.approx(score, abs=1e-3)


def test_perturbed_rows_are_sets_of_their_own_under_the_same_ids(folder: Path, tmp_path: Path) -> None:
    candidate_set = ModelSet(name="candidate", model=folder / "base")
    sets = [candidate_set, *(candidate_set.on_perturbed(Perturbed(kind=kind, rows=5, seed=0)) for kind in KINDS)]
    facts, rows = predicted(folder, tmp_path, sets)
    gold = {r["example_id"]: r["gold"] for r in of_model(rows, "candidate")}
    for kind in KINDS:
        perturbed_rows = of_model(rows, f"candidate:{kind}")
        assert len(perturbed_rows) == facts.sets[f"candidate:{kind}"].rows == 5
        assert all(r["gold"] == gold[r["example_id"]] and r["label_scores"] == [] for r in perturbed_rows)
    mean = {name.partition(":")[2]: set_facts.mean_prompt_tokens for name, set_facts in facts.sets.items()}
    assert mean["courtesy"] > mean[""] + 10
    assert mean["no_system"] != mean[""], "the template puts its own in its place"
    # free text has no label scores, and a limit takes the first ids
    _, rows = predicted(folder, tmp_path, [candidate_set], limit=4, labels=[])
    ids = sorted(e.id for e in read_examples(folder / "validation.jsonl"))[:4]
    assert sorted(r["example_id"] for r in rows if r["label_scores"] == []) == ids


def test_labels_that_differ_with_the_prompt_are_encoded_behind_each(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "base")
    # a template that ends the generation prompt with the question's last letter: the label's first token merges with it
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ loop.previtem['content'][-1] + m['content'] "
        "+ '<|im_end|>' }}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    prompts = [[{"role": "user", "content": letter}] for letter in "ab"]
    first, second = encode_labels(tokenizer, prompts, ["billing", "how_to"])
    assert first != second
    assert second == [encode_answer(tokenizer, prompts[1], label) for label in ["billing", "how_to"]]


def test_tools_are_in_the_prompt_and_a_call_is_a_gold_answer(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "look_up", "arguments": '{"city": "Rome"}'}}
    question = [{"role": "user", "content": "weather?"}]
    called, text_answer = (
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "none"},
    )
    examples = [Example("a", [*question, called], tools=[tool]), Example("b", [*question, text_answer])]
    write_examples(tmp_path / "validation.jsonl", examples)
    _, rows = predicted(tmp_path, tmp_path / "out", [ModelSet(name="base", model=base)], labels=[])
    a, b = sorted(rows, key=lambda r: r["example_id"])
    assert a["gold"] == '<call>{"name": "look_up", "arguments": {"city": "Rome"}}</call>'
    assert b["gold"] == "none"
    tokenizer, counter = load_tokenizer(base), TokenCounter(base)
    assert a["prompt_tokens"] == len(encode_prompt(tokenizer, question, [tool])) > b["prompt_tokens"]
    assert b["prompt_tokens"] == len(encode_prompt(tokenizer, question))
    # the planner counts what the trainer and the server see
    assert counter.count(question, True, [tool]) == a["prompt_tokens"]
    tool_example = read_examples(tmp_path / "validation.jsonl")[0]
    (row,) = encode_example(tokenizer, tool_example.messages, "a", tool_example.tools)
    assert counter.count(tool_example.messages, tools=tool_example.tools) == len(row.ids)


def test_json_answers_have_a_probability_and_one_for_each_field(folder: Path, tmp_path: Path) -> None:
    """The product of all parts is that of the answer. Even a constant is not certain: it can be written in other tokens."""
    kinds = {"sure": {"type": "boolean"}, "kind": {"const": "note"}}
    schema = {"type": "object", "properties": kinds, "required": ["sure", "kind"], "additionalProperties": False}
    examples = [Example(str(i), [*TURN, {"role": "assistant", "content": '{"sure": true}'}]) for i in range(3)]
    write_examples(tmp_path / "validation.jsonl", examples)
    sets = [ModelSet(name="base", model=folder / "base", restricted=schema)]
    _, rows = predicted(tmp_path, tmp_path / "out", sets, labels=[], max_new_tokens=60)
    assert {(r["status"], r["probability"]) for r in of_model(rows, "base")} == {("truncated", None)}
    for row in of_model(rows, "base_restricted"):
        shares = field_table(row)
        assert row["status"] == "ok" and set(shares) == {"", "sure", "kind"}
        assert 0 < shares["kind"] <= 1 and 0 < shares["sure"] < 1
        assert math.prod(shares.values()) == pytest.approx(row["probability"])
    _, rows = predicted(folder, tmp_path / "labels", [ModelSet(name="base", model=folder / "base")])
    assert all(row["field_probabilities"] == [] for row in rows)
