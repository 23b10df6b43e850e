"""People compare the two stages' answers blind: sides by the secret, one row of each source, and evidence that noise cannot buy."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.review import SECOND_STAGE, read_decisions
from finetune_pipeline.engine.store import CHANGED_ANSWERS, Artifact
from finetune_pipeline.evaluation.preferences.people import Accepted, People
from finetune_pipeline.evaluation.statistics.betting import not_worse_evidence
from finetune_pipeline.review.queues import ReviewQueue, outputs_queue
from finetune_pipeline.review.ratings import ratings_digest
from finetune_pipeline.review.second_stage import compared, comparisons, preferred, second_stage_sheet
from finetune_pipeline.spec.model import Task, TaskSpec

SECRET = b"a secret"


@pytest.fixture
def task(tmp_path: Path) -> Task:
    fields = {"name": "t", "description": "d", "system_prompt": "Answer.", "output": {"kind": "text"}}
    folder = tmp_path / "t"
    folder.mkdir()
    return Task(spec=TaskSpec.model_validate(fields), folder=folder)


def stage(folder: Path, rows: int, version: str = "a" * 16) -> Artifact:
    """A second stage that changed so many answers, two of each source."""
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "id": f"e{i}",
            "source": f"s{i // 2}",
            "request": f"request {i}",
            "reference": f"reference {i}",
            "supervised": f"plain {i}",
            "refined": f"kind {i}",
        }
        for i in range(rows)
    ]
    write_rows(folder / CHANGED_ANSWERS, lines)
    return Artifact("t", "refined_adapter", version, folder, {}, {})


def queue_of(task: Task, artifact: Artifact, items: int = 500) -> ReviewQueue:
    name, sheet = second_stage_sheet(artifact, SECRET)
    return outputs_queue(task, name, sheet[:items], (), SECOND_STAGE)


def rate(task: Task, queue: ReviewQueue, favours: Sequence[str], rater: str = "ann") -> None:
    """Say of each row in order that the answer with this word is better, or neither."""
    lines = []
    for item, word in zip(queue.items, favours, strict=False):
        side = next((side["title"] for side in item["sides"] if side["text"].startswith(word)), "both")
        row, problems = queue.take({"sheet": queue.sheet, "id": item["id"], "choice": side, "rater": rater})
        assert row is not None and not problems
        lines.append(json.dumps(row))
    path = queue.target(rater)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(line + "\n" for line in lines))


def test_one_row_of_each_source_is_shown_and_the_refined_answer_is_on_either_side(task: Task, tmp_path: Path) -> None:
    queue = queue_of(task, stage(tmp_path / "stage", 120))
    assert len(queue.items) == 60 and len({int(item["id"][1:]) // 2 for item in queue.items}) == 60
    on_a = sum(item["sides"][0]["text"].startswith("kind") for item in queue.items)
    assert 15 < on_a < 45, "the sides tell nothing"
    assert [choice["label"] for choice in queue.choices][:3] == ["A is better", "B is better", "equally good"]
    assert not any("refined" in json.dumps(item) or "supervised" in json.dumps(item) for item in queue.items)
    first = queue_of(task, stage(tmp_path / "stage", 120), 10)
    assert first.items == queue.items[:10] and first.sheet == queue.sheet, (
        "fewer rows are the beginning of the same sheet"
    )
    assert queue.take({"sheet": queue.sheet, "id": "e999", "choice": "A", "rater": "ann"})[1], "no row of the sheet"


def test_a_sure_preference_counts_for_its_stage_alone(task: Task, tmp_path: Path) -> None:
    queue = queue_of(task, stage(tmp_path / "stage", 120))
    rate(task, queue, ["kind"] * 30 + ["plain"] * 4 + ["both"] * 6)
    found = comparisons(task, SECRET)
    each = found["a" * 16]
    assert (each.rated, each.refined, each.supervised) == (40, 30, 4) and each.needed == pytest.approx(40)
    assert each.surely_better and preferred(found) == ["a" * 16]
    later = queue_of(task, stage(tmp_path / "later", 120, "b" * 16))
    rate(task, later, ["kind"] * 6)
    assert preferred(comparisons(task, SECRET)) == ["a" * 16], "six of six are no proof of the later stage"
    rate(task, queue, ["plain"] * 30)
    assert preferred(comparisons(task, SECRET)) == [], "a later rating by the same person replaces the earlier one"


def test_ratings_of_the_stages_are_neither_decisions_about_rows_nor_ratings_of_the_candidate(
    task: Task, tmp_path: Path
) -> None:
    reviews = task.folder / "reviews"
    before = ratings_digest(reviews)
    rate(task, queue_of(task, stage(tmp_path / "stage", 20)), ["kind"] * 5)
    assert ratings_digest(reviews) == before and read_decisions(reviews, task.spec) == ([], [], 0)


def test_several_raters_count_once_by_their_majority(task: Task, tmp_path: Path) -> None:
    queue = queue_of(task, stage(tmp_path / "stage", 60))
    for rater, word in (("ann", "kind"), ("bob", "kind"), ("eve", "plain")):
        rate(task, queue, [word] * 30, rater)
    each = comparisons(task, SECRET)["a" * 16]
    assert (each.rated, each.refined, each.supervised) == (30, 30, 0)


def test_noise_passes_at_most_at_the_level_however_often_one_looks() -> None:
    chance, passed, worlds = random.Random(4), 0, 400
    for _ in range(worlds):
        items: dict[str, Accepted] = {}
        for i in range(60):
            refined = chance.random() < 0.5
            items[str(i)] = Accepted(candidate=refined, base=not refined)
            if compared(People(rated=len(items), items=dict(items)), 0.95).surely_better:
                passed += 1
                break
    assert passed / worlds <= 0.025


@pytest.mark.parametrize(("share", "median"), [(0.9, 13), (0.8, 23), (0.7, 47)])
def test_the_rows_until_it_is_sure_are_those_of_the_documentation(share: float, median: int) -> None:
    chance = np.random.default_rng(0)
    losses = np.where(chance.random((300, 400)) < share, -1, 1)
    needed = [int((not_worse_evidence(world, 0.0) >= 40).argmax()) + 1 for world in losses.tolist()]
    assert abs(np.median(needed) - median) <= 3
    docs = Path(__file__).parents[3] / "docs/preferences.md"
    assert str(median) in docs.read_text("utf-8")


def test_nothing_is_said_without_ratings_and_of_no_changed_answers(task: Task, tmp_path: Path) -> None:
    assert comparisons(task, SECRET) == {} and preferred({}) == []
    assert queue_of(task, stage(tmp_path / "stage", 0)).items == []
