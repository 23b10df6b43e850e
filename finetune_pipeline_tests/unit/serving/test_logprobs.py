"""The log-probabilities of answers, as the OpenAI SDK reads them from a running server."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import BadRequestError, OpenAI

from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.models.chat import encode_prompt, load_tokenizer
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.models.merging import merge
from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.loading import AnyServed
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.spec import Task
from finetune_pipeline.spec.outputs import LabelsOutput, TextOutput
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM
from finetune_pipeline_tests.unit.models.test_classifier import make_classifier_adapter
from finetune_pipeline_tests.unit.serving.running import Running

TEXT = "Grüße, my invoice is wrong"


def ask(running: Running, **more: Any) -> Any:
    """Ask with the SDK. Returns its ChatCompletion, or the list of its chunks."""
    with OpenAI(base_url=f"{running.server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="tickets", messages=[{"role": "user", "content": TEXT}], logprobs=True, **more
        )
        return list(answer) if more.get("stream") else answer


def serving(task: Task, champion: AnyServed) -> Running:
    return Running(task, champion)


@torch.no_grad()
def plainly(folder: Path, new_tokens: int) -> list[tuple[int, float, list[int]]]:
    """Per token of a greedy answer: itself, its log-probability, and the three most likely ones."""
    model, tokenizer = load_for_prediction(folder, torch.device("cpu")), load_tokenizer(folder)
    ids = encode_prompt(tokenizer, [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TEXT}])
    steps = []
    for _ in range(new_tokens):
        shares = model(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
        token = int(shares.argmax())
        steps.append((token, float(shares[token]), shares.topk(3).indices.tolist()))
        ids = [*ids, token]
    return steps


def test_the_sdk_reads_the_true_probability_of_every_token(task: Task, models: Path) -> None:
    champion = ServedModel("tickets:1", models / "one", None, SYSTEM, 12)
    with (running := serving(task, champion)).server:
        completion, chunks = ask(running, top_logprobs=3), ask(running, top_logprobs=3, stream=True)
        silent = running.chat(TEXT)[1]["choices"][0]
    (choice,), expected = completion.choices, plainly(models / "one", 12)
    tokens = choice.logprobs.content
    assert silent["logprobs"] is None and silent["message"]["content"] == choice.message.content
    written = b"".join(bytes(token.bytes) for token in tokens).decode("utf-8", "replace")
    assert written.strip() == choice.message.content, "the end of the turn is none of its tokens"
    tokenizer = load_tokenizer(models / "one")
    for token, (number, score, likeliest) in zip(tokens, expected, strict=False):
        assert token.logprob == pytest.approx(score, abs=1e-4)
        assert [t.token for t in token.top_logprobs] == [tokenizer.decode([i]) for i in likeliest]
        assert token.token == tokenizer.decode([number]) == token.top_logprobs[0].token
        assert token.top_logprobs[0].logprob == token.logprob
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [bool(part) for part in streamed] == [False, True, False]
    assert streamed[1].content == tokens


def test_under_a_schema_the_probabilities_are_those_among_the_allowed_tokens(task: Task, models: Path) -> None:
    schema = {"type": "boolean"}
    champion = ServedModel("tickets:1", models / "one", None, SYSTEM, 12, json_schema=schema)
    with (running := serving(task, champion)).server:
        (choice,) = ask(running, top_logprobs=20, response_format={"type": "json_object"}).choices
    first = choice.logprobs.content[0]
    assert choice.message.content in ("true", "false")
    assert all(t.token[0] in "tf" for t in first.top_logprobs)
    assert sum(math.exp(t.logprob) for t in first.top_logprobs) == pytest.approx(1, abs=1e-5)
    assert all(token.logprob <= 0 for token in choice.logprobs.content)


def test_a_label_that_is_chosen_is_one_token_with_its_probability(task: Task, models: Path, tmp_path: Path) -> None:
    merge(models / "one", make_classifier_adapter(models / "one", tmp_path / "adapter"), tmp_path / "merged")
    champion = ServedModel("tickets:1", tmp_path / "merged" / "model", None, SYSTEM, 12)
    with (running := serving(task, champion)).server:
        (choice,) = ask(running, top_logprobs=2).choices
        body = {"messages": [{"role": "user", "content": TEXT}], "add_generation_prompt": True}
        (classified,) = running.ask("/classify", body)[1]["data"]
    (token,) = choice.logprobs.content
    assert token.token == choice.message.content == classified["label"]
    assert math.exp(token.logprob) == pytest.approx(max(classified["probs"]))
    assert [math.exp(t.logprob) for t in token.top_logprobs] == pytest.approx(sorted(classified["probs"])[:-3:-1])


def test_a_simple_model_says_the_probability_of_its_label_or_refuses(task: Task, tmp_path: Path) -> None:
    texts = [f"{word} {i}" for i in range(8) for word in ("invoice", "password", "crash")]
    labels = LabelsOutput(labels=LABELS)
    linear = fit_simple_models(texts, [LABELS[i % 3] for i in range(24)], labels)["linear"]
    linear.save(tmp_path / "linear")
    with (running := serving(task, ServedSimple("tickets:1", tmp_path / "linear", SYSTEM))).server:
        (choice,) = ask(running, top_logprobs=3).choices
    (token,) = choice.logprobs.content
    shares = linear.probabilities([TEXT])
    assert shares and math.exp(token.logprob) == pytest.approx(max(shares[0].values()))
    assert token.token == choice.message.content == linear.predict([TEXT])[0]
    fit_simple_models(texts, texts, TextOutput())["nearest"].save(tmp_path / "nearest")
    with (running := serving(task, ServedSimple("tickets:1", tmp_path / "nearest", SYSTEM))).server:
        with pytest.raises(BadRequestError, match="have no probabilities: omit 'logprobs'"):
            ask(running)
        assert running.chat(TEXT)[0] == 200


def test_what_top_logprobs_may_be(task: Task, models: Path) -> None:
    with (running := serving(task, ServedModel("tickets:1", models / "one", None, SYSTEM, 4))).server:
        for more, why in (
            ({"logprobs": True, "top_logprobs": 21}, "from 0 to 20"),
            ({"logprobs": True, "top_logprobs": True}, "from 0 to 20"),
            ({"top_logprobs": 2}, "needs 'logprobs': true"),
            ({"logprobs": 3}, "'logprobs' must be true or false"),
        ):
            status, refused = running.chat(TEXT, **more)
            assert status == 400 and why in refused["error"]["message"], more
        (choice,) = running.chat(TEXT, logprobs=True)[1]["choices"]
    assert all(token["top_logprobs"] == [] for token in choice["logprobs"]["content"])
    assert json.dumps(choice), "no infinity"
