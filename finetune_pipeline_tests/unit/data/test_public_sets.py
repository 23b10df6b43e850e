"""Public data sets, logs and tables as newcomers have them: each with the examples that it must give."""

import io
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_pipeline.data.draft.draft import draft
from finetune_pipeline.data.draft.files import given_files
from finetune_pipeline.evaluation.correctness import is_right
from finetune_pipeline_tests.unit.data.raw_rows import table, validate_file
from finetune_pipeline_tests.unit.data.rows import make_spec
from finetune_pipeline_tests.unit.data.test_draft import PAIRS, ROWS, THINGS, drafted, of, turns
from finetune_pipeline_tests.unit.data.test_exports import LABELS, Pairs, read

ASKED = [(text, f"On {text[::-1]}, {label}") for text, label in PAIRS]
TWO = [(text, f"He said {text[::-1]} now", ("yes", "no", "maybe")[i % 3]) for i, text, _ in ROWS]
CHOICES = [[f"{text[:9]}1", f"{text[:9]}2", f"{text[:9]}3", f"{text[:9]}4"] for text, _ in PAIRS]
RIGHT = ["ABCD"[i * 7 % 4] for i in range(len(PAIRS))]
MARKED = {
    (f"{text}\n\n" + "\n".join(f"{m}. {c}" for m, c in zip("ABCD", choices, strict=True)), right)
    for (text, _), choices, right in zip(PAIRS, CHOICES, RIGHT, strict=True)
}
OWN = turns("role", "content", {"q": "user", "a": "assistant"})


def pairs_in(folder: Path, content: Any, name: str = "a.jsonl", **options: Any) -> Pairs:
    """(What the user says, the answer) of every example that a file gives by its draft."""
    return read(folder, content, name, **options)[1]


def refusal(folder: Path, content: Any, name: str = "a.jsonl") -> str:
    task, problems = draft([of(folder, name, content)])
    assert task is None
    return "\n".join(map(str, problems))


def of_hub(columns: dict[str, list[Any]], **features: Any) -> bytes:
    """A Parquet file as Hugging Face datasets writes it."""
    out = io.BytesIO()
    info = json.dumps({"info": {"features": {k: {"_type": "Value"} for k in columns} | features}})
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": info}), out)
    return out.getvalue()


def test_classes_of_hugging_face_have_their_names(tmp_path: Path) -> None:
    """They were numbers. A task that has learnt the numbers keeps them."""
    texts, numbers = [t for t, _ in PAIRS], [LABELS.index(y) for _, y in PAIRS]
    of_class = {"names": LABELS, "_type": "ClassLabel"}
    plain = of_hub({"text": texts, "label": [*numbers[:-1], -1]}, label=of_class)
    assert pairs_in(tmp_path, plain, "a.parquet") == set(PAIRS[:-1])
    within = {"text": texts, "labels": [[n] for n in numbers]}
    for feature in ({"feature": of_class, "_type": "Sequence"}, [of_class]):
        assert pairs_in(tmp_path, of_hub(within, labels=feature), "b.parquet") == set(PAIRS)
    spec = make_spec(output={"kind": "labels", "labels": ["0", "1", "2"]}, fields={"label": "to_string(label)"})
    assert {row["label"] for row in validate_file(tmp_path / "a.parquet", spec).rows} == {"0", "1", "2"}
    numbered = {(t, str(LABELS.index(y))) for t, y in PAIRS}
    for odd in ({"names": None, "_type": "ClassLabel"}, {"names": ["x", "x", "y"], "_type": "ClassLabel"}, []):
        assert pairs_in(tmp_path, of_hub({"text": texts, "label": numbers}, label=odd), "c.parquet") == numbered


