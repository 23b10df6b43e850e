"""The plan before training: token counts equal the model library's own, and a plan that does not fit says so."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from transformers import AutoTokenizer

from finetune_pipeline.data.examples import Example
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.planning.answering import (
    PromptBatch,
    StepMemory,
    answering_memory,
    answering_steps,
    largest_batch,
)
from finetune_pipeline.planning.costs import method_settings
from finetune_pipeline.planning.memory import MIB
from finetune_pipeline.planning.plan import MARGIN, training_plan
from finetune_pipeline.planning.planner import Planner
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.spec import TaskSpec, parse_spec
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline_tests.fake_gpu import make_base
from finetune_pipeline_tests.tiny_model import LABELS

SPEC = """
name: demo
description: d
system_prompt: s
output: {kind: text}
baseline: {batch_size: 1, shots: [0], retrieved: 0}
training: {epochs: 2, unquantized_epochs: 1, batch_size: 8, micro_batch_size: 8, max_tokens: %d}
"""


def spec(max_tokens: int = 1024) -> TaskSpec:
    return parse_spec(SPEC % max_tokens)


def test_counts_equal_the_tokenizer_of_the_model_library(base: Path, examples: list[Example]) -> None:
    tokenizer, counter = AutoTokenizer.from_pretrained(base), TokenCounter(base)
    for e in examples:
        ids = tokenizer.apply_chat_template(e.messages, return_dict=True)["input_ids"]
        prompt = tokenizer.apply_chat_template(e.prompt_messages, add_generation_prompt=True, return_dict=True)
        assert counter.count(e.messages) == len(ids)
        assert counter.count(e.prompt_messages, generation_prompt=True) == len(prompt["input_ids"])


@pytest.mark.parametrize("newer", [False, True])
def test_special_tokens_are_those_of_the_model_library_also_in_older_files(base: Path, tmp_path: Path, newer) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "older"))
    config = read_json(folder / "tokenizer_config.json") | {"eos_token": "<|endoftext|>"}
    token = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    if newer:
        config["added_tokens_decoder"] = {"0": {"content": "<|endoftext|>", **token}}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {"eos_token": "<|im_end|>"})
    tokenizer, counter = AutoTokenizer.from_pretrained(folder), TokenCounter(folder)
    assert (counter.special["eos_token"], counter.eos_token_id) == (tokenizer.eos_token, tokenizer.eos_token_id)
    assert tokenizer.eos_token == ("<|endoftext|>" if newer else "<|im_end|>")


def test_methods_that_cannot_learn_the_output_are_not_planned(base, examples) -> None:
    labels = parse_spec((SPEC % 1024).replace("output: {kind: text}", f"output: {{kind: labels, labels: {LABELS}}}"))
    for task, expected in ((spec(), False), (labels, True)):
        plan = training_plan(task, base, examples, examples[:4])
        assert ("classifier" in {row.method for row in plan.methods}) is expected


def test_each_method_is_planned_as_if_the_task_had_chosen_it(base: Path, examples: list[Example]) -> None:
    task = parse_spec((SPEC % 1024).replace("output: {kind: text}", f"output: {{kind: labels, labels: {LABELS}}}"))
    planner = Planner(base, examples, examples[:4])
    plan = training_plan(task, base, examples, examples[:4], available=8 * 2**30)
    assert [row.method for row in plan.methods if row.chosen] == [task.training.method]
    for row in plan.methods:
        method, settings = METHODS[row.method], method_settings(task, row.method)
        trainable = method.trainable(settings, planner.shape)
        assert row.trainable_parameters == trainable and row.fits
        assert row.memory_mib == planner.memory(settings).in_mib()["total"]
        assert row.result_bytes == (4 * trainable if method.kind.adapter else planner.shape.stored_bytes)
    total = plan.memory_mib["total"]
    assert f"; about {total / 1024:.1f} GiB at the peak, 8.0 GiB free" in plan.sentence
    tight = training_plan(task, base, examples, examples[:4], available=int(total * 2**20 * (MARGIN - 0.05)))
    assert [row.fits for row in tight.methods if row.chosen] == [False], "a margin is left free"


def test_the_plan_counts_steps_of_both_phases(base, examples, tmp_path) -> None:
    before = training_plan(spec(), base, examples, examples[:4], tmp_path, home=tmp_path)
    assert (before.steps_per_epoch, before.steps, before.over_length, before.fits) == (3, 9, 0, True)
    assert read_json(tmp_path / "plan.json") == before.to_json()


def test_a_plan_that_does_not_fit_names_the_nearest_that_does(base: Path, examples: list[Example]) -> None:
    fitting = training_plan(spec(), base, examples, examples[:4])
    assert fitting.fits and fitting.nearest is None
    enough = Planner(base, examples, examples[:4]).memory(spec().training).total * MARGIN
    plan = training_plan(spec(), base, examples, examples[:4], available=int(enough) - 1000)
    assert plan.fits is False and plan.nearest and plan.nearest.fits
    change = yaml.safe_load(plan.nearest.yaml)["training"]
    assert change == plan.nearest.change and change.keys() <= TrainingSpec.model_fields.keys()
    assert plan.nearest.yaml == "training:\n  micro_batch_size: 4" and "same result" in plan.nearest.reasons[0]
    assert "does not fit" in plan.sentence and next(iter(change)) in plan.sentence
    training = TrainingSpec.model_validate({**spec().training.model_dump(), **change})
    second_plan = training_plan(
        spec().model_copy(update={"training": training}), base, examples, examples[:4], available=int(enough) - 1000
    )
    assert second_plan.fits, "the plan it names fits by its own formula"
    assert plan.nearest.memory_mib == second_plan.memory_mib
    assert f"({second_plan.memory_mib['total'] / 1024:.1f} GiB)" in plan.sentence
    hopeless = training_plan(spec(), base, examples, examples[:4], available=2**20)
    assert hopeless.nearest and not hopeless.nearest.fits and "smaller base_model" in hopeless.sentence


def test_an_evaluation_that_does_not_fit_is_told_before_anything_starts(base: Path, examples: list[Example]) -> None:
    long = SPEC.replace("output: {kind: text}", "output: {kind: text, max_new_tokens: 8000}")
    long = long.replace("training: {", "training: {precision: float32, ")  # in bfloat16 it would not fit either
    task = parse_spec(long.replace("batch_size: 1", "batch_size: 64") % 1024)
    roomy = training_plan(task, base, examples, examples, available=2**40)
    assert roomy.fits and all(step.fits and not step.fix for step in roomy.others)
    enough = int((max(step.needed_mib for step in roomy.others) - 10) * 2**20 * MARGIN)
    plan = training_plan(task, base, examples, examples, available=enough)
    assert plan.nearest is None and not plan.fits, "training fits, and the evaluation does not"
    failing = [step for step in plan.others if not step.fits]
    assert failing and all(
        f"{step.step} needs about" in plan.sentence and step.fix in plan.sentence for step in failing
    )
    rows = min(int(n) for step in failing for n in re.findall(r"set baseline.batch_size: (\d+) \(now 64\)", step.fix))
    smaller = task.model_copy(update={"baseline": task.baseline.model_copy(update={"batch_size": rows})})
    second_plan = training_plan(smaller, base, examples, examples, available=enough)
    assert second_plan.fits and "needs about" not in second_plan.sentence, second_plan.sentence


def test_a_row_whose_answer_cannot_be_rendered_leaves_the_others_as_they_are(base, examples, tmp_path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    refuses = "{% if messages[-1].content == 'never' %}{{ raise_exception('no') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refuses + (base / "chat_template.jinja").read_text())
    refused = replace(examples[0], messages=[*examples[0].messages[:-1], {"role": "assistant", "content": "never"}])
    task, planner = spec(), Planner(folder, examples, examples)
    assert largest_batch(task, planner, [refused, *examples]) == largest_batch(task, planner, examples)


def test_an_example_in_a_prompt_is_as_long_in_batches_of_one_row_as_in_large_ones(base, examples) -> None:
    planner = Planner(base, examples, examples)
    tasks = [parse_spec((SPEC % 1024).replace("batch_size: 1", f"batch_size: {rows}")) for rows in (1, len(examples))]
    alone, together = (largest_batch(task, planner, examples)[1] for task in tasks)
    assert alone == together > 5


@pytest.mark.parametrize(("shape", "gib"), [("mistral-7b", 24), ("llama-3-8b", 24), ("llama-2-13b", 40)])
def test_a_gpu_that_can_serve_a_model_can_compare_its_merge(shape: str, gib: int, base, examples, tmp_path) -> None:
    folder = make_base(tmp_path / "base", shape)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    planner = Planner(folder, examples, examples, "cuda:0")
    compared, asked = answering_steps(spec(), planner, examples, "cuda:0", int(0.97 * gib * 2**30), MARGIN)
    assert (compared.step, compared.device, compared.fits, asked.fits) == ("merged_model", "cuda:0", True, True)
    assert compared.needed_mib < 1.25 * asked.needed_mib


def test_every_label_is_scored_with_its_end_and_texts_are_not(base, examples, tmp_path) -> None:
    folder = make_base(tmp_path / "base", "mistral-7b")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    planner = Planner(folder, examples, examples, "cuda:0")
    for output in ("kind: text", f"kind: labels, labels: {LABELS}"):
        task = parse_spec((SPEC % 1024).replace("kind: text", output).replace("batch_size: 1", "batch_size: 64"))
        batch, _ = largest_batch(task, planner, examples)
        scored = sum(len(planner.counter(label, add_special_tokens=False)["input_ids"]) + 1 for label in task.labels)
        asked = answering_steps(task, planner, examples, "cuda:0", 1 << 40, MARGIN)[1]
        expected = answering_memory(planner.shape, dataclasses.replace(batch, scored=scored), width=2, device="cuda:0")
        assert asked.needed_mib == round(expected.total / MIB), output


def test_without_a_row_that_can_be_encoded_one_token_is_planned(base, examples) -> None:
    batch, example_tokens = largest_batch(spec(), Planner(base, examples, []), [])
    assert (batch, example_tokens) == (PromptBatch(1, 1, 0, spec().answer_length, 0), 0)


def test_examples_in_a_prompt_fill_at_most_the_context_of_a_model_of_several_parts(base, examples) -> None:
    text = SPEC.replace("{batch_size: 1, shots: [0], retrieved: 0}", "{batch_size: 4, shots: [0], retrieved: 1000}")
    many_examples = parse_spec(text % 1024)
    planner = Planner(base, examples, examples)

    def needed(config: dict[str, Any]) -> int:
        planner.config = config
        return answering_steps(many_examples, planner, examples, "cpu", 1 << 40, MARGIN)[1].needed_mib

    context = {"max_position_embeddings": 512}
    assert needed({"text_config": context}) == needed(context) < needed({})


def test_prices_of_the_task_come_before_those_of_the_home_and_the_shipped_ones(base, examples, tmp_path) -> None:
    line = "- {engine: %s, model: m, unit: million_tokens, price: 2, low: 1, high: 4, date: 2026-01-01, note: n}\n"
    home, task = tmp_path / "home", tmp_path / "task"
    for folder, name in ((home, "home"), (task, "ours")):
        folder.mkdir()
        (folder / "prices.yaml").write_text(line % name)
    plan = training_plan(spec(), base, examples, [], home=home, task_folder=task)
    (price,) = plan.prices
    millions = plan.tokens.total * 3 / 1e6
    assert price.where == "ours, m"
    assert (price.low, price.high) == pytest.approx((millions, 4 * millions), abs=1e-4)
    assert training_plan(spec(), base, examples, [], home=home).prices[0].where == "home, m"
    assert len(training_plan(spec(), base, examples, [], home=tmp_path / "none").prices) > 3


def test_the_largest_batch_by_hand(base, examples) -> None:
    """Two rows in a pass: the longest prompts, what all of them begin with, and the longest answer."""
    task, planner = (
        parse_spec((SPEC % 1024).replace("batch_size: 1", "batch_size: 2")),
        Planner(base, examples, examples),
    )
    prompts = sorted((encode_prompt(planner.counter, e.prompt_messages, e.tools) for e in examples), key=len)
    answers = [
        max(len(prompt), planner.counter.count(e.messages)) - len(prompt)
        for e in examples
        for prompt in [encode_prompt(planner.counter, e.prompt_messages, e.tools)]
    ]
    batch, _ = largest_batch(task, planner, examples)
    shared = next(i for i, (a, b) in enumerate(zip(*prompts[-2:], strict=False)) if a != b)
    assert batch == PromptBatch(2, len(prompts[-1]), shared, task.answer_length, max(answers))


def test_what_fits_exactly_fits(base, examples) -> None:
    """The batch of baseline.batch_size is halved only where it needs more than there is."""
    task = parse_spec((SPEC % 1024).replace("batch_size: 1", "batch_size: 4"))
    planner = Planner(base, examples, examples)

    def steps(available: int) -> list[StepMemory]:
        return answering_steps(task, planner, examples, "cpu", available, 1.0)

    batch = dataclasses.replace(largest_batch(task, planner, examples)[0], scored=0)
    exact = answering_memory(planner.shape, batch, width=4, device="cpu").total
    asked = steps(exact)[1]
    assert asked.fits and not asked.fix and asked.needed_mib == round(exact / MIB)
    refused = steps(exact - 1)[1]
    half = answering_memory(planner.shape, dataclasses.replace(batch, rows=2), width=4, device="cpu").total
    assert not refused.fits and half < exact and refused.fix == "set baseline.batch_size: 2 (now 4); this takes longer"
    assert steps(1)[1].fix == "use a smaller base_model, or a machine with more memory"
