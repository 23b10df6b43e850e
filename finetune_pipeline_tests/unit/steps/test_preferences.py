"""The steps of a second stage on a tiny model: rows without leaks, both adapters judged as they would be served, one goes on."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from finetune_pipeline.data.dedup.cleaning import BOILERPLATE
from finetune_pipeline.data.examples import EXAMPLES, SPLIT_FILES, read_examples, write_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.data.preferences.making import PREFERENCES, PreferenceFacts
from finetune_pipeline.data.review import SECOND_STAGE
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.step import RunInputs, StepContext
from finetune_pipeline.engine.store import CHANGED_ANSWERS, Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.refined_choice import NO_GAIN
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import Job
from finetune_pipeline.pipeline import CHECKS, PIPELINE
from finetune_pipeline.production.log_merging import Logs
from finetune_pipeline.review.sheet import candidate_is_a, sheet_name
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps import preferences as steps
from finetune_pipeline.steps import training
from finetune_pipeline.steps.reviews import secret_of
from finetune_pipeline.training.facts import Difference
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.training.jobs import finish, settings, start, task

REFINE = {"method": "dpo", "learning_rate": 1e-3}
NO_LOSS = Difference(mean=0.0, interval=(-0.1, 0.1))


def replace_facts(artifact: Artifact, facts: dict[str, Any]) -> Artifact:
    return Artifact(artifact.task, artifact.step, artifact.version, artifact.folder, facts, artifact.inputs)


class Steps:
    """The steps of one task, made one after the other without the rest of the graph."""

    def __init__(self, root: Path, pairs: int, **spec: Any) -> None:
        self.root, self.store, self.jobs = root, ArtifactStore(root / "store"), list[Job]()
        declared = settings(method="lora", epochs=1, micro_batch_size=8, evals_per_epoch=1, refine=REFINE)
        self.task = Task(spec=task(declared, ability={"suite": False}, **spec), folder=root / "task")
        (self.task.folder / "preferences").mkdir(parents=True)
        splits = root / "splits"
        for name, numbers in (("train", range(24)), ("validation", range(24, 36))):
            (splits / SPLIT_FILES[name]).parent.mkdir(parents=True)
            write_tiny_examples(splits / SPLIT_FILES[name], numbers)
        test = read_examples(write_tiny_examples(root / "test.jsonl", range(36, 48)))
        known = [e for name in ("train", "validation") for e in read_examples(splits / SPLIT_FILES[name])]
        (root / "reviewed").mkdir()
        write_examples(root / "reviewed" / EXAMPLES, [*known, *test])
        (root / "clean").mkdir()
        write_json(root / "clean" / BOILERPLATE, {"segments": []})
        (root / "logs").mkdir()
        write_rows(root / "logs/rows.jsonl", [])
        write_rows(root / "logs/judging.jsonl", [])
        words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll"]
        texts = [f"{a} {b} and the {b} {a}" for a, b in itertools.permutations(words, 2)]
        rows = [
            {"prompt": text, "chosen": LABELS[i % 3], "rejected": LABELS[(i + 1) % 3]}
            for i, text in enumerate(texts[: pairs - 2])
        ]
        rows += [{"prompt": e.user_text, "chosen": e.answer, "rejected": "no"} for e in (test[0], known[-1])]
        file = self.task.folder / "preferences/pairs.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.inputs = {
            "base_model": self._artifact("base_model", make_tiny_model(root / "base")),
            **{f"{name}_split": self._artifact("splits", splits) for name in ("train", "validation")},
            "reviewed_examples": self._artifact("reviewed_examples", root / "reviewed"),
            "clean_examples": self._artifact("clean_examples", root / "clean"),
            "production_logs": self._artifact("production_logs", root / "logs"),
        }

    @staticmethod
    def _artifact(step: str, folder: Path, facts: Any = None) -> Artifact:
        return Artifact("demo", step, "a" * 16, folder, facts or {}, {})

    def launch(self, job: Job) -> dict[str, Any]:
        self.jobs.append(job)
        code, errors = finish(start(job, self.root / "jobs" / str(len(self.jobs))))
        assert code == 0, errors
        facts: dict[str, Any] = json.loads((job.out / "result.json").read_text())
        return facts

    def make(self, name: str, function: Any, preferences: str | None = None) -> Any:
        """Make a step, and keep its artifact as an input of the next ones. Returns its facts."""
        out = self.root / name
        (out / "out").mkdir(parents=True)
        pinned = steps.preferences_of(self.task, Logs()) if preferences is None else preferences
        preferred = steps.preferred_stages(self.task, self.store)
        outside = RunInputs("r", "v", "l", "c", {}, preferences=pinned, preferred=preferred)
        inputs = {need: self.inputs[need] for need in PIPELINE.steps[name].inputs if need in self.inputs}
        builder = Builder(out / "out", out / "work")
        context = StepContext(self.task, outside, inputs, builder, self.store, self.launch, self.launch)
        facts = function(context)
        self.inputs[name] = self._artifact(name, out / "out", facts.to_json())
        return facts

    def check(self, name: str) -> bool:
        step, check = next((step, check) for step, check in CHECKS if check.name == name)
        return check.ask(self.inputs[step], self.task.spec).passed


def weights(folder: Path) -> bytes:
    return (folder / "adapter/adapter_model.safetensors").read_bytes()


def test_rows_that_judge_stay_out_and_the_better_adapter_goes_on(tmp_path: Path) -> None:
    made = Steps(tmp_path, pairs=106)
    rows: PreferenceFacts = made.make("preference_rows", steps.make_preference_rows)
    assert (rows.of_files, rows.kept, rows.left_out, rows.too_few) == (106, 104, {"like_judging_row": 2}, "")
    assert made.check("preferences_accounted_for") and made.check("enough_preferences")
    assert len(read_rows(tmp_path / "preference_rows/out" / PREFERENCES)) == 104
    supervised = made.make("supervised_adapter", training.make_supervised)
    second = made.make("refined_adapter", steps.make_refined)
    facts = made.make("adapter", steps.make_adapter)
    refinement = facts.refinement
    assert refinement is not None and refinement.training is not None and refinement.choice is not None
    assert replace(facts, refinement=None) == supervised, "all other facts are those of the first stage"
    assert (refinement.training.rows, refinement.training.steps) == (104, 13)
    choice, first = refinement.choice, weights(tmp_path / "supervised_adapter/out")
    assert refinement.choice == second.choice
    refined = weights(tmp_path / "refined_adapter/out")
    assert refined != first and choice.rows == 12
    assert weights(tmp_path / "adapter/out") == (refined if choice.refined else first)
    changed = read_rows(tmp_path / "refined_adapter/out" / CHANGED_ANSWERS)
    assert len(changed) == choice.changed and not tmp_path.joinpath("refined_adapter", "work", "judged").exists()

    other = replace(second, choice=replace(choice, refined=not choice.refined))
    made.inputs["refined_adapter"] = replace_facts(made.inputs["refined_adapter"], other.to_json())
    (tmp_path / "adapter").rename(tmp_path / "before")
    made.make("adapter", steps.make_adapter)
    assert weights(tmp_path / "adapter/out") == (first if choice.refined else refined), "the other one, as decided"


def test_with_few_preferences_the_first_stage_goes_on_alone(tmp_path: Path) -> None:
    made = Steps(tmp_path, pairs=40)
    rows = made.make("preference_rows", steps.make_preference_rows)
    assert rows.too_few == "38 pairs; a second stage with dpo needs 100" and not made.check("enough_preferences")
    made.make("supervised_adapter", training.make_supervised)
    before = len(made.jobs)
    made.make("refined_adapter", steps.make_refined)
    facts = made.make("adapter", steps.make_adapter)
    assert facts.refinement.too_few == rows.too_few and len(made.jobs) == before, "nothing is trained or merged"
    assert weights(tmp_path / "adapter/out") == weights(tmp_path / "supervised_adapter/out")


def test_what_people_prefer_goes_on_without_training_again(tmp_path: Path) -> None:
    made = Steps(tmp_path, pairs=106, output={"kind": "text"})
    made.make("preference_rows", steps.make_preference_rows)
    made.make("supervised_adapter", training.make_supervised)
    second = made.make("refined_adapter", steps.make_refined)
    first, refined = (weights(tmp_path / name / "out") for name in ("supervised_adapter", "refined_adapter"))
    assert second.choice.reasons, "a tiny model gains nothing surely on 12 rows"
    trained = len(made.jobs)
    made.make("adapter", steps.make_adapter)
    assert weights(tmp_path / "adapter/out") == first

    (tmp_path / "adapter").rename(tmp_path / "before")
    hopeful = replace(second, choice=replace(second.choice, reasons=[NO_GAIN], phrases=[], longer=None, form=NO_LOSS))
    made.inputs["refined_adapter"] = replace_facts(made.inputs["refined_adapter"], hopeful.to_json())
    people_prefer(made, rows=30)
    facts = made.make("adapter", steps.make_adapter)
    choice = facts.refinement.choice
    assert choice.refined and (choice.people.rated, choice.people.refined) == (30, 30)
    assert weights(tmp_path / "adapter/out") == refined and len(made.jobs) == trained, (
        "nothing is trained or asked again"
    )
    assert steps.preferred_stages(made.task, made.store) == [made.inputs["refined_adapter"].version]


def people_prefer(made: Steps, rows: int) -> None:
    """Rate so many rows of the second stage: the refined answer is better."""
    version, secret = made.inputs["refined_adapter"].version, secret_of(made.store)
    sheet = sheet_name(version, rows)
    lines = [
        {
            "sheet": sheet,
            "id": f"e{i}",
            "choice": "A" if candidate_is_a(secret, sheet, f"e{i}") else "B",
            "rater": "ann",
        }
        for i in range(rows)
    ]
    folder = made.task.folder / "reviews" / SECOND_STAGE
    folder.mkdir(parents=True)
    write_rows(folder / "ann.jsonl", lines)


def test_preferences_that_change_during_a_run_stop_it(tmp_path: Path) -> None:
    made = Steps(tmp_path, pairs=10)
    with pytest.raises(JobError, match="preferences"):
        made.make("preference_rows", steps.make_preference_rows, "of other files")