def test_arrow_files_are_refused_and_what_lies_beside_them_is_not_read(tmp_path: Path) -> None:
    out, rows = io.BytesIO(), pa.table({"text": ["a b"], "label": ["x"]})
    with pa.ipc.new_stream(out, rows.schema) as stream:
        stream.write_table(rows)
    of(tmp_path, "data-00000-of-00001.arrow", out.getvalue())
    of(tmp_path, "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    task, problems = draft([(file.name, file.path) for file in given_files([tmp_path])])
    assert task is None and "`to_parquet` of Hugging Face datasets" in problems[0].message


@pytest.mark.parametrize("first", ["premise", "sentence1", "question1", "text_a", "#1 String"])
def test_both_texts_that_are_compared_are_asked(tmp_path: Path, first: str) -> None:
    """One of the two was left out, or was the answer to the other."""
    second = {"premise": "hypothesis", "text_a": "text_b"}.get(first, first.replace("1", "2"))
    expected = {(f"{one}\n\n{two}", y) for one, two, y in TWO}
    labelled = [{"idx": i, first: a, second: b, "label": y} for i, (a, b, y) in enumerate(TWO)]
    assert pairs_in(tmp_path, labelled) == expected
    scored = [{first: a, second: b, "degree": i / 7} for i, (a, b, _) in enumerate(TWO)]
    assert "no two columns look like a text and its answer" in refusal(tmp_path, scored)


def test_parsed_texts_are_not_asked_in_place_of_the_texts(tmp_path: Path) -> None:
    """They are longer."""
    keys = ("sentence1_parse", "sentence1", "sentence2", "sentence2_parse", "gold_label")
    tree = [dict(zip(keys, (f"( ( {one} ) )", one, two, two, y), strict=True)) for one, two, y in TWO]
    assert pairs_in(tmp_path, tree) == {(f"{one}\n\n{two}", y) for one, two, y in TWO}


def test_the_choices_of_a_question_are_asked_with_it(tmp_path: Path) -> None:
    """Only the question was, and the answer was a letter; or a choice was the answer."""
    rows = list(zip((t for t, _ in PAIRS), CHOICES, RIGHT, strict=True))
    named = {"names": list("ABCD"), "_type": "ClassLabel"}
    mmlu = {"question": [r[0] for r in rows], "choices": CHOICES, "answer": ["ABCD".index(r[2]) for r in rows]}
    assert pairs_in(tmp_path, of_hub(mmlu, answer=named), "a.parquet") == MARKED
    arc = [{"question": q, "choices": {"text": some, "label": list("ABCD")}, "answerKey": y} for q, some, y in rows]
    assert pairs_in(tmp_path, arc) == MARKED
    assert len(pairs_in(tmp_path, arc[:5])) == 5  # too few for labels
    listed = [[{"label": "?", "text": c} for c in some] for some in CHOICES]
    stems = [{"answerKey": y, "question": {"stem": q, "choices": listed[i]}} for i, (q, _, y) in enumerate(rows)]
    assert pairs_in(tmp_path, stems) == MARKED
    own = [[q, *some, y] for q, some, y in rows]
    assert pairs_in(tmp_path, [["Question", "A", "B", "C", "D", "Answer"], *own], "b.csv") == MARKED
    assert pairs_in(tmp_path, own, "c.csv") == MARKED  # MMLU's own files have no header
    fewer = [{"question": q, "options": CHOICES[i][: 3 + i % 2], "answer": "ABC"[i % 3]} for i, q, _ in ROWS]
    three = f"{rows[0][0]}\n\nA. {CHOICES[0][0]}\nB. {CHOICES[0][1]}\nC. {CHOICES[0][2]}"
    assert (three, "A") in pairs_in(tmp_path, fewer)
    some = [[f"A){q[:3].strip()}", "B)2"] for q, _ in PAIRS]
    right = ["AB"[y > "B"] for y in RIGHT]
    marked = [{"question": q, "options": some[i], "rationale": q[::-1], "correct": right[i]} for i, q, _ in ROWS]
    assert pairs_in(tmp_path, marked) == {(f"{q}\n\nA){q[:3].strip()}\nB)2", "AB"[y > "B"]) for q, _, y in rows}
    ends = [{"ind": i, "ctx": q, "endings": some, "label": str("ABCD".index(y))} for i, (q, some, y) in enumerate(rows)]
    assert {answer for asked, answer in pairs_in(tmp_path, ends) if "\n\n0. " in asked} == set("0123")


def test_the_first_of_unnamed_texts_asks(tmp_path: Path) -> None:
    """The longer one did, so that translations were the wrong way round; a remark in the third column was the answer."""
    french = {(t, f"Le {t[::-1]}") for t, _ in PAIRS}
    pairs = [{"id": f"{i}", "translation": {"en": t, "fr": f"Le {t[::-1]}"}} for i, t, _ in ROWS]
    assert pairs_in(tmp_path, pairs) == french
    flan = [{"inputs": q, "targets": a, "task_source": "x"} for q, a in ASKED]
    assert pairs_in(tmp_path, flan) == set(ASKED) == pairs_in(tmp_path, [["Q", "A"], *ASKED], "b.csv")
    remark = "CC-BY 2.0 (France) Attribution: x #{} (CM)"
    remarks = "".join(f"{q}\t{a}\t{remark.format(i)}\n" for i, (q, a) in enumerate(sorted(french)))
    assert pairs_in(tmp_path, remarks, "a.tsv") == french


def test_what_is_written_about_a_text_is_not_the_text(tmp_path: Path) -> None:
    """Summaries were asked for the dialogue, and Alpaca's `text`, which holds the answer, was the request."""
    talks = [(f"Ann: {t}\nJo: Sure!\nAnn: {t[::-1]}", f"Ann {t}", y) for t, y in PAIRS]
    rows = [{"id": f"{i}", "dialogue": talk, "summary": short, "topic": y} for i, (talk, short, y) in enumerate(talks)]
    assert pairs_in(tmp_path, rows) == {talk[:2] for talk in talks}
    whole = "A task.\n### Do:\n{}\n### Said:\n{}"
    alpaca = [{"instruction": q, "input": "", "output": a, "text": whole.format(q, a)} for q, a in ASKED]
    assert pairs_in(tmp_path, alpaca) == set(ASKED)
    mail = [{"name": t.split()[0], "city": t.split()[1], "body": t, "queue": y} for t, y in PAIRS]
    assert pairs_in(tmp_path, mail) == set(PAIRS)  # a text that mentions two others is one of its own


def test_a_column_for_each_label(tmp_path: Path) -> None:
    """One of the labels was the task, and the others were left out."""
    also = [{y, "account"} if i % 5 == 0 else {y} for i, _, y in ROWS]
    expected = {(t, ", ".join(label for label in LABELS if label in also[i])) for i, t, _ in ROWS}
    rows = [{"comment_text": t, **{y: int(y in also[i]) for y in LABELS}} for i, t, _ in ROWS]
    assert pairs_in(tmp_path, rows) == expected
    assert pairs_in(tmp_path, [[*rows[0]], *(row.values() for row in rows)], "a.csv") == expected
    assert pairs_in(tmp_path, [{"text": t, **{y: y == own for y in LABELS}} for t, own in PAIRS]) == set(PAIRS)
    none = [{"text": t, "toxic": i % 3 // 2, "severe_toxic": i % 6 // 5, "threat": i % 4 // 3} for i, t, _ in ROWS]
    kinds = {"none", "toxic", "threat", "toxic, severe_toxic", "toxic, severe_toxic, threat"}
    assert {a for _, a in pairs_in(tmp_path, none)} == kinds
    scored = [{"text": t, "cats": {y: float(y == own) for y in LABELS}, "meta": {"new": i % 2}} for i, t, own in ROWS]
    assert pairs_in(tmp_path, scored) == set(PAIRS)
    beside = [{"text": t, "has_link": i % 2, "is_new": i % 3 % 2, "is_spam": i % 5 % 2} for i, t, _ in ROWS]
    assert {a for _, a in pairs_in(tmp_path, beside)} == {"0", "1"}


@pytest.mark.parametrize("mark", ["; ", "|", ","])
def test_several_labels_in_one_text_become_a_list(tmp_path: Path, mark: str) -> None:
    """Every combination was a label of its own."""
    labels = [[y, "urgent"] if i % 4 == 0 else [y] for i, _, y in ROWS]
    rows = [[t, mark.join(of_row)] for (t, _), of_row in zip(PAIRS, labels, strict=True)]
    made = drafted(of(tmp_path, "a.csv", [["text", "tags"], *rows]))
    assert [json.loads(answer) for answer in made.answers.values] == [*map(list, dict.fromkeys(map(tuple, labels)))]
    assert made.schema is not None and sorted(made.schema["items"]["enum"]) == sorted([*THINGS, "urgent"])
    assert "urgent: # describe" in made.system_prompt and "JSON list" in made.system_prompt
    for answer, right in ((labels[0][::-1], True), (labels[0][:1], False)):
        row = {"example_id": "1", "status": "ok", "text": json.dumps(answer), "gold": json.dumps(labels[0])}
        assert is_right(row, made.spec.output) is right, "the order of labels is no matter"
    words = [{"text": t, "tags": ["B", "O", "O", "I", "O"][: 3 + i % 3]} for i, t, _ in ROWS]
    tagged = drafted(of(tmp_path, "c.jsonl", words), answer="tags")
    assert tagged.schema is not None and tagged.schema["items"] == {"enum": ["B", "O", "I"]}
    assert "unordered" not in tagged.output, "tags of words repeat: their order counts"
    halves = [[t, ("1,5", "2,5", "1,0", "2,0")[i % 4]] for i, t, _ in ROWS]
    assert drafted(of(tmp_path, "b.csv", table([["text", "rating"], *halves], ";"))).answers.kind == "labels"


def test_labels_of_issues_are_their_names(tmp_path: Path) -> None:
    """Their colours were learnt with them, or another column in their place."""
    coloured = [[{"name": y, "color": "d73a4a"}, {"name": "old", "color": "fff"}][: 1 + i % 2] for i, _, y in ROWS]
    issues = [{"number": i, "title": f"no {i}", "body": t, "labels": coloured[i]} for i, t, _ in ROWS]
    made = drafted(of(tmp_path, "a.json", issues))
    lists = {tuple(json.loads(answer)) for answer in made.answers.values}
    assert lists == {more for thing in THINGS for more in ((thing,), (thing, "old"))}
    alone = [{**issue, "labels": issue["labels"][:1]} for issue in issues]
    assert sorted(drafted(of(tmp_path, "b.json", alone)).answers.labels) == sorted(THINGS)


def test_rows_below_a_header_that_name_the_columns_again_are_told(tmp_path: Path) -> None:
    """Surveys have them; they are rows all the same, because a value may be missing."""
    rows = [["StartDate", "Q1", "Q2"], ["Start Date", "Topic?", "What is it?"], ['{"I":1}', '{"I":2}', '{"I":3}']]
    rows += [["2026-03-01", y, t] for t, y in PAIRS]
    draft = drafted(of(tmp_path, "a.csv", rows))
    assert draft.answers.rows == 242
    assert "the first 2 rows below the header may repeat the column names" in draft.notes[0]
    assert drafted(of(tmp_path, "b.csv", [rows[0], *rows[3:]])).notes == []


def test_a_question_and_its_schema_ask_for_the_query(tmp_path: Path) -> None:
    """The database's id was the label."""
    asked = [(t, f"CREATE TABLE {y}{i} (n INT)", f"SELECT {i} FROM {y}{i}") for i, t, y in ROWS]
    rows = [{"db_id": PAIRS[i][1], "schema": s, "question": q, "query": a} for i, (q, s, a) in enumerate(asked)]
    assert pairs_in(tmp_path, rows) == {(f"{q}\n\n{s}", a) for q, s, a in asked}
    titled = [{"title": f"On {i}", "body": t, "category_id": y} for i, t, y in ROWS]
    assert pairs_in(tmp_path, titled) == {(f"On {i}\n\n{t}", y) for i, t, y in ROWS}


def test_columns_of_the_same_name_are_numbered(tmp_path: Path) -> None:
    """Exports of Jira were refused; two columns of which one is the label still are."""
    rows = [["Comment", "body", "Component", "Component"], *(["x", t, y, ""] for t, y in PAIRS)]
    draft = drafted(of(tmp_path, "a.csv", rows))
    assert draft.data["fields"] == {"text": "body", "label": "Component"}
    assert draft.choice.unused == ["Comment", "Component_2"] and draft.answers.rows == len(PAIRS)
    numbered = table([["a", "a", "a_2", "label"], *([t, "", "", y] for t, y in PAIRS)])
    assert "two columns have the name 'a_2'" in refusal(tmp_path, numbered, "b.csv")


def test_marked_spans_and_maps_are_answers(tmp_path: Path) -> None:
    """Each span was an example, whose label was one of several for the same text; maps were lists of pairs."""
    spans = [{"start": 0, "end": 4, "label": "A"}, {"start": 5, "end": 7, "label": "B"}]
    rows = [{"text": t, "tokens": t.split(), "spans": spans[: 1 + i % 2]} for i, t, _ in ROWS]
    assert {len(json.loads(answer)) for _, answer in pairs_in(tmp_path, rows)} == {1, 2}
    pairs = pa.array([[("topic", y), ("n", "1")] for _, y in PAIRS], pa.map_(pa.string(), pa.string()))
    out = io.BytesIO()
    pq.write_table(pa.table({"text": [t for t, _ in PAIRS], "attributes": pairs}), out)
    assert pairs_in(tmp_path, out.getvalue(), "a.parquet") == set(PAIRS)


def test_every_list_of_rows_in_a_document_is_read(tmp_path: Path) -> None:
    """The longest one was, where an empty list or a version stood beside them."""
    assert pairs_in(tmp_path, {"train": PAIRS[:180], "val": PAIRS[180:], "oos": []}, "a.json") == set(PAIRS)
    rows = [{"text": t, "label": y} for t, y in PAIRS]
    whole = {"version": "1", "train": rows[:180], "test": rows[180:], "intents": [{"name": y} for y in THINGS]}
    assert pairs_in(tmp_path, whole, "b.json") == set(PAIRS)
    bunch = {"data": [t for t, _ in PAIRS], "target": [LABELS.index(y) for _, y in PAIRS], "target_names": LABELS}
    assert "one list per column" in refusal(tmp_path, bunch, "c.json")


def test_answers_that_a_table_calls_bad_are_none(tmp_path: Path) -> None:
    rows = [[q, a, str(i % 3 > 0)] for i, (q, a) in enumerate(ASKED)]
    expected = {pair for i, pair in enumerate(ASKED) if i % 3}
    assert pairs_in(tmp_path, [["prompt", "completion", "label"], *rows], "a.csv") == expected


def test_hidden_sheets_names_of_groups_and_floats(tmp_path: Path) -> None:
    """The hidden sheet was read as well, or instead; the names of groups named the columns."""
    book, out = openpyxl.Workbook(), io.BytesIO()
    hidden, shown = book.active, book.create_sheet("Data")
    hidden.title, hidden.sheet_state = "old", "hidden"
    for sheet in (hidden, shown):
        for row in [["Customer", None, "Internal"], ["Nr", "Message", "Topic"], *([i, t, y] for i, t, y in ROWS)]:
            sheet.append([cell[::-1] for cell in row if isinstance(cell, str)] if sheet is hidden else row)
    book.save(out)
    assert pairs_in(tmp_path, out.getvalue(), "a.xlsx") == set(PAIRS)
    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in [["text", "share"], *([t, 0.05 * (i % 5)] for i, t, _ in ROWS)]:
        book.active.append(row)
    book.save(out)
    answers = {answer for _, answer in pairs_in(tmp_path, out.getvalue(), "b.xlsx", answer="share")}
    assert answers == {"0", "0.05", "0.1", "0.15", "0.2"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("".join(f"__label__{y} {t}, ok\n" for t, y in PAIRS), "lines of fastText"),
        ("INSERT INTO t VALUES\n" + "".join(f"({i},'{t}','{y}'),\n" for i, t, y in ROWS), "an SQL dump"),
        ("| text | label |\n|---|---|\n" + "".join(f"| {t} | {y} |\n" for t, y in PAIRS), "a table in Markdown"),
        ("From: Ann <a@example.com>\nSubject: Hi\n\nHello, there\n", "e-mail"),
        ("<?xml version='1.0'?>\n<rows/>\n", "XML or HTML"),
        ("".join(f"01/05/2024, 10:{i % 60:02} - Ann: {t}\n" for i, t, _ in ROWS), "the log of a messenger"),
        ("-DOCSTART- -X- O\n\n" + "Ann NNP B-NP B-PER\nsails VBZ B-VP O\n\nOslo NNP B-NP B-LOC\n" * 9, "token class"),
        ("# sent_id = 1\n" + "".join(f"{i}\tAnn\tann\tPROPN\tNNP\t_\t0\troot\t_\t_\n" for i in (1, 2)), "token class"),
        ("version: '3.1'\n\nnlu:\n- intent: greet\n  examples: |\n    - hello, you\n    - hi, you\n", "YAML"),
        ("- text: hello, you\n  label: greet\n" * 9, "YAML"),
        ("<html><table>" + "".join(f"<tr><td>{t}</td><td>{y}</td></tr>\n" for t, y in PAIRS), "XML or HTML"),
        ("word\ttag\n" + "Ann\tB-PER\nsails\tO\n\nOslo\tB-LOC\n" * 9, "token class"),
    ],
    ids="fastText SQL Markdown e-mail XML WhatsApp CoNLL CoNLL-U YAML YAML-rows HTML TSV-of-tags".split(),
)
def test_texts_that_are_no_tables_are_refused_by_name(tmp_path: Path, content: str, told: str) -> None:
    assert told in refusal(tmp_path, content, "a.txt")


def test_labels_that_hold_words_for_speakers_are_labels(tmp_path: Path) -> None:
    labels = ["user_name", "are_you_a_bot", "weather", "alarm", "oil_change"]
    rows = {(text, labels[i % 5]) for i, text, _ in ROWS}
    assert pairs_in(tmp_path, {"train": sorted(rows, key=str)}, "a.json") == rows


def test_blank_lines_and_runs_of_signs_cost_nothing(tmp_path: Path) -> None:
    """Patterns that look for other kinds of text must not try every way to part them: this would not end."""
    for filler in ("\n", " \n", "# ", "#", "<|", "w\t"):
        rows = {(f"{text}\n{filler * 1500} end", label) for text, label in PAIRS[:40]}
        assert pairs_in(tmp_path, [{"text": text, "label": label} for text, label in rows], "a.json") == rows
        refusal(tmp_path, filler * 4000 + "x", "a.txt")


def test_sentences_whose_labels_look_like_tags_are_a_table(tmp_path: Path) -> None:
    labels = ["E-mail", "B-2", "O", "U-turn"]
    rows = {(f"please look at case {i} of {labels[i % 4]} today", labels[i % 4]) for i in range(40)}
    content = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in sorted(rows, key=str))
    assert pairs_in(tmp_path, content, "a.tsv") == rows
