"""A preference planted in 400 thumbs (short answers that mention no price) is learnt in the real graph and shown on the sealed
test; thumbs that are noise, or that reward flattery or length, keep the first stage's model."""

import html
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.predictions import read_by_model
from finetune_pipeline_tests.graph.project import LORA, Project, easy_rows
from finetune_pipeline_tests.skilled_model import CUES, LABELS, SYSTEM, WORDS, exchange, make_taught_model

SHORT, PRICED, FLATTERING = "{}", "{} for nine euros dear customer", "lovely question {}"
"""Kinds of right answers."""
RAMBLING = "{} for nine euros dear customer and we wish you all of our very best this day"
"""So long that flattery is a sure gain on few rows."""
THUMBS = 400
REFINE = {"method": "kto", "learning_rate": 0.003}
TRAINING = {**LORA, "learning_rate": 1e-5, "refine": REFINE}
"""The first stage hardly changes the model, as few rows do: it goes on quoting prices, which the references do not."""


def text_project(root: Path, usual: str, rare: str) -> Project:
    """A project whose base model knows the colours, and says them in the usual way nine times of ten."""

    def batches(rng: random.Random) -> list[list[Any]]:
        texts = easy_rows(32, rng.randrange(10**6))
        kinds = [usual if rng.random() < 0.9 else rare for _ in texts]
        return [
            [exchange(SYSTEM, row["text"], kind.format(row["label"])) for row, kind in zip(texts, kinds, strict=True)]
        ]

    words = [*WORDS, *CUES["red"], *CUES["blue"], *LABELS]
    base = make_taught_model(root / "base", batches, 120, words, [SYSTEM, usual, rare], knowledge=False)
    split, baseline = {"validation": 0.25, "test": 0.25}, {"shots": [0], "batch_size": 8}
    project = Project(root, base=base, training=TRAINING, output={"kind": "text"}, split=split, baseline=baseline)
    write_raw(project)
    return project


def write_raw(project: Project) -> None:
    project.write_rows([{"prompt": row["text"], "completion": row["label"]} for row in easy_rows(200)])


def continued(planted: Project, root: Path, step: str, **changes: Any) -> Project:
    """A copy of the project without the artifacts from `step` on."""
    kept = {name: planted.spec[name] for name in ("training", "output", "split", "baseline")}
    project = Project.continued(planted, root, step, **kept | changes)
    write_raw(project)
    return project


def train(project: Project) -> None:
    process = project.finetune("run", "colours", "--stage", "training")
    assert process.returncode == 0, process.stderr


def write_thumbs(project: Project, liked: str = SHORT, disliked: str = PRICED, noise: bool = False) -> None:
    """Rate as many right answers of either kind; with `noise` at random."""
    dice, lines = random.Random(0), []
    for i, row in enumerate(easy_rows(THUMBS, seed=77)):
        is_liked = i // 2 % 2 == 1
        answer = (liked if is_liked else disliked).format(row["label"])
        up = dice.random() < 0.5 if noise else is_liked
        lines.append(json.dumps({"prompt": f"{row['text']} thumb", "completion": answer, "label": up}) + "\n")
    (project.folder / "preferences").mkdir()
    (project.folder / "preferences/thumbs.jsonl").write_text("".join(lines))


def ran(root: Path, usual: str, rare: str, liked: str) -> Project:
    """A project whose thumbs like the rare kind of answers, run."""
    project = text_project(root, usual, rare)
    write_thumbs(project, liked, usual)
    code, output = project.run()
    assert code in (0, 2) and "steps" in output, output
    return project


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return ran(tmp_path_factory.mktemp("planted"), PRICED, SHORT, liked=SHORT)


def weights(folder: Path) -> bytes:
    return (folder / "adapter/adapter_model.safetensors").read_bytes()


