"""The baseline and predict actions: shots, sets, and a predictions table with nothing missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.data.perturbations import KINDS
from finetune_pipeline.evaluation.predict import baseline, encode_labels, predict
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.prompts import shots_as_turns
from finetune_pipeline.models.chat import encode_answer, encode_example, encode_prompt, load_tokenizer
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.worker.jobs import baseline_job, perturbed_set, predict_job, prompt_set
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predict")
    make_tiny_model(root / "base")
    make_tiny_model(root / "other", seed=9)
    write_tiny_examples(root / "train.jsonl", range(30))
    write_tiny_examples(root / "validation.jsonl", range(30, 37))
    return root


def _common(folder: Path) -> dict[str, Any]:
    return {"examples": folder / "validation.jsonl", "labels": LABELS, "max_new_tokens": 4, "batch_size": 3}


def test_baselines(folder: Path, tmp_path: Path) -> None:
    job = baseline_job(
        base=folder / "base", train=folder / "train.jsonl", shots=[0, 3], seed=1, out=tmp_path, **_common(folder)
    )
    facts, measured = baseline(job)
    rows = read_predictions(tmp_path / "predictions.parquet")
    examples = read_examples(folder / "validation.jsonl")
    assert [(r["model"], r["example_id"]) for r in rows] == [
        (name, e.id) for name in ("zero_shot", "3_shot") for e in examples
    ]
    assert all(len(r["label_scores"]) == len(LABELS) and max(r["label_scores"]) < 0 for r in rows)
    assert {r["gold"] for r in rows} == set(LABELS)
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    train = {e.id: e for e in read_examples(folder / "train.jsonl")}
    chosen = [train[i] for i in prompts["3_shot"]["ids"]]
    assert {e.label for e in chosen} == set(LABELS)
    assert prompts["3_shot"]["turns"] == shots_as_turns(chosen) and len(prompts["3_shot"]["turns"]) == 6
    assert not {e.id for e in chosen} & {e.id for e in examples}
    told = facts["prompts"]
    assert told["zero_shot"]["ids"] == [] and told["3_shot"]["shots"] == 3
    assert told["3_shot"]["mean_prompt_tokens"] > told["zero_shot"]["mean_prompt_tokens"] + 20
    assert told["3_shot"]["shared_prefix_tokens"] > told["zero_shot"]["shared_prefix_tokens"]
    assert sum(told["zero_shot"]["statuses"].values()) == facts["rows"] == 7
    assert measured["answers"] == {} and list(measured["seconds_by_set"]) == ["zero_shot", "3_shot"]
    assert measured["seconds_by_set"]["zero_shot"]["answer"] > 0


def test_several_models_in_one_job(folder: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "billing"}]
    sets = [
        prompt_set(name="base", model=folder / "base", prompt={"turns": turns}),
        prompt_set(name="candidate", model=folder / "other"),
        prompt_set(name="champion", model=folder / "base"),
    ]
    facts, _ = predict(predict_job(sets=sets, out=tmp_path, **_common(folder)))
    rows = read_predictions(tmp_path / "predictions.parquet")
    by = {name: [r for r in rows if r["model"] == name] for name in ("base", "candidate", "champion")}
    assert {name: len(some) for name, some in by.items()} == {"base": 7, "candidate": 7, "champion": 7}
    assert list(facts["sets"]) == ["base", "candidate", "champion"]
    scores = {name: [r["label_scores"] for r in some] for name, some in by.items()}
    assert scores["candidate"] != scores["champion"] != scores["base"]
    assert by["base"][0]["prompt_tokens"] > by["champion"][0]["prompt_tokens"]


def test_perturbed_rows_are_sets_of_their_own_under_the_same_ids(folder: Path, tmp_path: Path) -> None:
    plain = prompt_set(name="candidate", model=folder / "base")
    sets = [plain, *(perturbed_set(plain, kind, 5, 0) for kind in KINDS)]
    facts, _ = predict(predict_job(sets=sets, out=tmp_path, **_common(folder)))
    rows = read_predictions(tmp_path / "predictions.parquet")
    gold = {r["example_id"]: r["gold"] for r in rows if r["model"] == "candidate"}
    mean = facts["sets"]["candidate"]["mean_prompt_tokens"]
    for kind in KINDS:
        mine = [r for r in rows if r["model"] == f"candidate:{kind}"]
        assert len(mine) == facts["sets"][f"candidate:{kind}"]["rows"] == 5
        assert all(r["gold"] == gold[r["example_id"]] and r["label_scores"] == [] for r in mine)
    assert facts["sets"]["candidate:courtesy"]["mean_prompt_tokens"] > mean + 10
    assert facts["sets"]["candidate:no_system"]["mean_prompt_tokens"] != mean, "the template puts its own in its place"


def test_a_prefix_answers_beside_the_base_it_stands_in_front_of(folder: Path, tmp_path: Path) -> None:
    from finetune_pipeline_tests.unit.models.architectures import logits, with_adapter
    from finetune_pipeline_tests.unit.models.test_soft_prompts import soft

    prefix = soft(folder / "base", tmp_path / "prefix", "prefix", size=1.0)
    sets = [
        prompt_set(name="base", model=folder / "base"),
        prompt_set(name="candidate", model=folder / "base", adapter=prefix),
        prompt_set(name="champion", model=folder / "base"),
    ]
    predict(predict_job(sets=sets, out=tmp_path, **_common(folder)))
    rows = read_predictions(tmp_path / "predictions.parquet")
    by = {name: [r for r in rows if r["model"] == name] for name in ("base", "candidate", "champion")}
    said = {name: [(r["text"], r["label_scores"]) for r in some] for name, some in by.items()}
    assert said["base"] == said["champion"] != said["candidate"]
    # the label scores against PEFT's own forward, a label at a time
    tokenizer, peft = load_tokenizer(folder / "base"), with_adapter(folder / "base", prefix)
    example = read_examples(folder / "validation.jsonl")[0]
    prompt = encode_prompt(tokenizer, example.prompt_messages)
    for label, score in zip(LABELS, by["candidate"][0]["label_scores"], strict=True):
        ids = encode_answer(tokenizer, example.prompt_messages, label)
        found = torch.log_softmax(logits(peft, torch.tensor([prompt + ids]))[0, len(prompt) - 1 : -1], -1)
        assert found.gather(1, torch.tensor(ids)[:, None]).sum().item() == pytest.approx(score, abs=1e-3)


def test_free_text_has_no_label_scores_and_limit_takes_the_first_ids(folder: Path, tmp_path: Path) -> None:
    job = predict_job(
        sets=[prompt_set(name="base", model=folder / "base")],
        out=tmp_path,
        limit=4,
        **{**_common(folder), "labels": []},
    )
    predict(job)
    rows = read_predictions(tmp_path / "predictions.parquet")
    assert all(r["label_scores"] == [] for r in rows)
    ids = sorted(e.id for e in read_examples(folder / "validation.jsonl"))[:4]
    assert sorted(r["example_id"] for r in rows) == ids


def test_labels_that_differ_with_the_prompt_are_encoded_behind_each(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "base")
    # a template that ends the generation prompt with the question's last letter: the label's first token merges with it
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ loop.previtem['content'][-1] + m['content'] "
        "+ '<|im_end|>' }}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    prompts = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    first, second = encode_labels(tokenizer, prompts, ["billing", "how_to"])
    assert first != second
    assert second == [encode_answer(tokenizer, prompts[1], label) for label in ["billing", "how_to"]]


TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_tools_are_in_the_prompt_and_a_call_is_a_gold_answer(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").write_text(TOOLS_TEMPLATE)
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "look_up", "arguments": '{"city": "Rome"}'}}

    def example(name: str, tools: Any, **answer: Any) -> Example:
        turns = [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": "", **answer}]
        return Example(name, turns, tools=tools)

    write_examples(
        tmp_path / "rows.jsonl",
        [
            example("a", [tool], tool_calls=[call]),
            example("b", None, content="no tools"),
            example("c", [tool], content="x"),
        ],
    )
    sets = [prompt_set(name="base", model=base)]
    predict(
        predict_job(
            sets=sets, examples=tmp_path / "rows.jsonl", labels=[], max_new_tokens=4, batch_size=3, out=tmp_path / "out"
        )
    )
    rows = {r["example_id"]: r for r in read_predictions(tmp_path / "out" / "predictions.parquet")}
    assert rows["a"]["gold"] == '<tool_call>{"name": "look_up", "arguments": {"city": "Rome"}}</tool_call>'
    assert rows["b"]["gold"] == "no tools" and rows["c"]["gold"] == "x"
    tokenizer = load_tokenizer(base)
    question = [{"role": "user", "content": "weather?"}]
    assert rows["a"]["prompt_tokens"] == len(encode_prompt(tokenizer, question, [tool])) > rows["b"]["prompt_tokens"]
    assert rows["b"]["prompt_tokens"] == len(encode_prompt(tokenizer, question))
    # the planner counts what the trainer and the server see
    counter = TokenCounter(base)
    assert counter.count(question, True, [tool]) == rows["a"]["prompt_tokens"]
    whole = read_examples(tmp_path / "rows.jsonl")[0]
    (row,) = encode_example(tokenizer, whole.messages, "a", whole.tools)
    assert counter.count(whole.messages, tools=whole.tools) == len(row.ids)
