"""``finetune init`` and ``finetune try``, as a new user calls them."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pandas
import pytest
import yaml
from click.testing import CliRunner

import finetune_pipeline.cli.init as init_command
from finetune_pipeline.data.draft.files import given_files
from finetune_pipeline_tests.unit.data.test_draft import CHATS, lines, of, pairs, table


def test_one_command_leads_from_a_file_to_a_green_check(tmp_path: Path, finetune: Any) -> None:
    rows = [[text, label] for text, label in pairs(700)]
    file = of(tmp_path, "Support Mails\n.csv", table([["Nachricht", "Kategorie"], *rows], ";").encode("cp1252"))[1]
    result = finetune("init", file)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / "data" / "support_mails"
    spec = yaml.safe_load((folder / "task.yaml").read_text())
    assert spec["data"]["fields"] == {"text": "Nachricht", "label": "Kategorie"}
    assert spec["output"]["labels"] == ["billing", "account", "delivery"]
    assert "billing: # describe" in spec["system_prompt"]
    assert (folder / "raw" / "Support Mails_.csv").read_bytes() == file.read_bytes()
    assert "3 labels: 'billing' × 234" in result.stdout and "copied raw/Support Mails_.csv" in result.stdout
    assert "TF-IDF and logistic regression: accuracy" in result.stdout and "always answering" in result.stdout
    described = finetune("check", "support_mails")
    assert described.returncode == 0 and "still contains `# describe`" in described.stdout
    again = finetune("init", file, "--json")
    assert again.returncode == 1 and "there is a task 'support_mails' already" in again.json["error"]
    assert yaml.safe_load((folder / "task.yaml").read_text()) == spec


def test_a_least_per_label_is_proposed_and_rarer_labels_are_named(tmp_path: Path, finetune: Any) -> None:
    few = [["one more about a rare thing", "rare"], ["something else entirely", "odd"]]
    rows = [["text", "label"], *map(list, pairs(150)), *few]
    result = finetune("init", of(tmp_path, "mine.csv", table(rows))[1], "--json")
    printed = result.json
    assert result.returncode == 2 and printed["draft"]["kind"] == "labels"
    assert any(stop.startswith("enough_per_label") and "rare: 1" in stop for stop in printed["stops"])
    least = yaml.safe_load((tmp_path / "data" / "mine" / "task.yaml").read_text())["data"]["min_per_label"]
    assert least == min(n for n in printed["clean"]["labels"].values() if n >= 10)


@pytest.mark.parametrize("with_system", [False, True])
def test_a_models_log_becomes_a_task_whose_teacher_it_is(tmp_path: Path, finetune: Any, with_system: bool) -> None:
    """300 requests and answers alone; a few answers are in no label's form."""

    def logged(number: int, text: str, label: str) -> dict[str, Any]:
        user = {"role": "user", "content": text}
        asked = {"messages": [{"role": "system", "content": "Sort mails."}, user]} if with_system else {"input": text}
        output = label if number % 50 else f"I would say {number}"
        time = f"2026-11-01T10:{number // 60:02}:{number % 60:02}Z"
        return {"id": f"r{number}", "timestamp": time, **asked, "output": output, "model_version": "gpt-large"}

    rows = [logged(number, text, label) for number, (text, label) in enumerate(pairs(300))]
    rows += [
        {key: value for key, value in row.items() if key != "timestamp"} | {"id": f"x{row['id']}"} for row in rows[:2]
    ]
    file = of(tmp_path, "mails.log", lines(rows))[1]
    refused = finetune("init", file)
    assert refused.returncode == 1 and "logs of gpt-large (300 answers)" in refused.stderr
    assert not (tmp_path / "data" / "mails").exists()
    result = finetune("init", file, "--allowed", "--json")
    assert result.returncode == 2, result.stdout + result.stderr
    folder = tmp_path / "data" / "mails"
    assert (folder / "logs" / "mails.log.jsonl").read_bytes() == file.read_bytes()
    spec = yaml.safe_load((folder / "task.yaml").read_text())
    assert spec["teacher"] == {"from_logs": True, "models": ["gpt-large"], "allowed": True}
    assert sorted(spec["output"]["labels"]) == ["account", "billing", "delivery"]
    assert spec["system_prompt"].startswith("Sort mails." if with_system else "Classify the text.")
    assert "6 answers are empty or no label" in " ".join(result.json["draft"]["notes"])
    assert sum(result.json["clean"]["labels"].values()) == 294
    assert result.json["rules"]["log.timestamp"]["count"] == 2, "lines of the log that are lost are named"
    assert any(stop.startswith("splits: none of 294 rows is answered by people") for stop in result.json["stops"])


