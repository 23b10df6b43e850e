import datetime as dt
import gzip
import io
import zipfile
from pathlib import Path

import openpyxl
import pytest

from finetune_pipeline.data.raw_files import container_of
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.raw_rows import Validated, validate_bytes, workbook
from finetune_pipeline_tests.unit.data.rows import make_spec

SPEC = make_spec()
ROWS = [("It does, again, nothing", "bug_report"), ("Café — 日本 😀", "P0_incident"), ("two\nlines", "bug_report")]
SOUND = workbook({"A": [["text", "label"], *ROWS]})


def changed(data: bytes, part: str, old: bytes, new: bytes) -> bytes:
    """The workbook with something replaced in the XML of one of its parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            xml = source.read(name)
            assert name != part or old in xml
            target.writestr(name, xml.replace(old, new) if name == part else xml)
    return out.getvalue()


def read(folder: Path, data: bytes, spec: TaskSpec = SPEC) -> Validated:
    return validate_bytes(folder, data, spec, "a.xlsx")


def test_rows_keep_the_numbers_the_sheet_shows(tmp_path: Path) -> None:
    data = workbook({"Tickets": [[], ["text", "label", None, "group"], *ROWS[:2], [], [None, None], ROWS[2], ["x"]]})
    result = read(tmp_path, data)
    assert result.texts == [text for text, _ in ROWS]
    assert [e["source"]["line"] for e in result.rows] == [3, 4, 7]
    assert result.by_line == [("empty_field", 8), ("too_short", 8)]
    assert container_of(tmp_path / "a.xlsx", "a.xlsx", SPEC)[0] == "workbook"


def test_names_of_columns_in_two_rows_are_told(tmp_path: Path) -> None:
    """As merged cells leave them: Ticket and Agent go down over two rows, Request goes across two columns."""
    data = workbook({"A": [["id", "text", None, "group"], [None, "text", "label", None], *([1, *ROWS[0], "x"],) * 3]})
    found = [f for f in read(tmp_path, data).findings if f["rule"] == "data.merged_header"]
    assert [(f["place"], f["severity"]) for f in found] == [("a.xlsx", "warning")] and "in one row" in found[0]["fix"]
    half = workbook({"A": [["id", "text", "label", None], [1, *ROWS[0], None], [2, *ROWS[1], "a remark"]]})
    assert all(f["rule"] != "data.merged_header" for f in read(tmp_path, half).findings)


def test_a_cell_merged_over_several_rows_counts_for_each_of_them(tmp_path: Path) -> None:
    rows = [(f"{text} {i}", label) for i in range(4) for text, label in ROWS[:2]]
    book, out = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    for row in [["A list of tickets"], ["text", "label", "group"], *([text, None, None] for text, _ in rows)]:
        sheet.append(row)
    for first, last, label in ((3, 5, "bug_report"), (6, 6, "P0_incident"), (7, 10, "feature_request")):
        sheet[f"B{first}"] = label
        sheet.merge_cells(f"B{first}:B{last}")
    sheet["C3"] = "g1"
    sheet.merge_cells("C3:C10")
    sheet.merge_cells("A1:C1")
    book.save(out)
    result = read(tmp_path, out.getvalue())
    labels = ["bug_report"] * 3 + ["P0_incident"] + ["feature_request"] * 4
    assert [row["label"] for row in result.rows] == labels and {row["group"] for row in result.rows} == {"g1"}
    assert result.texts == [text for text, _ in rows]
    (note,) = [f for f in result.findings if f["rule"] == "data.merged_cells"]
    assert note["severity"] == "note" and "3 cells are merged over several rows" in note["message"]
    assert "data.merged_cells" not in [f["rule"] for f in read(tmp_path, SOUND).findings]


def test_cells_become_what_a_csv_export_would_hold(tmp_path: Path) -> None:
    moments = [dt.datetime(2026, 5, 1, 12, 30), dt.date(2026, 5, 2)]
    rows = [["It broke", 5, moments[0], 7.0], ["Still broken", True, moments[1], 0.25]]
    data = workbook({"A": [["text", "label", "time", "group"], *rows]})
    result = read(tmp_path, data, make_spec({"kind": "labels", "labels": ["5", "TRUE"]}))
    first, second = [[e["label"], e["time"], e["group"]] for e in result.rows]
    assert first == ["5", "2026-05-01T12:30:00Z", "7"] and second == ["TRUE", "2026-05-02T00:00:00Z", "0.25"]


def test_a_sheet_is_chosen_and_the_others_are_named(tmp_path: Path) -> None:
    data = workbook({"Old": [["text", "label"], ROWS[0]], "New": [["text", "label"], *ROWS]})
    first = read(tmp_path, data)
    assert first.kept == 1 and first.rules == {"other_sheets": 1} and "'New'" in first.unread[0].message
    chosen = read(tmp_path, data, make_spec(sheet="New"))
    assert (chosen.kept, chosen.findings) == (3, [])
    both = read(tmp_path, data, make_spec(sheet=["Old", "New"]))
    places = [(e["source"]["sheet"], e["source"]["line"]) for e in both.rows]
    assert places == [("Old", 2), ("New", 2), ("New", 3), ("New", 4)]
    titled = workbook(
        {"Old": [["Old rows"], ["text", "label"], ROWS[0], ["text", "label"]], "New": [["text", "label"], *ROWS]}
    )
    rest = read(tmp_path, titled, make_spec(sheet=["Old", "New"]))
    assert {f["place"] for f in rest.findings} == {"a.xlsx, sheet 'Old'", "a.xlsx:4, sheet 'Old'"}
    none = read(tmp_path, data, make_spec(sheet="new"))
    assert (none.rows_in, none.rules) == (0, {"no_sheet": 1}) and "'Old', 'New'" in none.unread[0].message


def test_an_archive_of_files_is_to_be_unpacked(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("tickets.csv", "text,label\n")
    assert read(tmp_path, out.getvalue()).unread[0].fix == "unpack it"


def test_a_row_wider_than_those_the_columns_come_from_is_refused(tmp_path: Path) -> None:
    result = read(tmp_path, workbook({"A": [["text", "label"], *[ROWS[0]] * 1000, [*ROWS[1], "more"]]}))
    assert result.kept == 1000 and result.by_line == [("wrong_field_count", 1002)]


def test_a_formula_is_its_stored_value(tmp_path: Path) -> None:
    data = workbook({"A": [["text", "label"], *ROWS[:2], ["Down", "=B2"]]})
    missing = read(tmp_path, data)
    assert missing.kept == 2 and missing.by_line == [("empty_field", 4)]
    cell = b'<c r="B4"><f>B2</f><v></v>', b'<c r="B4" t="str"><f>B2</f><v>bug_report</v>'
    stored = changed(data, "xl/worksheets/sheet1.xml", *cell)
    assert read(tmp_path, stored).kept == 3


def test_characters_that_workbooks_escape_are_read(tmp_path: Path) -> None:
    """A line end of Windows is _x000D_ and a line feed, which would be learnt."""
    written = changed(SOUND, "xl/worksheets/sheet1.xml", b"two\nlines", b"two_x000D_\nlines, _x005F_x000A_")
    assert read(tmp_path, written).texts[2] == "two\nlines, _x000A_"


def test_the_size_a_sheet_claims_costs_nothing(tmp_path: Path) -> None:
    for claim in (b'<dimension ref="A1:XFD1048576"', b'<dimension ref="A1"'):
        wrong = changed(SOUND, "xl/worksheets/sheet1.xml", b'<dimension ref="A1:B4"', claim)
        assert read(tmp_path, wrong).kept == 3


WIDE = workbook({"A": [["text", "label"], *[(f"{i}" * 300, "bug_report") for i in range(2000)]]})


@pytest.mark.parametrize(
    ("data", "rule", "said"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "unknown_container", "save it as .xlsx"),
        (gzip.compress(SOUND), "unknown_container", "unpack it"),
        (SOUND[:-300], "bad_workbook", "CSV in UTF-8"),
        (workbook({"A": [["wort", "queue"], ["It broke", "a"]]}), "workbook_columns", "fields: {text: c1, label: c2}"),
        (workbook({"A": []}), "no_rows", ""),
        (workbook({"A": [["text", "label"]]}), "no_rows", ""),
        (WIDE, "unpacked_too_large", ""),
    ],
)
def test_what_is_no_readable_workbook_is_refused_with_what_to_do(tmp_path, data, rule, said) -> None:
    result = read(tmp_path, data, make_spec(max_unpacked_gib=0.001))
    assert (result.rows_in, result.rules) == (0, {rule: 1})
    assert said in result.findings[0]["fix"] and "data.csv" not in result.findings[0]["fix"]


def test_cut_or_damaged_anywhere_a_workbook_ends_as_findings(tmp_path: Path) -> None:
    data = workbook({"A": [["text", "label"], *ROWS * 30]})
    for at in range(0, len(data), 211):
        for damaged in (data[:at], data[:at] + b"\xff\0\x80" + data[at + 3 :]):
            result = read(tmp_path, damaged)
            assert result.rows_in == result.kept + len(result.quarantine) and result.kept in (0, 90)
            assert result.kept == 90 or result.unread


def test_a_text_that_is_stored_once_and_stands_in_many_cells_is_counted_in_each(tmp_path: Path) -> None:
    """Shared strings: a workbook of some kB holds a GiB of texts."""
    rows = [["hello", "bug_report", *["MARK" if n > 1 else "y"] * 300] for n in range(40)]
    data = workbook({"A": [["text", "label", *(f"more{n}" for n in range(300))], *rows]})
    sheet, inline, shared = "xl/worksheets/sheet1.xml", b't="inlineStr"><is><t>MARK</t></is>', b't="s"><v>0</v>'
    data = changed(data, sheet, inline, shared)
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    part = b'<Override PartName="/xl/sharedStrings.xml" ContentType="' + kind + b'"/></Types>'
    out = io.BytesIO(changed(data, "[Content_Types].xml", b"</Types>", part))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as book:
        space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
        book.writestr("xl/sharedStrings.xml", f'<sst xmlns="{space}"><si><t>{"x" * 30_000}</t></si></sst>')
    result = read(tmp_path, out.getvalue(), make_spec(max_unpacked_gib=0.2))
    assert len(out.getvalue()) < 1 << 20
    assert result.rules["line_too_long"] > 10 and result.rules["unpacked_too_large"] == 1
    assert len(result.rows) == 2, "the short ones"
