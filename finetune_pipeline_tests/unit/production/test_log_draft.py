"""What a task drafted from a model's log takes for labels, and what for texts."""

import json
from pathlib import Path

import pytest

from finetune_pipeline.data.draft.draft import Draft
from finetune_pipeline.data.draft.files import GivenFile
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.production.log_draft import are_logs, draft_from_logs

LABELS = ["billing", "delivery", "other"]


def drafted(folder: Path, answers: list[tuple[str, str]], files: int = 1) -> Draft:
    """Draft from (question, answer) pairs in several files."""
    given = []
    for number in range(files):
        path = folder / f"{number}.jsonl"
        lines = [
            {
                "id": f"{number}-{i}",
                "timestamp": "2026-11-01T10:00:00Z",
                "model_version": "large",
                "input": q,
                "output": a,
            }
            for i, (q, a) in enumerate(answers[number::files])
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        given.append(GivenFile(path.name, path))
    return draft_from_logs(given, allowed=True)[0]


def text(number: int) -> str:
    return f"Dear customer, about your question {number}: please send us the form and wait for {number} days."


@pytest.mark.parametrize("files", [1, 5])
def test_canned_answers_to_frequent_questions_are_no_labels(tmp_path: Path, files: int) -> None:
    """Twenty questions, each asked 25 times and answered with the same words: every answer comes often."""
    canned = [(f"{'How' if n % 2 else 'how'} do I do thing {n % 20}?", f"Press button {n % 20}.") for n in range(500)]
    task = drafted(tmp_path, canned, files)
    assert task.answers.kind == "text" and "labels" not in task.output


def test_texts_with_a_few_refusals_stay_texts(tmp_path: Path) -> None:
    rows = [(f"question {n}", text(n)) for n in range(240)]
    rows += [(f"secret {n}", "I cannot help with that.") for n in range(30)]
    rows += [(f"hello {n}", "Hello!") for n in range(30)]
    task = drafted(tmp_path, rows)
    assert task.answers.kind == "text" and not any("no label" in note for note in task.notes)


@pytest.mark.parametrize(("noise", "kind"), [(30, "labels"), (31, "text")])
def test_labels_cover_nine_tenths_of_the_questions(tmp_path: Path, noise: int, kind: str) -> None:
    """A frequent question does not make up for them."""
    rows = [(f"mail {n}", LABELS[n % 3]) for n in range(270)] + [("mail 0", LABELS[0])] * 100
    rows += [(f"odd mail {n}", text(n)) for n in range(noise)]
    task = drafted(tmp_path, rows)
    assert task.answers.kind == kind
    assert task.output.get("labels", []) == (sorted(LABELS) if kind == "labels" else [])


def test_a_few_json_answers_are_json(tmp_path: Path) -> None:
    rows = [(f"mail {n}", json.dumps({"queue": LABELS[n % 3], "urgent": n % 2 == 0})) for n in range(120)]
    assert drafted(tmp_path, rows).answers.kind == "json"


def given(path: Path, rows: list[dict]) -> GivenFile:
    common = {"timestamp": "2026-11-01T10:00:00Z", "model_version": "large"}
    lines = [json.dumps({"id": f"{path.stem}-{i}", **common, **row}) for i, row in enumerate(rows)]
    path.write_text("".join(line + "\n" for line in lines))
    return GivenFile(path.name, path)


def test_a_single_turn_is_its_text_and_conversations_stay_whole(tmp_path: Path) -> None:
    single = [{"messages": [{"role": "user", "content": f"mail {n}"}], "output": LABELS[n % 3]} for n in range(60)]
    alone, _, files = draft_from_logs([given(tmp_path / "single.jsonl", single)], allowed=True)
    assert alone.answers.kind == "labels" and alone.data == {}
    assert [file.name for file in files] == ["logs/single.jsonl"]
    short = {"role": "developer", "content": "Be short."}
    chats = [{"messages": [short, {"role": "user", "content": f"mail {n}"}], "output": text(n)} for n in range(60)]
    whole = draft_from_logs([given(tmp_path / "chats.jsonl", chats)], allowed=True)[0]
    assert whole.answers.kind == "text" and whole.data == {"inject": True}
    assert whole.teacher == {"from_logs": True, "models": ["large"], "allowed": True}


def test_only_files_of_questions_answers_and_their_model_are_logs(tmp_path: Path) -> None:
    log = given(tmp_path / "log.jsonl", [{"input": "mail", "output": "billing"}])
    assert are_logs([log])
    unnamed = given(tmp_path / "unnamed.jsonl", [{"input": "mail", "output": "billing", "model_version": None}])
    assert not are_logs([unnamed]) and not are_logs([log, unnamed])
    late = tmp_path / "late.jsonl"
    late.write_text("no log\n" * 20 + log.path.read_text())
    assert not are_logs([GivenFile("late.jsonl", late)]), "only the first lines are looked at"
    late.write_text("no log\n" * 19 + log.path.read_text())
    assert are_logs([GivenFile("late.jsonl", late)])
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"no gzip")
    assert not are_logs([GivenFile("broken.jsonl.gz", broken)])


def test_nothing_is_drafted_before_the_terms_were_read(tmp_path: Path) -> None:
    log = given(
        tmp_path / "log.jsonl", [{"input": "mail", "output": "billing"}, {"input": "mail 2", "output": "other"}]
    )
    with pytest.raises(FindingsError, match=r"logs of large \(2 answers\); some providers forbid"):
        draft_from_logs([log], allowed=False)


def test_empty_answers_and_those_that_are_no_label_are_counted(tmp_path: Path) -> None:
    rows = [(f"mail {n}", LABELS[n % 3]) for n in range(270)] + [("empty 1", " "), ("empty 2", ""), ("odd", text(1))]
    assert "3 answers are empty or no label, and will be left out and counted" in drafted(tmp_path, rows).notes
