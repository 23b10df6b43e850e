"""The commands that need no model: what they print, their JSON, and their exit codes."""

import contextlib
import gzip
import hashlib
import json
import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from finetune_pipeline.cli.check import check_task
from finetune_pipeline.cli.main import COMMANDS, GONE, _summary, cli
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.store import CHANGED_ANSWERS, ArtifactStore, Builder
from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.production.erasure import forget as remove
from finetune_pipeline.report.stored import Evaluated, Report
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation_and_rows
from finetune_pipeline_tests.unit.evaluation.rows import spec as make_spec
from finetune_pipeline_tests.unit.processes import as_reader

SPEC = {
    "name": "demo", "description": "d", "system_prompt": "Say yes or no.",
    "output": {"kind": "labels", "labels": ["yes", "no"]}, "data": {"min_examples": 3, "min_per_label": 1},
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "data"
ROWS = [("is the sky blue", "yes"), ("are cats plants", "no"), ("is ice cold", "yes"), ("is fire wet", "maybe")]


def json_lines(rows: list[tuple[str, str]]) -> str:
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task with four rows, the last of them with an unknown label."""
    folder = tmp_path / "data" / "demo"
    (folder / "raw").mkdir(parents=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(SPEC))
    (folder / "raw" / "a.jsonl").write_text(json_lines(ROWS))
    return folder


def test_check_names_each_rule_with_its_place_and_fix(folder: Path, finetune: Any) -> None:
    result = finetune("check", "demo")
    assert result.returncode == 2, "a quarter of the rows is bad, a fifth is allowed"
    assert "4 rows in 1 file = 3 valid + 1 in quarantine" in result.stdout
    assert "raw/a.jsonl:4" in result.stdout and "data.unknown_label: 1" in result.stdout
    printed = finetune("check", "demo", "--json").json
    assert printed["usable"] is False and printed["validated"]["by_rule"] == {"data.unknown_label": 1}
    assert Path(printed["full_list"]).read_text().count("data.unknown_label") == 1


def test_check_of_good_data_ends_with_zero(folder: Path, finetune: Any) -> None:
    (folder / "raw" / "a.jsonl").write_text(json_lines(ROWS[:3]))
    result = finetune("check", "demo")
    assert result.returncode == 0 and "format_compliance would refuse every candidate: it takes 73" in result.stdout
    (folder / "documents").mkdir()
    (folder / "documents" / "terms.txt").write_bytes("Größe".encode("cp1252"))
    result = finetune("check", "demo")
    assert result.returncode == 1 and "documents/terms.txt: byte 2 is not UTF-8" in result.stdout
    assert "3 rows in 1 file = 3 valid" in result.stdout, "the rows are looked at all the same"


def test_keys_and_labels_neither_end_a_check_nor_command_the_terminal(folder: Path, finetune: Any) -> None:
    rows = json_lines([(f"is {i} even", ("yes", "no")[i % 2]) for i in range(20)])
    hostile = r"""{"te\udc00xt\u001b]0;owned\u0007": "is it so", "label": "no"}
{"text": "is that so", "label": "ma\u001b[31mybe\u009b"}
"""
    (folder / "raw" / "a.jsonl").write_text(rows + hostile)
    labels = ["yes", "no", "a\x1b[31mb"]
    (folder / "task.yaml").write_text(yaml.safe_dump(SPEC | {"output": {"kind": "labels", "labels": labels}}))
    checked = finetune("check", "demo")
    assert "22 rows in 1 file = 20 valid + 2 in quarantine" in checked.stdout
    as_json = finetune("check", "demo", "--json")
    rules = as_json.json["validated"]["by_rule"]
    assert rules["data.lone_surrogate"] == rules["data.unknown_label"] == 1
    assert "a\x1b[31mb" in as_json.json["validated"]["labels"], "JSON keeps the value"
    for result in (checked, as_json, finetune("show", "demo"), finetune("no\x1b[31mthing")):
        assert not {"\x1b", "\x9b", "\x07", "\udc00"} & {*result.stdout, *result.stderr}


def test_rows_lost_after_validation_count_as_lost(folder: Path, finetune: Any) -> None:
    def words(number: int) -> str:
        return " ".join(hashlib.sha256(f"{number} {i}".encode()).hexdigest()[:7] for i in range(9))

    sound = [(words(i), ("yes", "no")[i % 2]) for i in range(60)]
    contradictory = [(words(100 + i // 2), ("yes", "no")[i % 2]) for i in range(40)]
    (folder / "raw" / "a.jsonl").write_text(json_lines([*sound, *contradictory, *sound]))
    result = finetune("check", "demo")
    assert result.returncode == 2, "a quarter of 160 rows contradict each other; 60 are plain duplicates"
    lost = "40 of 160 rows (25.0%) are lost: 0 in validation, 40 in cleaning; at most 20% are allowed"
    assert f"the pipeline would stop: quarantine_share: {lost}" in result.stdout
    (folder / "raw" / "a.jsonl").write_text(json_lines([*sound, *contradictory[:20], *sound]))
    assert finetune("check", "demo").returncode == 0


def test_two_checks_at_once_count_the_same(folder: Path, tmp_path: Path) -> None:
    rows = [(f"is {'n' * i} cold", ["yes", "no", "maybe"][i % 3]) for i in range(90)]
    (folder / "raw" / "a.jsonl").write_text(json_lines(rows))
    store = ArtifactStore(tmp_path / "home" / "artifacts")

    def counts(_: int) -> dict[str, int]:
        checked = check_task(folder, store, tmp_path / "checks")
        return {rule: len(hits) for rule, hits in checked.rules.items()}

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(counts, range(8)))
    assert results == [counts(8)] * 8 and results[0]["data.unknown_label"] == 30


def test_check_says_first_what_could_not_be_read(folder: Path, finetune: Any) -> None:
    rows = json_lines([(f"is {i} even", ("yes", "no")[i % 2]) for i in range(200)])
    (folder / "raw" / "b.jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-40])
    (folder / "raw" / "c.json").write_text("[]")
    lines = finetune("check", "demo")
    first, second, *_ = (line for line in lines.stdout.splitlines() if line.startswith(("error:", "warning:")))
    assert lines.returncode == 2 and lines.stdout.startswith(first)
    assert "b.jsonl.gz" in first and "cut off" in first and "c.json: the document holds no rows" in second
    assert "the pipeline would stop: files_read: raw/b.jsonl.gz" in lines.stdout
    (folder / "task.yaml").write_text(yaml.safe_dump(SPEC | {"data": {**SPEC["data"], "allow_truncated": True}}))
    again = finetune("check", "demo")
    assert again.returncode == 0 and "accepted by data.allow_truncated: raw/b.jsonl.gz" in again.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_ends_with_an_example_that_it_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tickets.csv").touch()
    command = command_of(name)
    assert command.get_help(click.Context(command)).endswith(f"Example: finetune {name} {COMMANDS[name]}")
    command.make_context(name, shlex.split(COMMANDS[name])).close()
    assert len(_summary(name)) <= 64, "one line of `finetune --help`"


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"there is no command {name}"
    return command


def cited() -> set[tuple[str, str, tuple[str, ...]]]:
    """(file, command, options) of each `finetune …` that a page, a message, a template or a shipped task names."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("data/*/task.yaml")]
    files += [f for f in (ROOT / "finetune_pipeline").rglob("*") if f.suffix in (".py", ".md", ".html", ".yaml")]
    citations = set()
    for file in set(files) - {ROOT / "CHANGELOG.md", ROOT / "docs" / "scope.md"}:  # they also name what went
        for code in re.findall(r"`+finetune [a-z][^`]*`|^(?: *\$ )?finetune [a-z].*$", file.read_text("utf-8"), re.M):
            name, rest = re.search(r"finetune ([a-z-]+)([^#]*)", code).groups()  # type: ignore[union-attr]
            citations.add((str(file.relative_to(ROOT)), name, tuple(re.findall(r"(?<=\s)--[a-z][a-z-]*", rest))))
    return citations


def test_every_command_and_option_that_is_named_is_there() -> None:
    citations = cited()
    assert len(citations) > 60 and not GONE.keys() & COMMANDS.keys()
    unknown = [f"{file}: finetune {name}" for file, name, _ in citations if name not in COMMANDS]
    for file, name, options in citations:
        if name in COMMANDS:
            known = {o for p in command_of(name).params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
            unknown += [f"{file}: finetune {name} {option}" for option in options if option not in known]
    assert not unknown, "\n".join(sorted(unknown))


@pytest.mark.parametrize("name", GONE)
def test_a_command_that_went_names_what_to_use(name: str, tmp_path: Path, finetune: Any) -> None:
    result = finetune(name, "tickets", "--json")
    assert result.returncode == 1, "a wrong use, as that of any command; 2 would say that a gate refused"
    assert f"use `{GONE[name]}`" in result.stderr and GONE[name] in result.json["error"]
    if GONE[name].startswith("finetune "):
        _, command, *arguments = shlex.split(GONE[name])
        assert command_of(command).make_context(command, arguments)


def test_where_there_is_no_such_task_nothing_is_made(folder: Path, tmp_path: Path, finetune: Any) -> None:
    for command in ("run", "advise", "automate"):
        result = finetune(command, "nope")
        assert result.returncode == 1 and "there is no task 'nope'" in result.stderr
        assert "`finetune init" in result.stderr
    assert "is not in the range 1<=x<=65535" in finetune("ui", "--dagster-port", "99999").stderr
    assert not (tmp_path / "home").exists() and "Did you mean 'check'?" in finetune("chekc", "demo").stderr


def test_a_broken_spec_is_an_error_with_every_finding(folder: Path, finetune: Any) -> None:
    (folder / "task.yaml").write_text(yaml.safe_dump({**SPEC, "trainning": {}, "basemodel": "x"}))
    for command in ("check", "run", "show", "report"):
        result = finetune(command, "demo")
        output = result.stdout if command == "check" else result.stderr
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert "did you mean 'training'?" in output and "did you mean 'base_model'?" in output


def test_schema_is_a_json_schema_and_a_table(finetune: Any) -> None:
    assert finetune("show", "--schema", "task.yaml", "--json").json["$schema"].startswith("https://json-schema.org/")
    table = finetune("show", "--schema", "task.yaml").stdout
    assert "\n  endpoint:  (optional) An API model" in table and "\n    max_requests: integer" in table
    assert "warmup_share: number" in table and "system_prompt: string  (required)" in table


def test_show_names_the_broken_tasks_beside_the_others(tmp_path: Path, finetune: Any) -> None:
    shutil.copytree(SHIPPED / "ticket_triage", tmp_path / "data" / "ticket_triage")
    (tmp_path / "data" / "dated").mkdir()
    (tmp_path / "data" / "dated" / "task.yaml").write_text("name: dated\nowner: 2026-02-30\n")
    result = finetune("show")
    assert (
        result.returncode == 0 and "ticket_triage  new " in result.stdout and "dated          BROKEN" in result.stdout
    )
    assert "task.yaml:2:8: '2026-02-30' cannot be read" in result.stdout


def test_show_prints_every_default_and_the_state_of_every_step(finetune: Any) -> None:
    result = finetune("show", "ticket_triage", "--json", data=SHIPPED)
    assert result.returncode == 0, result.stderr
    assert result.json["spec"]["training"]["lora"]["r"] == 16 and result.json["champion"] is None
    assert {s["made"] for s in result.json["steps"].values()} == {False}
    text = finetune("show", "ticket_triage", data=SHIPPED).stdout
    assert "over_length: fail" in text and "missing  " in text


def test_a_review_on_a_broken_disk_says_what_to_do(folder: Path, tmp_path: Path, finetune: Any) -> None:
    lock = tmp_path / "home" / "artifacts" / folder.name / ".locks" / "logs"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(lock)
    result = finetune("review", folder.name, "--what", "flagged", "--page", tmp_path / "page.html")
    assert result.returncode == 1 and "Errno" not in result.stderr
    assert "symbolic links lead in a circle\nfix: remove or correct the link" in result.stderr


def test_both_stages_of_a_text_task_are_compared_by_people_and_of_no_other(
    folder: Path, tmp_path: Path, finetune: Any
) -> None:
    result = finetune("review", "demo", "--what", "refined", "--page", tmp_path / "page.html")
    assert result.returncode == 1 and "demo is no text task with training.refine" in result.stderr
    text = {**SPEC, "output": {"kind": "text"}, "training": {"method": "lora", "refine": {"method": "dpo"}}}
    (folder / "task.yaml").write_text(yaml.safe_dump(text))
    result = finetune("review", "demo", "--what", "refined", "--page", tmp_path / "page.html")
    assert result.returncode == 1 and "has no refined_adapter yet: run `finetune run demo`" in result.stderr

    def second_stage(builder: Builder) -> None:
        row = {
            "id": "e1",
            "source": "s1",
            "request": "where?",
            "reference": "r",
            "supervised": "here",
            "refined": "over here",
        }
        write_rows(builder.folder / CHANGED_ANSWERS, [row])

    store = ArtifactStore(tmp_path / "home" / "artifacts")
    store.build("demo", "refined_adapter", code_version="1", inputs={}, settings=None, make=second_stage)
    result = finetune("review", "demo", "--what", "refined", "--page", tmp_path / "page.html", "--json")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert result.returncode == 0 and result.json["items"] == 1, result.stderr
    assert "over here" in page and "A is better" in page and "refined" not in page
    result = finetune("review", "demo", "--judge")
    assert result.returncode == 1 and "--judge compares no outputs" in result.stderr
    result = finetune("review", "demo", "--what", "refined", "--judge")
    assert result.returncode == 1 and "demo declares no judge" in result.stderr
    judge = {"judge": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    (folder / "task.yaml").write_text(yaml.safe_dump({**text, "evaluation": judge}))
    result = finetune("review", "demo", "--what", "refined", "--judge", "--json")
    assert result.returncode == 2 and not result.json["judge"]["believed"], (
        "nothing is sent: nobody has compared answers"
    )
    assert result.json["judge"]["refused"] == ["people have rated only 0 pairs of different answers; 30 are needed"]
    table = finetune("review", "demo", "--what", "refined", "--table", tmp_path / "sheet.jsonl", "--json")
    assert table.json["jsonl"] == str(tmp_path / "sheet.jsonl")


def test_a_sheet_that_may_be_filled_in_is_not_written_over(folder: Path, tmp_path: Path, finetune: Any) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("id,choice\n1,A\n")
    result = finetune("review", folder.name, "--what", "flagged", "--table", sheet)
    assert result.returncode == 1 and f"import it with --take {sheet}" in result.stderr
    assert sheet.read_text() == "id,choice\n1,A\n"


@pytest.mark.parametrize("whom", [[], ["--user", ""], ["--user", "ann", "--id", " "]])
def test_nobody_is_not_forgotten_with_success(folder: Path, finetune: Any, whom: list[str]) -> None:
    result = finetune("forget", folder.name, *whom)
    assert result.returncode == 1 and "give --user or --id" in result.stderr


def test_who_may_only_read_a_home_is_told_what_is_in_it(folder: Path, tmp_path: Path, finetune: Any) -> None:
    (folder / "raw" / "a.jsonl").write_text(json_lines(ROWS[:3]))
    assert finetune("check", "demo").returncode == 0
    assert finetune("show", "demo").returncode == 0, "it takes the lock of the registry"

    evaluated(tmp_path)
    home = tmp_path / "home"
    for path in (home, *home.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        facts = json.loads(as_reader("show", "demo", "--json", root=tmp_path).stdout)
        writers = (["check"], ["run", "--stage", "data"], ["automate"], ["report", "--ask-data"])
        refused = [as_reader(name, "demo", *options, root=tmp_path) for name, *options in writers]
        elsewhere = as_reader("report", "demo", "--to", str(tmp_path / "requests"), "--json", root=tmp_path)
    finally:
        for path in (home, *home.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
    assert facts["steps"]["clean_examples"]["made"]
    for result in refused:
        assert result.returncode == 1 and "may not be " in result.stderr and "Traceback" not in result.stderr
    written = json.loads(elsewhere.stdout)["data_request"]
    assert len(Path(written["jsonl"]).read_text().splitlines()) == len(written["rows"]) > 1


@pytest.mark.parametrize("place", ["", "raw", "logs/2026-05"])
def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(folder: Path, tmp_path: Path, place: str) -> None:
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place).chmod(0)
    try:
        result = as_reader("check", "demo", root=tmp_path)
        tasks = as_reader("show", root=tmp_path) if not place else None
    finally:
        (folder / place).chmod(0o700)
    assert result.returncode == 1
    if tasks:
        assert "Permission denied" in result.stdout
        assert "\ndemo  BROKEN " in tasks.stdout, "it was not listed, and missing from Dagster"
    else:
        assert result.stderr.startswith(f"{folder / place} may not be read or written by this user\nfix: ")


@pytest.mark.parametrize("older", [{"report.json": "{}"}, {"report.json": '{"schema_version": 4, "gates": []}'}])
def test_an_evaluation_of_another_release_is_named(
    folder: Path, tmp_path: Path, finetune: Any, older: dict[str, str]
) -> None:
    artifact = evaluated(tmp_path, older)
    for options in ((), ("--ask-data",)):
        result = finetune("report", "demo", *options)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert f"{artifact} was written by another release" in result.stderr
        assert "fix: `finetune run demo`" in result.stderr


def evaluated(root: Path, files: dict[str, str] | None = None) -> Path:
    """The folder of an evaluation_report with other files than this release writes, if any are given."""

    def evaluate(builder: Builder) -> None:
        result, rows = evaluation_and_rows()
        report = Report.of(result, decide(make_spec(), result))
        required = {
            "report.json": json.dumps(report.to_json()),
            "rows.json": rows.model_dump_json(),
            "report.html": "",
            "report.md": "",
        }
        for name, text in {**required, **(files or {})}.items():
            (builder.folder / name).write_text(text)
        builder.facts = Evaluated.from_report(report, report.gates).to_json()

    store = ArtifactStore(root / "home" / "artifacts")
    artifact = store.build("demo", "evaluation_report", code_version="1", inputs={}, settings=None, make=evaluate)
    return artifact.folder


def test_a_run_that_writes_while_a_person_is_forgotten_is_told(
    folder: Path, tmp_path: Path, finetune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_database(tmp_path / "home" / "mlflow")
    assert finetune("forget", "demo", "--user", "ann").returncode == 0
    with contextlib.ExitStack() as stack:

        def forget_while_a_step_begins(task: Any, store: Any, *whom: Any) -> Any:
            removed = remove(task, store, *whom)
            stack.enter_context(store.lock(task.name, f"data_quality-{'0' * 16}"))
            return removed

        monkeypatch.setattr("finetune_pipeline.cli.forget.remove", forget_while_a_step_begins)
        result = finetune("forget", "demo", "--user", "ann")
    assert result.returncode == 1 and "a run of demo writes at the same time\nfix: wait for it" in result.stderr
    assert "searched" in result.stdout
