"""Rows, batches and steps of a plan are those training makes, and each rung of the ladder of costs needs less memory."""

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example, example_id
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.planning import planner as planning
from finetune_pipeline.planning.memory import Batch
from finetune_pipeline.planning.planner import Planner, batch_of, compute_width, count_steps
from finetune_pipeline.planning.search import changes, ladder
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.rows import prepare_split
from finetune_pipeline.training.sft import train
from finetune_pipeline_tests.tiny_model import LABELS, tiny_messages
from finetune_pipeline_tests.unit.training.jobs import job, make_inputs


def settings(**changes: Any) -> TrainingSpec:
    return TrainingSpec.model_validate(changes)


@pytest.fixture
def with_turns(examples: list[Example]) -> list[Example]:
    """The rows, and one of two turns of which only the second is learned."""
    turns: list[dict[str, Any]] = [*tiny_messages(3), *tiny_messages(4)[1:]]
    turns[2]["weight"] = 0
    return [*examples, Example(id=example_id(turns), messages=turns, label=None, source={"file": "t", "line": 1})]


def test_rows_are_encoded_as_training_does(base: Path, with_turns: list[Example]) -> None:
    for over_length, max_tokens in (("fail", 1024), ("drop", 55), ("truncate_prompt", 52)):
        encoded = Planner(base, with_turns, []).rows("train", settings(max_tokens=max_tokens, over_length=over_length))
        real = prepare_split(load_tokenizer(base), with_turns, max_tokens, over_length, "train split")
        assert [(r["id"], r["ids"], r["loss"]) for r in encoded.rows] == [(r.id, r.ids, r.loss) for r in real.rows]
        assert encoded.over >= len(real.dropped) + len(real.cuts) and (encoded.over > 0) == (over_length != "fail")


def test_a_classifiers_rows_are_those_of_its_training_without_answers_and_logits(
    base: Path, examples: list[Example]
) -> None:
    planner, chosen = Planner(base, examples, examples[:3]), settings(method="classifier")
    planned = planner.rows("train", chosen)
    real = prepare_split(load_tokenizer(base), examples, 1024, "fail", "train split", LABELS)
    assert not real.audit.problems and planned.over == 0
    assert [(r["id"], r["ids"]) for r in planned.rows] == [(r.id, r.ids) for r in real.rows]
    writing = settings(method="lora")
    assert planned.tokens < planner.rows("train", writing).tokens
    assert [batch.logits for batch in planner.batches("train", chosen)] == [8, 8, len(examples) - 16]
    needed, of_lora = planner.memory(chosen), planner.memory(writing)
    assert needed.logits == 0 < of_lora.logits and needed.total < of_lora.total and needed.weights == of_lora.weights


@pytest.mark.parametrize(
    ("rows", "changes"),
    [(21, {"micro_batch_size": 2, "evals_per_epoch": 3, "epochs": 1.5}), (9, {"evals_per_epoch": 9})],
)
def test_steps_and_evaluations_are_the_trainers(tmp_path: Path, rows: int, changes: dict[str, Any]) -> None:
    declared = {"method": "lora", "epochs": 2, "patience": 99, **changes}
    training = job(make_inputs(tmp_path / "inputs", rows), tmp_path, **declared)
    facts, _ = train(training)
    counted = count_steps(rows, training.settings)
    assert counted.steps == facts.steps_planned == facts.steps
    assert counted.evaluations == sum(entry.eval_loss is not None for entry in facts.history)


def test_a_planner_adds_up_both_phases_and_encodes_rows_once(base: Path, examples: list[Example]) -> None:
    planner = Planner(base, examples, examples[:3])
    two_phases, one_phase = settings(epochs=1, unquantized_epochs=2), settings(epochs=1, unquantized_epochs=0)
    first, second = planner.phases(two_phases)
    assert (first.method, second.method) == ("qlora", "lora")
    assert second.steps == 2 * first.steps
    assert len(planner.phases(one_phase)) == 1 and planner.memory(two_phases).total >= planner.memory(one_phase).total
    assert 0 < planner.computed_share(two_phases) < 1 <= planner.computed_share(settings(shared_prefix=False))
    rows = planner.rows("train", settings(method="lora", max_tokens=64))
    assert planner.rows("train", settings(method="prompt", max_tokens=64)) is rows
    context = planner.config["max_position_embeddings"]
    for method, most in (("lora", context), ("prompt", context - 7)):
        declared = settings(method=method, max_tokens=context, prompt={"tokens": 7})
        assert planner.rows("train", declared).limit == most


def test_the_cheapest_changes_come_first() -> None:
    chosen = [changes(settings(), s) for s in ladder(settings(max_tokens=1024))]
    assert chosen[:4] == [{}, {"micro_batch_size": 4}, {"micro_batch_size": 2}, {"micro_batch_size": 1}]
    assert chosen[4] == {"gradient_checkpointing": True}
    firsts = [tuple(c) for c in chosen if "micro_batch_size" not in c]
    last = ("unquantized_epochs", "max_tokens", "over_length", "gradient_checkpointing")
    assert firsts == [(), last[3:], (last[0], last[3]), last, last]
    assert chosen[-1]["max_tokens"] == 256


