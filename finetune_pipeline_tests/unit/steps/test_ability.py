"""General ability of base, champion and candidate: tiny models, real scoring, the store as a run leaves it."""

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pytest

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.step import RunInputs, StepContext, no_tool
from finetune_pipeline.engine.store import MANIFEST, Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.ability.drop import Ability, Scored, ability_drop, read_ability
from finetune_pipeline.evaluation.ability.scoring import ability
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.report.judgements import ability_sentences
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.ability import ability_digest, asked_items, make_base_ability, make_general_ability
from finetune_pipeline_tests.model_facts import merged
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.evaluation.rows import spec

WORDS = ("billing", "invoice", "month", "export", "login", "refund")


def write_items(path: Path, n: int) -> None:
    """Write n questions whose right choice changes from row to row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"query": f"{path.stem} {i}: my {WORDS[i % 6]} is wrong, so", "choices": WORDS[:4], "gold": i % 4}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


class Stage:
    def __init__(self, root: Path) -> None:
        self.root, self.store = root, ArtifactStore(root / "store")
        folder = root / "task"
        write_items(folder / "pick.jsonl", 20)
        write_items(folder / "other.jsonl", 12)
        stage_spec = spec(ability={"suite": False, "files": ["*.jsonl"]})
        self.task = Task(spec=stage_spec, folder=folder)
        self.base = self._model("shared", "base_model", "b1", seed=0)
        self._model("triage", "merged_model", "champion", seed=1)
        self.candidate = self._model("triage", "merged_model", "candidate", seed=2)

    def _model(self, task: str, step: str, version: str, seed: int) -> Artifact:
        folder = make_tiny_model(self.store.root / task / step / version, seed=seed)
        facts, inputs = merged(), {"base_model": "b1"}
        write_json(folder / MANIFEST, {"facts": facts, "files": {}, "inputs": inputs})
        return Artifact(task, step, version, folder, facts, inputs)

    def work(self, name: str, champion: str | None, **inputs: Artifact) -> StepContext:
        out = self.root / name
        out.mkdir(parents=True, exist_ok=True)
        serving = {"adapter": "a", "merged": champion, "model_version": 3} if champion else None
        world = RunInputs("r", "v", "l", "c", {}, serving, ability=ability_digest(self.task))
        builder = Builder(out, out / "work")
        return StepContext(
            self.task, world, inputs, builder, self.store, lambda job: ability(job)[0].to_json(), no_tool
        )

    def compared(self, champion: str | None) -> tuple[Scored, Ability]:
        base = make_base_ability(self.work("before", None, base_model=self.base))
        before = Artifact("triage", "base_ability", "x", self.root / "before", base.to_json(), {})
        inputs = {"base_ability": before, "base_model": self.base, "merged_model": self.candidate}
        return base, make_general_ability(self.work("after", champion, **inputs))


def test_base_champion_and_candidate_are_compared_pair_by_pair(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    base, general = stage.compared("champion")
    assert (base.items, general.items) == (32, 32)
    rows = {name: read_ability(tmp_path / place) for name, place in (("base", "before"), ("own", "after"))}
    rows["champion"] = read_ability(tmp_path / "after" / "champion")
    for category in ("pick", "other"):
        n_right = {n: sum(r["right"] for r in of if r["category"] == category) for n, of in rows.items()}
        n = general.categories[category].n
        assert general.categories[category].drop == pytest.approx((n_right["base"] - n_right["own"]) / n)
        against = general.champion.categories[category]
        assert against.drop == pytest.approx((n_right["champion"] - n_right["own"]) / n)
        assert against.interval[0] <= against.drop <= against.interval[1]
    assert rows["base"] != rows["champion"] != rows["own"]
    assert "The current champion has" in " ".join(ability_sentences(general))


def test_without_a_champion_nothing_is_compared_and_a_lost_one_is_named(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    _, general = stage.compared(None)
    assert general.champion is None
    assert "champion" not in " ".join(ability_sentences(general))
    with pytest.raises(RuntimeError, match="merged_model gone"):
        stage.compared("gone")


def test_rows_that_change_under_a_run_stop_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    work = stage.work("before", None, base_model=stage.base)
    write_items(tmp_path / "task" / "pick.jsonl", 3)
    with pytest.raises(JobError, match="changed since this run began"):
        make_base_ability(work)


@pytest.mark.parametrize(
    ("rows", "measured"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', False),
        ('{"text": "a"}\n{"query": "q", "choices": ["a", "b"], "gold": 0, "id": "i"}\n', True),
    ],
)
def test_texts_without_a_question_are_refused_before_anything_is_trained(tmp_path, rows: str, measured: bool) -> None:
    (tmp_path / "texts.jsonl").write_text(rows)
    task = Task(spec=spec(ability={"suite": False, "files": ["texts.jsonl"]}), folder=tmp_path)
    with nullcontext() if measured else pytest.raises(FindingsError, match="no question, so no loss of accuracy"):
        assert ability_digest(task)


def test_files_of_one_name_whose_rows_have_one_id_are_compared_row_by_row(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        question = {"query": folder, "choices": ["a", "b"], "gold": 0, "id": "same"}
        (tmp_path / folder / "rows.jsonl").write_text(json.dumps(question) + "\n")
    task = Task(spec=spec(ability={"suite": False, "files": ["*/rows.jsonl"]}), folder=tmp_path)
    rows = [{**asdict(item), "right": True, "bits_per_byte": None, "error": ""} for item in asked_items(task)]
    assert ability_drop(rows, [rows[0], {**rows[1], "right": False}]).drop == 0.5
