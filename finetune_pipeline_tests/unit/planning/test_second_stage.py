"""The plan of a second stage: the memory that it takes in a process of its own, and what to change if that is not free."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.preferences.making import LEAST_ROWS, enough_of_files
from finetune_pipeline.data.preferences.rows import FOLDER, Preference, preference
from finetune_pipeline.jobs import RefineJob
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.planning.memory import MIB, Batch, training_memory
from finetune_pipeline.planning.plan import TrainingPlan, training_plan
from finetune_pipeline.planning.second_stage import TILE_POSITIONS, TILE_VOCABULARY, second_stage_memory
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training.model import build, save_trained
from finetune_pipeline_tests.tiny_model import LABELS, tiny_messages
from finetune_pipeline_tests.unit.planning.test_formulas import SHAPE
from finetune_pipeline_tests.unit.training.jobs import finish, settings, start, task


def pairs(count: int, words: int = 0) -> list[Preference]:
    """Pairs of labels; `words` are added to each answer."""
    rows = []
    for i in range(count):
        good, bad = (f"{LABELS[(i + k) % 3]}{' fine' * words}" for k in (0, 1))
        rows.append(preference(tiny_messages(i, answer=False), good, bad))
    return rows


def spec_of(method: str, **changes: Any) -> TaskSpec:
    lora = {"method": "lora", "batch_size": 16, "micro_batch_size": 16, "evals_per_epoch": 1, "max_tokens": 400}
    return task({**dict(settings(**{**lora, **changes})), "refine": {"method": method}})


def plan(spec: TaskSpec, base: Path, examples: list[Example], rows: list[Preference], **more: Any) -> TrainingPlan:
    return training_plan(spec, base, examples, examples[:4], preferences=rows, **more)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_second_stage_takes_the_planned_memory(
    base: Path, examples: list[Example], tmp_path: Path, method: str
) -> None:
    spec, rows = spec_of(method), pairs(32, words=60)
    tokenizer = load_tokenizer(base)
    model = build(base, spec.training, torch.float32, torch.device("cpu"), tokenizer, "").model
    save_trained(model, tokenizer, base, "lora", tmp_path / "adapter")
    write_rows(tmp_path / "rows.jsonl", rows)
    job = RefineJob(
        base=base, start_from=tmp_path / "adapter", rows=tmp_path / "rows.jsonl", settings=spec.training,
        refine=spec.training.refine, out=tmp_path / "out", work=tmp_path / "work",
    )  # fmt: skip
    code, errors = finish(start(job, job.work, cold=True))
    assert code == 0, errors
    measured = json.loads((job.out / "measured.json").read_text())["peak_memory_mib"]
    (step,) = [step for step in plan(spec, base, examples, rows).others if step.step == "refined_adapter"]
    assert step.needed_mib == pytest.approx(measured, rel=0.25)
    first_stage = plan(spec, base, examples, rows).memory_mib["total"]
    assert step.needed_mib > 1.1 * first_stage  # whose answers are labels


def test_one_that_does_not_fit_names_the_rows_of_a_pass_that_do(base: Path, examples: list[Example]) -> None:
    rows = pairs(32, words=60)
    (*_, whole) = plan(spec_of("dpo"), base, examples, rows).others
    (*_, smaller) = plan(spec_of("dpo", micro_batch_size=4), base, examples, rows).others
    assert whole.fits and smaller.needed_mib < whole.needed_mib
    free = int(smaller.needed_mib * 1.11 * MIB)
    short = plan(spec_of("dpo"), base, examples, rows, available=free)
    (*_, step) = short.others
    assert not short.fits and short.nearest is None  # the first stage fits
    assert step.fix == "set training.micro_batch_size: 4 (now 16); this takes longer"
    assert short.sentence.endswith(f"{step.sentence}.") and step.sentence.startswith("refined_adapter needs about")
    for method, least in (("dpo", 1), ("kto", 2)):
        (*_, step) = plan(spec_of(method, micro_batch_size=least), base, examples, rows, available=MIB).others
        assert step.fix == "use a smaller base_model, or a machine with more memory"


def test_without_enough_preferences_there_is_nothing_to_plan(
    base: Path, examples: list[Example], tmp_path: Path
) -> None:
    spec = spec_of("dpo")
    assert "refined_adapter" not in {step.step for step in plan(spec, base, examples, []).others}
    (tmp_path / FOLDER).mkdir()
    lines = [
        {"prompt": row.user_text, "chosen": str(row.chosen), "rejected": str(row.rejected)} for row in pairs(LEAST_ROWS)
    ]
    file = tmp_path / FOLDER / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    assert enough_of_files(spec, tmp_path) == []
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(enough_of_files(spec, tmp_path)) == LEAST_ROWS


def test_tiles_are_as_large_as_those_of_trl() -> None:
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (TILE_POSITIONS, TILE_VOCABULARY) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


@pytest.mark.parametrize(("method", "answers"), [("dpo", 2), ("kto", 1)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_memory_of_a_second_stage_by_hand(method: str, answers: int, device: str) -> None:
    """Two preferences of a pass, padded to the longer one: 30 tokens in the first pass and 20 in the second."""
    training = spec_of(method, precision="bfloat16").training
    planner: Any = SimpleNamespace(shape=SHAPE, device=device)
    plan = second_stage_memory(planner, training, [30, 10, 20, 20], micro=2)
    rows, positions = 2 * answers, 60 * answers
    first = training_memory(
        SHAPE, training, Batch(rows, positions, 30), width=2, device=device, tokens=80 * answers, sizes=2
    )
    tile = positions * 32_768 * 2 + (7 * positions * 100 * 4 if device == "cpu" else 0)
    assert plan.logits == first.logits + int(tile * 1.06)
    assert plan.trained == first.trained + 4 * METHODS["lora"].trainable(training, SHAPE)
    assert (plan.weights, plan.activations, plan.overhead) == (first.weights, first.activations, first.overhead)
    one = second_stage_memory(planner, training, [30], micro=2)
    assert one.logits == first.logits + int(tile // 2 * 1.06), "no more rows than there are"
