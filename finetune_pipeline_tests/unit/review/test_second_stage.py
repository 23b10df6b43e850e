"""People compare the two stages' answers blind: sides by the secret, one row of each source, and evidence that noise cannot buy."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.review import SECOND_STAGE, read_decisions
from finetune_pipeline.engine.store import CHANGED_ANSWERS, Artifact
from finetune_pipeline.evaluation.preferences.judge import LIKED, Judge
from finetune_pipeline.evaluation.preferences.people import Accepted
from finetune_pipeline.evaluation.statistics.betting import not_worse_evidence
from finetune_pipeline.review.queues import ReviewQueue, outputs_queue
from finetune_pipeline.review.ratings import ratings_digest
from finetune_pipeline.review.second_stage import ask_judge, compared, comparisons, preferred, second_stage_sheet
from finetune_pipeline.spec.evaluation import JudgeSpec
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline_tests.judge_minds import judge_mind, right
from finetune_pipeline_tests.openai_server import Server, openai_server

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
    assert (each.people.rated, each.people.refined, each.people.supervised) == (40, 30, 4)
    assert each.people.needed == pytest.approx(40) and each.judge is None
    assert each.people.surely_better and preferred(found) == ["a" * 16]
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
    each = comparisons(task, SECRET)["a" * 16].people
    assert (each.rated, each.refined, each.supervised) == (30, 30, 0)


def test_noise_passes_at_most_at_the_level_however_often_one_looks() -> None:
    chance, passed, worlds = random.Random(4), 0, 400
    for _ in range(worlds):
        items: dict[str, Accepted] = {}
        for i in range(60):
            refined = chance.random() < 0.5
            items[str(i)] = Accepted(candidate=refined, base=not refined)
            if compared(items, 40).surely_better:
                passed += 1
                break
    assert passed / worlds <= 0.025


JUDGE = {"url": "http://127.0.0.1:1/v1", "model": "fair"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server(judge_mind) as serving:
        yield serving


def declared(task: Task, server: Server, mind: str = "fair") -> tuple[Task, JudgeSpec]:
    """The task with this judge."""
    spec = task.spec.model_dump(exclude_unset=True) | {
        "evaluation": {"judge": JUDGE | {"url": server.url, "model": mind}}
    }
    with_judge = Task(spec=TaskSpec.model_validate(spec), folder=task.folder)
    assert with_judge.spec.evaluation.judge is not None
    return with_judge, with_judge.spec.evaluation.judge


def numbered_stage(folder: Path, refined_right: Callable[[int], bool | None]) -> Artifact:
    """A second stage whose answer to each of 150 rows is right where the supervised model's is wrong, the reverse, or (None) as
    wrong."""
    folder.mkdir(exist_ok=True)
    lines = []
    for i in range(1000, 1150):
        right = refined_right(i)
        supervised, refined = (f"It is {i + 500 * wrong}" for wrong in (right is not False, right is not True))
        row = {"id": f"e{i}", "source": f"s{i}", "request": "How many?", "reference": f"It is {i}"}
        lines.append(row | {"supervised": supervised, "refined": f"{refined}, surely"})
    write_rows(folder / CHANGED_ANSWERS, lines)
    return Artifact("t", "refined_adapter", "a" * 16, folder, {}, {})


def rate_truly(task: Task, artifact: Artifact, rows: int) -> None:
    """Let a person prefer the right answer of so many rows."""
    queue, lines = queue_of(task, artifact), []
    for item in queue.items[:rows]:
        is_right = [right(f"It is {item['id'][1:]}", side["text"]) for side in item["sides"]]
        choice = "both" if is_right[0] == is_right[1] else "A" if is_right[0] else "B"
        row, problems = queue.take({"sheet": queue.sheet, "id": item["id"], "choice": choice, "rater": "ann"})
        assert row is not None and not problems
        lines.append(json.dumps(row) + "\n")
    path = queue.target("ann")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


def three_of_four(i: int) -> bool | None:
    return None if i % 10 == 9 else i % 4 != 0


def test_a_judge_that_agrees_with_people_compares_the_rows_that_they_did_not(
    task: Task, tmp_path: Path, server: Server
) -> None:
    stage = numbered_stage(tmp_path / "stage", three_of_four)
    rate_truly(task, stage, 36)
    task, settings = declared(task, server)
    assert preferred(comparisons(task, SECRET)) == [], "36 rows are not enough for people alone"
    findings = ask_judge(task, stage, Judge.of(settings, None, LIKED), settings, SECRET)
    assert findings.believed and findings.rated == 36 and findings.verdict is not None
    found = comparisons(task, SECRET)["a" * 16]
    assert found.judge is not None and (found.people.rated, found.people.needed) == (36, pytest.approx(80))
    assert (found.judge.rated, found.judge.judged, found.judge.needed) == (150, 114, pytest.approx(80))
    better = sum(three_of_four(i) is True for i in range(1000, 1150))
    assert (found.judge.refined, found.judge.supervised) == (
        better,
        sum(three_of_four(i) is False for i in range(1000, 1150)),
    )
    assert found.judge.surely_better and not found.people.surely_better
    assert preferred(comparisons(task, SECRET)) == [f"{'a' * 16} by the judge"]
    assert LIKED in json.dumps(server.requests[-1]["messages"], ensure_ascii=False)
    reviews = task.folder / "reviews"
    assert read_decisions(reviews, task.spec) == ([], [], 0), "they decide nothing about rows"


def test_what_a_judge_said_counts_only_while_it_is_declared_and_people_stand_behind_it(
    task: Task, tmp_path: Path, server: Server
) -> None:
    stage = numbered_stage(tmp_path / "stage", three_of_four)
    rate_truly(task, stage, 36)
    with_judge, settings = declared(task, server)
    ask_judge(with_judge, stage, Judge.of(settings, None, LIKED), settings, SECRET)
    version = "a" * 16
    assert comparisons(with_judge, SECRET)[version].judge is not None
    assert comparisons(task, SECRET)[version].judge is None
    other, _ = declared(task, server, "long")
    assert comparisons(other, SECRET)[version].judge is None, "another judge has said nothing"
    rate_truly(task, stage, 29)
    assert comparisons(with_judge, SECRET)[version].judge is None, (
        "fewer people's ratings than evaluation.judge.min_rated"
    )


@pytest.mark.parametrize(
    ("mind", "reason"),
    [
        ("first", "its agreement with people is too low"),
        ("padded", "it prefers the same answer with empty words added"),
        ("leaning", "where it is wrong it prefers the candidate's answer"),
    ],
)
def test_a_judge_that_disagrees_with_people_or_leans_does_not_count_and_what_one_said_before_goes(
    task: Task, tmp_path: Path, server: Server, mind: str, reason: str
) -> None:
    stage = numbered_stage(tmp_path / "stage", lambda i: None if i % 3 == 0 else i % 3 == 1)
    rate_truly(task, stage, 90)
    fair, settings = declared(task, server)
    assert ask_judge(fair, stage, Judge.of(settings, None, LIKED), settings, SECRET).believed
    biased, settings = declared(task, server, mind)
    findings = ask_judge(biased, stage, Judge.of(settings, None, LIKED), settings, SECRET)
    assert not findings.believed and any(reason in sentence for sentence in findings.refused), findings.refused
    assert comparisons(biased, SECRET)["a" * 16].judge is None and comparisons(fair, SECRET)["a" * 16].judge is None


def test_noise_passes_at_most_at_the_level_with_a_judge_that_is_often_wrong_on_either_side() -> None:
    """People and a judge who compare answers of models that are equally good: either kind of evidence may pass."""
    chance, passed, worlds = random.Random(5), 0, 400
    for _ in range(worlds):
        truth = {
            str(i): Accepted(candidate=better, base=not better)
            for i in range(150)
            for better in [chance.random() < 0.5]
        }
        judged = {
            name: Accepted(candidate=said.base, base=said.candidate) if chance.random() < 0.15 else said
            for name, said in truth.items()
        }
        for rated in range(30, 151, 10):
            people = dict(list(truth.items())[:rated])
            if any(compared(items, 80).surely_better for items in (people, {**judged, **people})):
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