def test_answers_in_json_get_a_schema_and_no_least_per_label(tmp_path: Path, finetune: Any) -> None:
    rows = [{"text": text, "answer": {"kind": label, "words": len(text.split())}} for text, label in pairs(60)]
    result = finetune("init", of(tmp_path, "mine.jsonl", lines(rows))[1], "--json")
    assert result.returncode == 2 and result.json["draft"]["kind"] == "json", result.stderr
    folder = tmp_path / "data" / "mine"
    assert json.loads((folder / "schema.json").read_text())["required"] == ["kind", "words"]
    assert "min_per_label" not in yaml.safe_load((folder / "task.yaml").read_text())["data"]
    columns = [["text", "queue", "urgent"], *([t, y, "yn"[i % 2]] for i, (t, y) in enumerate(pairs(60)))]
    file = of(tmp_path, "both.csv", table(columns))[1]
    result = finetune("init", file, "--answer", "queue", "--answer", "urgent", "--json")
    assert result.json["draft"]["kind"] == "json" and result.json["draft"]["columns"]["answer"] == ["queue, urgent"]
    assert json.loads((tmp_path / "data" / "both" / "schema.json").read_text())["required"] == ["queue", "urgent"]


def test_a_task_is_made_whole_however_often_it_is_begun(
    tmp_path: Path, finetune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder in which the pipeline has been at work already: what is hidden in it is no raw file."""
    place = tmp_path / "given"
    (place / ".finetune").mkdir(parents=True)
    (place / ".finetune" / "rows.jsonl").write_text('{"rows": 3}\n')
    of(place, "a.csv", table([["text", "label"], *map(list, pairs(60))]))
    with monkeypatch.context() as patch:
        patch.setattr("finetune_pipeline.steps.run_inputs.collect_run_inputs", mock.Mock(side_effect=KeyboardInterrupt))
        assert finetune("init", place).returncode == 1
    result = finetune("init", place)
    assert result.returncode == 2 and "copied nothing" in result.stdout, result.stderr
    assert [p.name for p in (tmp_path / "data" / "a" / "raw").iterdir()] == ["a.csv"]
    assert yaml.safe_load((tmp_path / "data" / "a" / "task.yaml").read_text())["data"]["min_per_label"] == 20


def test_init_can_be_stopped_anywhere(tmp_path: Path, finetune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before task.yaml is there, the same command begins again; a copy under another name was a file that nobody had named.
    Afterwards the task is made, and the same command would refuse it."""
    file = of(tmp_path, "chat.txt", table([["text", "label"], *map(list, pairs(60))]))[1]
    folder = tmp_path / "data" / "chat"
    with monkeypatch.context() as patch:
        patch.setattr("finetune_pipeline.cli.init.least_per_label", mock.Mock(side_effect=KeyboardInterrupt))
        result = finetune("init", file)
    assert (
        result.returncode == 1 and "the same command continues" in result.stderr and not [*(folder / "raw").iterdir()]
    )
    full = OSError(errno.ENOSPC, "full", "findings.jsonl")
    for fault, words in (full, "the disk is full: findings.jsonl"), (KeyboardInterrupt, "stopped; "):
        shutil.rmtree(folder)
        with monkeypatch.context() as patch:
            patch.setattr("finetune_pipeline.cli.check.check_task", mock.Mock(side_effect=fault))
            result = finetune("init", file)
        assert result.returncode == 1 and result.stderr.startswith(words), result.stderr
        assert "`finetune check chat` continues from there" in result.stderr
    assert (folder / "task.yaml").exists() and [p.name for p in (folder / "raw").iterdir()] == ["chat.txt.csv"]
    again = finetune("init", file)
    assert again.returncode == 1 and "go on with `finetune check chat`" in again.stderr
    assert finetune("check", "chat").returncode == 2


def test_files_that_lie_in_the_task_already_stay_there(tmp_path: Path, finetune: Any) -> None:
    raw = tmp_path / "data" / "own" / "raw"
    raw.mkdir(parents=True)
    of(raw, "a.jsonl", lines([{"text": t, "label": y} for t, y in pairs(60)]))
    result = finetune("init", raw / "a.jsonl")
    assert result.returncode == 2 and "the files are there" in result.stdout
    assert [p.name for p in raw.iterdir()] == ["a.jsonl"] and (raw.parent / "task.yaml").exists()


def test_try_says_what_files_are_worth_and_leaves_nothing_behind(tmp_path: Path) -> None:
    rows = [["text", "label"], *map(list, pairs(300))]
    files = [of(tmp_path, "train.csv", table(rows))[1], of(tmp_path, "test.csv", table(rows[:60]))[1]]
    code = (
        "import sys, threading\n"
        "from finetune_pipeline.cli.main import cli\n"
        "code = cli.main(['try', *sys.argv[1:]], prog_name='finetune', standalone_mode=False)\n"
        "print('torch' in sys.modules, code)\n"
    )
    (tmp_path / "tmp").mkdir()
    env = {
        **os.environ, "FINETUNE_DATA": f"{tmp_path}/data", "FINETUNE_HOME": f"{tmp_path}/home",
        "TMPDIR": f"{tmp_path}/tmp",
    }  # fmt: skip
    command = [sys.executable, "-c", code, *map(str, files)]
    result = subprocess.run(command, env=env, text=True, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert result.stdout.splitlines()[-1] == "False 2", result.stdout + result.stderr
    assert "59 texts are in both test.csv and train.csv" in result.stdout
    assert "accuracy" in result.stdout and "fine-tuning needs: " in result.stdout
    assert "200 more are needed" in result.stdout and "Nothing was kept." in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.csv", "tmp", "train.csv"]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("command", ["init", "try"])
def test_what_holds_no_task_is_one_json_document_with_every_reason(tmp_path: Path, finetune: Any, command: str) -> None:
    file = of(tmp_path, "numbers.csv", table([["id", "amount"], *([str(i), str(i * 7.5)] for i in range(60))]))[1]
    result = finetune(command, file, "--json")
    assert result.returncode == 1 == result.json["exit_code"] and "amount (60 values" in result.json["error"]
    assert not (tmp_path / "data").exists()
    result = finetune(command, tmp_path / "numbrs.csv", tmp_path / "other.csv")
    assert result.returncode == 1 and "did you mean" in result.stderr
    assert "other.csv: the file does not exist" in result.stderr


def test_an_export_with_a_turn_a_row_is_refused_with_what_to_write(tmp_path: Path, finetune: Any) -> None:
    rows = [{"thread_id": i, "author": s, "text": m} for i, c in enumerate(CHATS) for s, m in [("a", "hello"), *c]]
    rows = [{**row, "author": {"q": "visitor", "a": "support"}[row["author"]]} for row in rows]
    result = finetune("init", of(tmp_path, "export.json", json.dumps({"chat": rows}))[1], "--json")
    assert result.returncode == 1 and "each row is one message of a conversation: author" in result.json["error"]
    assert '{"messages": [{"role": "user", "content": "' in result.json["error"] and not (tmp_path / "data").exists()
    joining = result.json["error"].partition("where d is the table: ")[2].splitlines()[0]
    joined = tmp_path / "conversations.jsonl"
    exec(joining.replace("'conversations.jsonl'", repr(str(joined))), {"d": pandas.DataFrame(rows)})
    made = [json.loads(line) for line in joined.read_text().splitlines()]
    assert [row["thread_id"] for row in made] == list(range(len(CHATS)))
    assert made[0]["messages"][0] == {"role": "support", "content": "hello"} and len(made[0]["messages"]) == 1 + len(
        CHATS[0]
    )


def test_many_files_of_one_row_are_named_on_one_line(tmp_path: Path, finetune: Any) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    for i, (text, label) in enumerate(
        [(f"a red thing {i}", "yes") if i % 2 else (f"blue thing {i}", "no") for i in range(60)]
    ):
        (folder / f"{i:03}.json").write_text(json.dumps({"text": text, "label": label}))
    lines = finetune("init", folder, "--yes").stdout.splitlines()
    named = [line for line in lines if "000.json" in line and "(60 files): json" in line]
    assert len(named) == 2 and named[0].endswith("60 rows"), "as drafted and as read"


@pytest.mark.parametrize(
    ("named", "typed", "fields"),
    [
        ((), "\n\n", ("text", "join(', ', [new == '1' && 'new'")),
        ((), "more\n\n", ("more", "join(', ', [new == '1' && 'new'")),
        ((), "more\nold\n", ("more", "old")),
        (("new", "old"), "more\n", ("more", "to_string({new: to_number(new) || new || `null`, old: ")),
    ],
)
def test_columns_may_be_chosen_beside_an_answer_of_several_columns(
    tmp_path: Path, named: tuple[str, ...], typed: str, fields: tuple[str, str]
) -> None:
    """Another column of the text was refused: no column has the name `new, old, odd`."""
    rows = [[text, f"{text[::-1]} {i}", *(str(i // n % 2) for n in (1, 2, 4))] for i, (text, _) in enumerate(pairs())]
    file = of(tmp_path, "a.csv", [["text", "more", "new", "old", "odd"], *rows])[1]
    options = {"text": None, "answer": named, "sheet": None, "encoding": None}
    with CliRunner().isolation(input=typed):
        task, _ = init_command.draft_task(given_files([file]), options, asking=True)
    text, answer = list(task.data["fields"].values())[:2] if "fields" in task.data else ("text", "")
    assert text == fields[0] and answer.startswith(fields[1])


def test_an_answer_may_be_chosen_beside_a_text_in_pieces(tmp_path: Path) -> None:
    labels = [{"intent": label, "topic": "ab"[i % 2]} for i, (_, label) in enumerate(pairs())]
    pieces = [[{"text": f"{word} "} for word in text.split()] for text, _ in pairs()]
    file = of(tmp_path, "a.jsonl", [{"data": data, **row} for data, row in zip(pieces, labels, strict=True)])[1]
    options = {"text": None, "answer": (), "sheet": None, "encoding": None}
    with CliRunner().isolation(input="topic\n"):
        task, _ = init_command.draft_task(given_files([file]), options, asking=True)
    assert task.data["fields"] == {"text": "join('', data[].text)", "label": "topic"}


def test_a_task_that_another_command_makes_meanwhile_is_not_overwritten(
    tmp_path: Path, finetune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.csv").write_text("text,label\n" + "".join(f"note {i},{'ab'[i % 2]}\n" for i in range(40)))
    draft_task, begun = init_command.draft_task, list[Any]()

    def drafted_by_two(*arguments: Any, **options: Any) -> Any:
        if not begun:
            begun.append(None)
            begun[0] = finetune("init", tmp_path / "notes.csv", "--yes")
        return draft_task(*arguments, **options)

    monkeypatch.setattr(init_command, "draft_task", drafted_by_two)
    later = finetune("init", tmp_path / "notes.csv", "--yes")
    assert begun[0].returncode in (0, 2) and later.returncode == 1
    assert "there is a task 'notes' already" in later.stderr