def test_what_thumbs_planted_is_learnt_and_shown_on_the_sealed_test(planted: Project) -> None:
    answers = read_by_model(planted.artifact("test_predictions") / "predictions.parquet")
    first, both = answers["supervised"], answers["candidate"]
    prices = [sum("euros" in row["text"] for row in rows) for rows in (first, both)]
    words = [sum(len(row["text"].split()) for row in rows) / len(rows) for rows in (first, both)]
    assert len(first) == len(both) >= 40 and prices[0] > 0.9 * len(first) and prices[1] == 0, prices
    assert words[0] > 5 and words[1] == 1
    facts = planted.facts("adapter")["refinement"]
    assert facts["training"]["rows"] == THUMBS and facts["choice"]["refined"], facts["choice"]["sentence"]
    assert weights(planted.artifact("adapter")) == weights(planted.artifact("refined_adapter"))
    report = json.loads((planted.artifact("evaluation_report") / "report.json").read_text())
    stages = report["stages"]
    assert stages["rows"] == stages["changed"] == len(both) and stages["gain"]["interval"][0] > 0.4
    (gate,) = (gate for gate in report["gates"] if gate["name"] == "beats_supervised")
    assert gate["status"] == "passed" and gate["message"].startswith("The sealed test confirms the second stage: +")
    openings = (planted.home / "artifacts/colours/state/test_openings.jsonl").read_text().splitlines()
    assert len(openings) == 1


def test_thumbs_that_are_noise_keep_the_first_stage(planted: Project, tmp_path: Path) -> None:
    project = continued(planted, tmp_path, "preference_rows")
    write_thumbs(project, noise=True)
    train(project)
    refinement = project.facts("adapter")["refinement"]
    assert refinement["training"]["rows"] == THUMBS and "no sure gain" in refinement["choice"]["reasons"]
    assert weights(project.artifact("adapter")) == weights(project.artifact("supervised_adapter"))


def test_without_refine_the_first_stage_is_not_trained_again(planted: Project, tmp_path: Path) -> None:
    project = continued(planted, tmp_path, "refined_adapter", training={**TRAINING, "refine": {"method": "none"}})
    train(project)
    first, adapter = planted.artifact("supervised_adapter"), project.artifact("adapter")
    assert weights(adapter) == weights(first) and project.facts("adapter") == planted.facts("supervised_adapter")
    assert (adapter / "measured.json").read_bytes() == (first / "measured.json").read_bytes(), "copied, not trained"


def test_thumbs_that_reward_flattery_are_refused_by_name(tmp_path: Path) -> None:
    project = ran(tmp_path, RAMBLING, FLATTERING, liked=FLATTERING)
    choice = project.facts("adapter")["refinement"]["choice"]
    assert choice["better"] and choice["longer"]["interval"][1] < 0, f"no other loss than the phrase: {choice}"
    assert choice["reasons"] == ["phrases"], choice["sentence"]
    assert "it has learnt to write 'lovely question'" in choice["sentence"]
    assert_first_stage_stays(project, "lovely question ")


def test_thumbs_that_reward_length_are_refused_by_name(tmp_path: Path) -> None:
    project = ran(tmp_path, SHORT, PRICED, liked=PRICED)
    choice = project.facts("adapter")["refinement"]["choice"]
    assert {"no sure gain", "length"} <= {*choice["reasons"]}, choice["sentence"]
    assert "its answers surely exceed the length of the references more" in choice["sentence"]
    assert_first_stage_stays(project, " for nine euros")


def assert_first_stage_stays(project: Project, learnt: str) -> None:
    """The second stage has learnt to write `learnt`, the first stage's model goes on, and the report says why."""
    lines = (project.artifact("refined_adapter") / "changed_answers.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    assert len(changed) >= 40 and all(learnt in row["refined"] and learnt not in row["supervised"] for row in changed)
    assert weights(project.artifact("adapter")) == weights(project.artifact("supervised_adapter"))
    page = html.unescape((project.artifact("evaluation_report") / "report.html").read_text())
    assert re.search(rf"The supervised model stays: [^<]*it has learnt to write [^<(]*'{learnt.strip()}", page)
