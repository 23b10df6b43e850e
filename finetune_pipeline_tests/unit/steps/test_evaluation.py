"""The evaluation stage over several candidates: the test is opened on the record, its rows are gone afterwards, the level
falls, and the regression ledger grows. The models are stand-ins; files, seal, ledgers, gates and pages are real."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from finetune_pipeline.data.dedup.row_table import prompt_hash
from finetune_pipeline.data.examples import SealedError, read_examples, seal, write_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.perturbations import drawn
from finetune_pipeline.data.split.ledger import ENTRY, SPLITS, record_assignments
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.step import RunInputs, StepContext, no_tool
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.endpoint_answers import hosted_answerer
from finetune_pipeline.evaluation.predictions import of_model, read_predictions, write_predictions
from finetune_pipeline.evaluation.probabilities import ON_VALIDATION
from finetune_pipeline.evaluation.production_rows import PRODUCTION_SET
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.sealed import LEDGER
from finetune_pipeline.evaluation.simple_models import FITTED
from finetune_pipeline.jobs import MergeJob, ModelSet, PredictJob
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.planning.serving_costs import HOURS
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.asked_models import while_served
from finetune_pipeline.steps.data import sealing_key
from finetune_pipeline.steps.evaluation import make_evaluation_report, make_test_predictions
from finetune_pipeline_tests.model_facts import merged
from finetune_pipeline_tests.openai_server import openai_server
from finetune_pipeline_tests.trainings import SECOND_STAGE
from finetune_pipeline_tests.unit.data.rows import example
from finetune_pipeline_tests.unit.evaluation.baselines import baseline_of
from finetune_pipeline_tests.unit.evaluation.fake_run import ABILITY, DATA, QUALITY, TRAINING
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row, rows, spec
from finetune_pipeline_tests.unit.planning.plans import planned

N = 120


class Stage:
    """A store with splits, a baseline, and candidates to be judged one after another."""

    def __init__(self, root: Path, **sections: Any) -> None:
        self.root, self.spec = root, spec(**sections)
        self.store = ArtifactStore(root / "store")
        self.brittle = "nothing"
        self.refinement: dict[str, Any] | None = None
        self.first_right = 0
        self.merges: list[MergeJob] = []
        self.logged: list[dict[str, Any]] = []
        self.serving: list[dict[str, Any]] = []
        self.jobs: list[PredictJob] = []
        self.splits = self._artifact("splits", "s1", DATA["splits"])
        examples = [example(f"ticket number {i}", LABELS[i % 3], line=i) for i in range(N)]
        self.ids = [e.id for e in examples]
        train = [example(f"t {i}", LABELS[i % 3]) for i in range(9)]
        write_examples(self.splits.folder / "train/examples.jsonl", train)
        write_examples(self.splits.folder / "validation/examples.jsonl", [example("v 1", LABELS[0])])
        write_examples(self.splits.folder / "test/sealed.jsonl", examples)
        self.sealed = self.splits.folder / "test/sealed.jsonl"
        self.sealed.write_bytes(seal(self.sealed.read_bytes(), sealing_key(self.work("none", self.root / "key"))))

    def _artifact(self, step: str, version: str, facts: Any) -> Artifact:
        folder = self.root / step / version
        for name in ("train", "test", "adapter", FITTED):
            (folder / name).mkdir(parents=True, exist_ok=True)
        write_json(folder / "measured.json", {"seconds": 1.0})
        write_json(folder / "prompts.json", {"zero_shot": {}})
        (folder / FITTED).mkdir(exist_ok=True)
        return Artifact("triage", step, version, folder, facts, {"base_model": "b1", "adapter": version})

    def work(
        self,
        candidate: str,
        out: Path,
        never_break: list[str] | None = None,
        promoted: dict[str, Any] | None = None,
        champion: dict[str, Any] | None = None,
        **more: Artifact,
    ) -> StepContext:
        out.mkdir(parents=True, exist_ok=True)
        baseline = score_baselines(self.spec, {"zero_shot": rows([("bug", "no"), ("bug", "bug")] * 20)})
        judged = {
            "adapter": TRAINING | {"refinement": self.refinement}, "supervised_adapter": TRAINING, "merged_model": merged(),
            "general_ability": ABILITY,
            "human_review": {"rated": 0}, "judge_review": {"judge": None, "similarity": None},
        }  # fmt: skip
        before = {
            **DATA, "reviewed_examples": {}, "base_model": {}, "few_shot_baseline": baseline_of(baseline).to_json(), "advice": {},
            "training_plan": planned(serving=self.serving), "data_quality": QUALITY, "production_logs": {},
        }  # fmt: skip
        inputs = {
            **{name: self._artifact(name, "b1", facts) for name, facts in before.items()},
            **{name: self._artifact(name, candidate, facts) for name, facts in judged.items()},
            **dict.fromkeys(("splits", "train_split", "validation_split", "test_split"), self.splits),
            **more,
        }
        write_rows(inputs["production_logs"].folder / "judging.jsonl", self.logged)
        validated = rows([("bug", "no"), ("bug", "bug")] * 20, "zero_shot")
        write_predictions(inputs["few_shot_baseline"].folder / "predictions.parquet", validated)
        world = RunInputs("r", "v", "l", "c", {}, champion, promoted, never_break or [])
        task = Task(spec=self.spec, folder=self.root)
        return StepContext(task, world, inputs, Builder(out, out / "work"), self.store, self.launch, no_tool)

    def launch(self, job: PredictJob | MergeJob) -> dict[str, Any]:
        """Base is right on every third row, the candidate on as many of the first rows as its name says, the first stage on
        `first_right`; on production rows base is right on every second, and the candidate on all; a planted fault makes it
        wrong."""
        if isinstance(job, MergeJob):
            self.merges.append(job)
            return merged()
        examples = read_examples(job.examples)
        self.jobs.append(job)
        assert job.answers.file.name == "test_triage.sqlite", "no other step is given answers to test rows"
        made = []
        for model_set in job.sets:
            model, _, kind = model_set.name.partition(":")
            n_right = self.first_right if model == "supervised" else 0
            if model in ("candidate", "refined"):
                n_right = int(model_set.model.name.partition("-")[0])
            every = read_examples(model_set.examples) if model_set.examples else examples
            asked = every if not model_set.perturbed else drawn(every, model_set.perturbed.rows, 0)
            more = {"label_scores": []} if kind == PRODUCTION_SET else {}
            for i, e in ((i, e) for i, e in enumerate(every) if e in asked):
                by_chance, best = i % (2 if kind == PRODUCTION_SET else 3) == 0, kind == PRODUCTION_SET or i < n_right
                is_right = by_chance if model == "base" else best and kind != self.brittle
                answer = e.answer if is_right else LABELS[(LABELS.index(e.answer) + 1) % 3]
                made.append(row(0, e.answer, answer, model_set.name, example_id=e.id, **more))
        constant = [row(0, e.answer, LABELS[0], "simple_commonest", example_id=e.id, label_scores=[]) for e in examples]
        simple = constant if job.simple else []
        write_predictions(job.out / "predictions.parquet", [*made, *simple])
        return {"rows": len(examples), "sets": {}}

    def predict(
        self, candidate: str, never_break: list[str] | None = None, promoted: dict[str, Any] | None = None
    ) -> Artifact:
        context = self.work(candidate, self.root / "predicted" / candidate, never_break, promoted)
        facts = make_test_predictions(context)
        return Artifact("triage", "test_predictions", candidate, context.out, facts.to_json(), {})

    def report(
        self,
        predictions: Artifact,
        never_break: list[str] | None = None,
        promoted: dict[str, Any] | None = None,
        champion: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        out = self.root / "report" / predictions.version
        context = self.work(predictions.version, out, never_break, promoted, champion, test_predictions=predictions)
        return make_evaluation_report(context).to_json()

    def judge(
        self, candidate: str, never_break: list[str] | None = None, promoted: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return self.report(self.predict(candidate, never_break, promoted), never_break, promoted)

    def gate(self, result: dict[str, Any], name: str) -> dict[str, Any]:
        return {g["name"]: g for g in result["gates"]}[name]


def test_candidates_one_after_another(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    first = stage.judge("90-a")
    assert first["passed"] is True, first["verdict"]
    assert (first["seal"]["level"]["look"], first["seal"]["level"]["level"]) == (1, pytest.approx(0.05))
    assert not stage.jobs[0].examples.exists(), "the readable copy is gone"
    plain, listed = stage.spec, [stage.ids[0], stage.ids[110]]
    stage.spec = spec(gates={"never_break": listed})
    second = stage.judge("100-b", listed)
    stage.spec = plain
    assert [g["name"] for g in second["gates"] if not g["passed"]] == ["never_break"]
    assert f"Of 2 listed examples 1 wrong: {stage.ids[110]}" in stage.gate(second, "never_break")["message"]
    assert (second["seal"]["level"]["look"], second["seal"]["count"]) == (2, 2)
    assert second["seal"]["level"]["confidence"] == pytest.approx(1 - 0.05 / 3)
    assert second["history"]["versions"] == [
        {"candidate": "90-a", "rows": N, "fixed": 10, "broken": 0, "both_right": 90, "both_wrong": 20}
    ]
    again = stage.judge("90-a")
    assert (again["seal"]["level"]["look"], again["seal"]["count"]) == (1, 2), "the same candidate keeps its number"
    assert again["history"]["versions"] == []
    third = stage.judge("80-c")
    assert [v["candidate"] for v in third["history"]["versions"]] == ["90-a", "100-b"]
    assert third["history"]["lost_total"] == 10
    page = (tmp_path / "report/80-c/report.html").read_text()
    assert "This is judgement 3 by this test" in page and "Both right" in page
    assert third["production"] is None and stage.jobs[-1].endpoint is None


def test_an_error_is_promised_at_a_threshold_that_validation_chose_and_the_test_has_shown(tmp_path: Path) -> None:
    stage = Stage(tmp_path, automation={"max_error": 0.1})
    validation = [example(f"v {i}", LABELS[i % 3]) for i in range(60)]
    write_examples(stage.splits.folder / "validation/examples.jsonl", validation)
    good = stage.judge("120-a")
    (asked,) = [model_set for model_set in stage.jobs[0].sets if model_set.name == ON_VALIDATION]
    assert asked.likelihoods and asked.examples == stage.splits.folder / "validation/examples.jsonl"
    assert stage.gate(good, "automation")["status"] == "passed" and good["passed"] is True, stage.gate(
        good, "automation"
    )["message"]
    page = (tmp_path / "report/120-a/report.md").read_text()
    assert "Answers 100% (96.9% to 100%) by itself, at most 10.0% wrong (0 of 120 seen" in page
    bad = stage.judge("90-b")  # as sure where it is wrong
    assert stage.gate(bad, "automation")["status"] == "failed" and bad["passed"] is False
    stage.spec = spec(automation={"max_error": 0.2})
    again = stage.judge("90-b")
    assert again["seal"]["level"]["look"] == 3, "another promise is another chance"


def test_the_teacher_is_asked_the_sealed_rows_once_and_every_candidate_is_compared_with_it(tmp_path: Path) -> None:
    def mind(body: dict[str, Any], seen: int) -> str:
        number = int(body["messages"][-1]["content"].rsplit(" ", 1)[1])
        return LABELS[(number + (number % 10 == 0)) % 3]

    price = {"engine": "e", "model": "large", "unit": "million_served", "input": 10.0, "output": 30.0}
    (tmp_path / "prices.yaml").write_text(json.dumps([{**price, "date": "2026-12-01", "note": "made up"}]))
    with openai_server(mind) as server:
        endpoint = {"url": server.url, "model": "large"}
        stage = Stage(tmp_path, teacher={"endpoint": endpoint, "allowed": True, "budget_usd": 1.0, "answers": 2})
        good, bad = stage.judge("118-a"), stage.judge("90-b")
        assert len(server.requests) == 2 * N, "the second candidate's run buys nothing"
    assert good["passed"] is True and stage.gate(good, "not_worse_than_teacher")["status"] == "passed"
    assert stage.gate(bad, "not_worse_than_teacher")["status"] == "failed" and bad["passed"] is False
    teacher = good["teacher"]
    assert (teacher["n"], teacher["kept"], teacher["kept_wrong"]) == (N, N, 12) and teacher["beaten_by"] == []
    assert teacher["comparison"]["base"] == 0.9 and teacher["dollars_per_1k"] == pytest.approx(0.16)
    said = (
        "The fine-tuned model reaches accuracy 98.3%, the teacher 90.0% (+8.3 points, +2.6 to +15.3; 120 rows), at $0.16 for "
        "1,000 answers of the teacher. Of the answers that the teacher agrees on with itself 10.0% (5.8% to 16.7%) are wrong"
    )
    assert said in good["verdict"]
    assert said[:60] in (tmp_path / "report/118-a/report.md").read_text()
    assert good["cost"]["teacher_month"] is None, "the price list has no machine"


@pytest.mark.parametrize(("calls", "words"), [(None, "costs $349 more"), (4_000_000, "saves $275")])
def test_the_verdict_says_what_the_student_saves_a_month(tmp_path: Path, calls: int | None, words: str) -> None:
    """At $0.16 for 1,000 answers of the teacher, and $0.50 an hour for a machine."""
    price = {"engine": "e", "model": "large", "unit": "million_served", "input": 10.0, "output": 30.0}
    (tmp_path / "prices.yaml").write_text(json.dumps([{**price, "date": "2026-12-01", "note": "made up"}]))
    teacher = {"allowed": True, "budget_usd": 1.0, "answers": 1}
    with openai_server(lambda body, seen: LABELS[int(body["messages"][-1]["content"].rsplit(" ", 1)[1]) % 3]) as server:
        endpoint = {"endpoint": {"url": server.url, "model": "large"}}
        stage = Stage(tmp_path, teacher={**teacher, **endpoint}, advise={"calls_per_month": calls})
        box = {"engine": "box", "model": "any", "unit": "hour", "price": 0.5, "date": "2026-12-01", "note": "made up"}
        stage.serving = [
            {
                **box,
                "tokens_per_second": 900.0,
                "parameters": 1e8,
                "answered_per_second": 900.0,
                "answered_low": 900.0,
                "answered_high": 900.0,
            }
        ]
        judged = stage.judge("118-a")
    month = judged["cost"]["teacher_month"]
    assert (month["calls"], month["is_known"]) == (calls or 100_000, calls is not None)
    assert month["student"] == pytest.approx(0.5 * HOURS) and month["teacher"] == pytest.approx(
        month["calls"] * 0.00016
    )
    unknown = "" if calls else " (set advise.calls_per_month for yours)"
    said = f"{month['calls']:,} calls a month{unknown} it {words} by the price list"
    assert said in judged["verdict"], judged["verdict"]


def test_a_candidate_judged_again_by_other_rules_is_another_look(tmp_path: Path) -> None:
    """Without new answers, too: only the report is made again."""
    stage = Stage(tmp_path)
    predictions = stage.predict("90-a")
    looks = [stage.report(predictions)["seal"]["level"]["look"]]
    for section, key, value in (
        ("gates", "confidence", 0.9),
        ("gates", "min_gain", 0.01),
        ("robustness", "max_drop", 0.5),
        ("baseline", "shots", [0]),
        ("baseline", "batch_size", 4),  # how it is asked: no further chance
        ("evaluation", "precision", "float32"),
        ("gates", "wanted_gain", 0.2),  # for planning
    ):
        stage.spec = spec(**{section: {key: value}})
        looks.append(stage.report(predictions)["seal"]["level"]["look"])
    stage.spec = spec()
    looks.append(stage.report(predictions)["seal"]["level"]["look"])
    assert looks == [1, 2, 3, 4, 5, 1, 1, 1, 1]
    listed = [json.loads(line) for line in (stage.store.state_folder("triage") / LEDGER).read_text().splitlines()]
    assert len({row["rules"] for row in listed}) == len(listed) == 5 and {row["candidate"] for row in listed} == {
        "90-a"
    }


@pytest.mark.parametrize("serves", [True, False])
def test_a_model_that_was_promoted_is_no_candidate(tmp_path: Path, serves: bool) -> None:
    stage = Stage(tmp_path)
    first = stage.judge("90-a")
    assert (first["decision"], first["passed"]) == ("promote", True)
    stage.spec = spec(gates={"min_gain": 0.9, "wanted_gain": 0.95})
    again = stage.judge("90-a", promoted={"model_version": 3, "serves": serves})
    assert (again["decision"], again["passed"]) == ("known", False)
    assert (again["seal"]["level"]["look"], again["seal"]["count"]) == (1, 1)
    says = "This model is the champion already (version 3)"
    if not serves:
        says = "This model is version 3 already, which was champion before"
    assert again["verdict"].startswith(says) and "it would be refused by beats_baseline" in again["verdict"]
    page = (tmp_path / "report/90-a/report.md").read_text()
    assert says in page.split("##")[0] and "Ship nothing" not in page and "Refused" not in page
    stage.spec = spec()
    assert stage.judge("91-b")["seal"]["level"]["look"] == 2


def test_the_report_says_first_that_the_champion_was_trained_on_forgotten_rows(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    champion = {"adapter": "a", "merged": "m", "model_version": 1}
    predictions = stage.predict("90-a")
    answers = read_predictions(predictions.folder / "predictions.parquet")
    beside = [{**r, "model": "champion"} for r in of_model(answers, "candidate")]
    write_predictions(predictions.folder / "predictions.parquet", [*answers, *beside])
    tied, replaced = (stage.report(predictions, champion=champion | more) for more in ({}, {"forgotten": True}))
    assert [g["name"] for g in tied["gates"] if not g["passed"]] == ["beats_champion"]
    assert replaced["passed"] is True, replaced["verdict"]
    assert replaced["seal"]["level"]["look"] == 3, "judged by other rules"
    says = (
        "The champion was trained on forgotten rows, so a candidate replaces it unless it surely loses more than 2.0 points "
        "(gates.champion_margin)."
    )
    assert replaced["verdict"].startswith(f"Ship the fine-tuned model: wrong in 25 of 100 answers. {says}")
    assert says in (tmp_path / "report/90-a/report.md").read_text().split("##")[0].replace("\\", "")


@pytest.mark.parametrize(("learned", "splits_are_gone"), [(70, False), (70, True), (110, False), (0, False)])
def test_a_champion_is_not_compared_on_rows_that_it_learned(
    tmp_path: Path, learned: int, splits_are_gone: bool
) -> None:
    """After split.restart, test rows are among those that the champion was trained on, where it makes no mistake."""
    stage = Stage(tmp_path)
    state, texts = stage.store.state_folder("triage"), [f"ticket number {i}" for i in range(learned)]
    entries = np.zeros(len(texts) + 1, ENTRY)
    entries["key"] = [prompt_hash(text) for text in [*texts, "v 1"]]
    entries["split"][-1] = SPLITS.index("validation")
    record_assignments(entries, state / "splits")

    def make_splits(builder: Builder) -> None:
        rows = {"train": [example(text, LABELS[i % 3], line=i) for i, text in enumerate(texts)], "validation": []}
        for name, its_rows in rows.items():
            (builder.folder / name).mkdir()
            write_examples(builder.folder / name / "examples.jsonl", its_rows)

    key = {"code_version": "1", "settings": None}
    old = stage.store.build("triage", "splits", inputs={}, make=make_splits, **key)
    inputs = {"train_split": old.version}
    adapter = stage.store.build("triage", "adapter", inputs=inputs, make=lambda builder: None, **key)
    if splits_are_gone:
        shutil.rmtree(old.folder)
    champion = {"adapter": adapter.version, "merged": "m", "model_version": 1}
    predictions = stage.predict("116-a")
    answers = read_predictions(predictions.folder / "predictions.parquet")
    wrong = {row["gold"]: LABELS[(LABELS.index(row["gold"]) + 1) % 3] for row in answers}
    beside = [
        {**r, "model": "champion", "text": r["gold"] if i < learned or i % 2 else wrong[r["gold"]], "label_scores": []}
        for i, r in enumerate(of_model(answers, "candidate"))
    ]
    write_predictions(predictions.folder / "predictions.parquet", [*answers, *beside])
    result = stage.report(predictions, champion=champion)
    page, report = ((tmp_path / "report/116-a" / name).read_text() for name in ("report.md", "report.json"))
    left, gate = N - learned, stage.gate(result, "beats_champion")
    assert json.loads(report)["champion_learned"] == learned
    if left < 20:
        assert gate["status"] == stage.gate(result, "few_regressions")["status"] == "failed"
        assert f"was trained on {learned} of the {N} test rows: {left} are left, and 20 are needed" in gate["message"]
        assert "`champion`" in gate["what_to_do"] and "champion" not in result["models"]
        return
    compared = json.loads(report)["comparisons"]["champion"]
    # the champion is wrong on every second row that is left, the candidate on the last four of all rows
    assert (compared["n"], compared["c"], compared["b"]) == (left, left // 2 - 2, 2)
    assert result["models"]["champion"]["n"] == left and gate["status"] == "passed", gate
    assert f"({left} rows)" in gate["message"]
    says = f"on the {left} test rows that it was not trained on; {learned} were left out"
    assert (says in result["verdict"] and says in page.split("##")[0]) is (learned > 0)


def test_loosened_gates_are_named_wherever_the_verdict_is_said(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.brittle = "case"
    loose: dict[str, Any] = {
        "gates": {"confidence": 0.55, "simple_margin": 0.6, "min_valid_share": 0.05},
        "robustness": {"max_drop": 1.0},
    }
    stage.spec = spec(**loose)
    result = stage.judge("118-a")
    assert (result["decision"], result["passed"]) == ("promote", True)
    named = [
        "gates.confidence 0.55 (default 0.95)",
        "gates.simple_margin 0.6 (default 0.02)",
        "gates.min_valid_share 0.05 (default 0.95)",
        "robustness.max_drop 1 (default 0.1)",
    ]
    assert sorted(result["loosened"].split("; ")) == sorted(named)
    first_screen = (tmp_path / "report/118-a/report.md").read_text().split("##")[0].replace("\\", "")
    for place in (result["verdict"], first_screen):
        assert not [text for text in named if text not in place]
        assert "By the defaults robust does not pass." in place
        assert "Another case cost more than 10.0 points" in place
    assert "**Ship the fine-tuned model, but only if you accept the loosened gates: wrong in " in first_screen
    stored = json.loads((tmp_path / "report/118-a/report.json").read_text())["loosened"]
    assert [gate["name"] for gate in stored["held_back_by"]] == ["robust"]

    stage.spec = spec(gates={"max_regression": 0.1}, robustness={"max_drop": 0.05})
    stage.brittle = "nothing"
    stricter = stage.judge("117-b")
    assert stricter["loosened"] == "" and "ooser than" not in stricter["verdict"]
    assert (
        "**Ship the fine-tuned model: wrong in 3 of 100 answers.**" in (tmp_path / "report/117-b/report.md").read_text()
    )

    stage.spec, stage.brittle = spec(robustness={"rows": 0}), "case"
    unmeasured = stage.judge("116-c")
    assert unmeasured["loosened"] == "robustness.rows 0 (default 60)"
    assert "By the defaults" not in unmeasured["verdict"], "what was not measured is not known"
    assert (
        "**Ship the fine-tuned model, by loosened gates: wrong in " in (tmp_path / "report/116-c/report.md").read_text()
    )


def test_perturbed_rows_are_asked_in_the_same_opening_and_may_block(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    clean = stage.judge("118-a")
    assert clean["passed"] is True and clean["seal"]["count"] == 1
    names = ["base", *(f"candidate{kind}" for kind in ("", ":typos", ":case", ":courtesy", ":no_system"))]
    assert [model_set.name for model_set in stage.jobs[0].sets] == names
    assert clean["robustness"]["kinds"]["case"]["n"] == 60
    stage.brittle = "case"
    brittle = stage.judge("119-b")
    assert [g["name"] for g in brittle["gates"] if not g["passed"]] == ["robust"]
    assert "another case -" in stage.gate(brittle, "robust")["message"]
    assert "Another case cost more than 10.0 points" in (tmp_path / "report/119-b/report.html").read_text()


def logged(i: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"r{i}", "timestamp": f"2026-05-{1 + i % 28:02d}T10:00:00+00:00", "model_version": "1",
        "input": f"what came in later as {i * 7919} {i * 104729} of {i * 1299709}", "output": LABELS[0],
        "correction": LABELS[i % 3], "user": f"u{i}", "turns": None, "source": {}, **more,
    }  # fmt: skip


def test_recent_production_rows_stand_beside_the_test_and_may_refuse(tmp_path: Path) -> None:
    stage = Stage(tmp_path, robustness={"rows": 0})
    stage.logged = [logged(i) for i in range(45)]
    stage.logged += [logged(50, input="Ticket  number 3"), logged(51, input="t 1")]
    better = stage.judge("119-c")
    assert better["passed"] is True
    result = better["production"]
    assert (result["n"], result["rows"]["left_out"]) == (45, {"in_the_training_set": 2})
    assert result["comparisons"]["base"]["gain"] == pytest.approx(22 / 45)
    names = ["base", "candidate", "base:production", "candidate:production"]
    assert [s.name for s in stage.jobs[-1].sets] == names
    assert not stage.jobs[-1].sets[2].examples.exists()
    stage.brittle = PRODUCTION_SET
    worse = stage.judge("120-d")
    assert [g["name"] for g in worse["gates"] if not g["passed"]] == ["recent_production"]
    assert "-51.1 points against the base" in stage.gate(worse, "recent_production")["message"]


def test_the_first_stage_answers_in_the_same_opening_only_where_the_second_stage_goes_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, robustness={"rows": 0}, training={"refine": {"method": "kto"}})
    stage.refinement, stage.first_right = SECOND_STAGE, 80
    better = stage.judge("100-a")
    assert stage.gate(better, "beats_supervised")["status"] == "passed" and better["passed"] is True
    (job,), (merge,) = stage.jobs, stage.merges
    base, candidate, first = job.sets
    assert first == replace(candidate, name="supervised", model=merge.out) and base.name == "base"
    assert merge.adapter == tmp_path / "supervised_adapter/100-a/adapter" and better["seal"]["count"] == 1
    assert better["models"]["supervised"]["accuracy"] == pytest.approx(80 / N)
    assert "first stage alone" in (tmp_path / "report/100-a/report.md").read_text()
    tie = stage.judge("80-b")
    assert [g["name"] for g in tie["gates"] if not g["passed"]] == ["beats_supervised"] and tie["passed"] is False

    stage.refinement = {"choice": SECOND_STAGE["choice"] | {"refined": False, "reasons": ["no sure gain"]}}
    kept = stage.judge("90-c")
    assert stage.gate(kept, "beats_supervised")["status"] == "not_asked" and kept["passed"] is True
    assert len(stage.merges) == 2 and [each.name for each in stage.jobs[-1].sets] == ["base", "candidate"]


def test_both_stages_answer_here_where_the_candidate_answers_at_an_endpoint(tmp_path: Path) -> None:
    server = {"url": "http://127.0.0.1:9/v1", "base": "b", "candidate": "c"}
    stage = Stage(
        tmp_path,
        robustness={"rows": 0},
        training={"refine": {"method": "kto"}},
        evaluation={"engine": "endpoint", "endpoint": server},
    )
    stage.refinement, stage.first_right = SECOND_STAGE, 80
    result = stage.judge("100-a")
    served, here = stage.jobs
    assert [each.name for each in served.sets] == ["base", "candidate"] and served.endpoint
    assert [each.name for each in here.sets] == ["supervised", "refined"] and here.endpoint is None
    assert here.sets[1].model == served.sets[1].model and here.examples == served.examples
    assert stage.gate(result, "beats_supervised")["status"] == "passed" and result["seal"]["count"] == 1
    assert "both stages, answering here" in (tmp_path / "report/100-a/report.md").read_text()


def test_no_other_step_can_read_the_test(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(SealedError, match="Only test_predictions opens it"):
        read_examples(stage.sealed)
    assert b"ticket number" not in stage.sealed.read_bytes()


def test_a_hosted_model_is_asked_with_the_requests_at_once_that_its_trainer_allows(tmp_path: Path) -> None:
    hosted = HostedModel(base_url="https://api.openai.com/v1", model="ft:1", trainer="openai", base_model="gpt")
    training = {"trainer": "openai", "openai": {"model": "gpt", "concurrency": 7}}
    context = SimpleNamespace(spec=spec(training=training), store=SimpleNamespace(root=tmp_path / "artifacts"))
    with ExitStack() as services:
        tuned = ModelSet(name="candidate", model=tmp_path, hosted=hosted.to_json())
        sets = [tuned, ModelSet(name="base", model=tmp_path)]
        candidate, base = while_served(context, sets, services)
    assert base.concurrency is None
    answerer = hosted_answerer(hosted, tmp_path, None, candidate.concurrency)
    assert answerer.endpoint.concurrency == 7