@pytest.mark.parametrize("method", METHODS)
def test_every_rung_is_a_valid_spec(method: str) -> None:
    rungs = list(ladder(settings(method=method)))
    for rung in rungs:
        assert TrainingSpec.model_validate(rung.model_dump()) == rung
        assert rung.method != "prefix" or rung.gradient_checkpointing is not True
        assert rung.batch_size == 8, "what is learned must not depend on the memory"
        assert rung.batch_size % rung.micro_batch_size == 0
    assert rungs[-1].method == "qlora" and rungs[-1].unquantized_epochs == 0


def test_a_rung_needs_less_than_the_one_above_it(base: Path, examples: list[Example]) -> None:
    planner = Planner(base, examples, examples[:8])
    start = settings(method="full", lora={"r": 2})  # a tiny base is no larger than an adapter on it
    rungs = [s for s in ladder(start) if s.micro_batch_size == 8 and s.max_tokens == 1024]
    moving = [memory.total - memory.overhead for memory in map(planner.memory, rungs)]
    assert moving == sorted(moving, reverse=True), [(r.method, m) for r, m in zip(rungs, moving, strict=True)]


def test_a_padded_batch_computes_logits_from_its_first_learned_token_on() -> None:
    """Without packing, each row is as long as the longest; prompt tuning adds its own tokens, prefix tuning what they attend to."""
    rows = [
        {"ids": list(range(9)), "loss": [False] * 6 + [True] * 3},
        {"ids": list(range(5)), "loss": [False] * 4 + [True]},
    ]
    assert batch_of(rows, settings(method="lora"), packed=False) == Batch(
        rows=2, tokens=18, longest=9, logits=2 * (9 - 4 + 1)
    )
    tuned = batch_of(rows, settings(method="prompt", prompt={"tokens": 7}), packed=False)
    assert (tuned.tokens, tuned.longest, tuned.logits) == (2 * 16, 16, 12)
    prefixed = batch_of(rows, settings(method="prefix", prefix={"tokens": 7}), packed=False)
    assert (prefixed.tokens, prefixed.longest) == (18, 16)


def test_packed_rows_read_their_common_beginning_once() -> None:
    rows = [{"ids": [*range(40), n, n], "loss": [False] * 41 + [True]} for n in (97, 98, 99)]
    packed = batch_of(rows, settings(method="lora"), packed=True)
    padded = batch_of(rows, settings(method="lora"), packed=False)
    assert packed.logits == 3 and 40 + 3 * 2 <= packed.tokens < 0.6 * padded.tokens == 0.6 * 3 * 42


def test_only_training_rows_are_augmented_and_shuffled(base: Path, examples: list[Example]) -> None:
    planner, augmented = Planner(base, examples, examples), settings(method="lora", augment=True)
    assert len(planner.rows("train", augmented).rows) > len(examples) == len(planner.rows("validation", augmented).rows)
    plain = settings(method="lora", micro_batch_size=3, shared_prefix=False)
    sizes = [batch.rows for batch in planner.batches("train", plain)]
    assert sizes == [3] * (len(examples) // 3) + [len(examples) % 3]
    lengths = [len(row["ids"]) for row in planner.rows("validation", plain).rows]
    per_pass = planner.batches("validation", plain)[0].rows
    in_order = [max(lengths[i : i + per_pass]) for i in range(0, len(lengths), per_pass)]
    assert [batch.longest for batch in planner.batches("validation", plain)] == in_order
    assert planner.computed_share(plain) >= 1 > planner.computed_share(settings(method="lora"))
    assert Planner(base, [], []).computed_share(plain) == 1.0


def test_a_padded_batch_by_hand() -> None:
    """Logits from the position before the first learned token to the end, in every row."""
    rows = [
        {"ids": [7] * 5, "loss": [False, False, False, True, True]},
        {"ids": [7] * 4, "loss": [False] * 4},
    ]
    assert batch_of(rows, settings(method="lora"), packed=False) == Batch(rows=2, tokens=10, longest=5, logits=2 * 3)
    assert batch_of(rows[1:], settings(method="lora"), packed=False) == Batch(rows=1, tokens=4, longest=4, logits=1)


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_auto_computes_in_bfloat16_on_every_gpu_and_where_the_cpu_can(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    monkeypatch.setattr(planning, "cpu_has_bfloat16", lambda: has_bfloat16)
    assert compute_width("auto", "cuda:0") == 2 and compute_width("auto", "cpu") == (2 if has_bfloat16 else 4)
    for device in ("cpu", "cuda:0"):
        assert (compute_width("float32", device), compute_width("bfloat16", device)) == (4, 2)
