"""Pages in a real browser. The report: first screen, contrast, print and row filter. The review page: keys, reload, hostile
markup and stored decisions."""

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse
from starlette.routing import Mount

from finetune_pipeline.cli.review import _queue
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.people import PeopleAnswers, read_people
from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.production.choosing import DIFFERS
from finetune_pipeline.report.blocks import Page, Section, Table, text
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.page import page_html
from finetune_pipeline.review.flagged_queue import flagged_queue
from finetune_pipeline.review.people_queue import people_queue
from finetune_pipeline.review.queues import ReviewQueue, outputs_queue, synthetic_queue
from finetune_pipeline.review.server import review_app
from finetune_pipeline.review.sheet import RANDOM, SheetItem, sheet_name
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation_and_rows
from finetune_pipeline_tests.unit.evaluation.rows import paired, spec
from finetune_pipeline_tests.unit.report.test_page import every_block
from finetune_pipeline_tests.unit.steps.test_logged_teacher import Traffic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: pages cannot be looked at")
SHEET = sheet_name("0123456789abcdef", 3)
EVIL = "</script><img src=x onerror=document.title='broken'>"
WIDTHS = (1280, 500)  # headless Chromium allows no narrower window
DARK = "@media (prefers-color-scheme: dark)"
REPORT = """const p = document.createElement('p'); p.id = 'measured'; p.textContent = JSON.stringify(measured);
document.body.append(p);"""
CONTRAST = """
const rgb = text => { const n = text.match(/[\\d.]+/g).map(Number); return text.startsWith("color(") ?
  [...n.slice(0, 3).map(v => 255 * v), n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1]; };
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
const light = color => { const [r, g, b] = color.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b; };
const below = e => { let c = [255, 255, 255]; const up = []; for (let a = e; a; a = a.parentElement) up.unshift(a);
  for (const a of up) c = over(rgb(getComputedStyle(a).backgroundColor), c); return c; };
for (const fold of document.querySelectorAll("details")) fold.open = true;
const measured = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, style = getComputedStyle(e);
  if (!walk.currentNode.data.trim() || e.closest("script, style, option") || !e.getClientRects().length) continue;
  if (e.closest("svg") && walk.currentNode.data.trim() === "\\u25a0") continue; // a legend's square
  const back = below(e), paint = rgb(e.closest("svg") ? style.fill : style.color);
  for (let a = e; a; a = a.parentElement) paint[3] *= getComputedStyle(a).opacity;
  const [x, y] = [light(over(paint, back)), light(back)].sort((a, b) => b - a);
  measured.push([(x + .05) / (y + .05), walk.currentNode.data.trim(), e.className || e.tagName]);
}
"""
DRIVER = """
<script>
const press = (key, target) => (target || document.body).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const type = (id, text) => { const f = $(id); f.value = text; f.dispatchEvent(new Event("change")); };
const tell = value => { // to the page around a frame, if it is in one
  const p = document.createElement("p"); p.id = "told"; p.textContent = JSON.stringify(value); top.document.body.append(p);
};
const lines = () => data.items.map(i => kept[i.id]).filter(complete).map(line);
setTimeout(async () => { %s }, 50);
</script>
"""


@cache
def report() -> str:
    """The report page of a refused candidate, with rows."""
    base, candidate = paired(80, 14, 8, 98)
    result, rows = evaluation_and_rows(predictions=[*base, *candidate])
    return page_html(evaluation_page(result, decide(spec(), result), rows))


def browse(page: str, folder: Path, script: str, width: int = 1280, dark: bool = False) -> Any:
    """Run a script in a page. Returns the script's variable `measured`."""
    page = page.replace(DARK, "@media all" if dark else "@media not all")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # it would block the test's script
    file = folder / "page.html"
    file.write_text(page.replace("</body>", f"<script>{{ {script}\n{REPORT} }}</script></body>"), "utf-8")
    dom = chromium(folder, "--dump-dom", f"--window-size={width},800", file.as_uri())
    measured = re.search(r'<p id="measured">(.*?)</p>', dom, re.S)
    assert measured, dom[-2000:]
    return json.loads(html.unescape(measured.group(1)))


def chromium(folder: Path, *arguments: str) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}"]
    command = [str(CHROMIUM), *flags, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_screen_answers(tmp_path: Path, width: int) -> None:
    script = """const root = document.documentElement;
    const measured = {wide: root.scrollWidth - innerWidth, high: root.scrollHeight};
    const bottom = what => document.querySelector(what).getBoundingClientRect().bottom;
    measured.facts = bottom(".facts"); measured.answer = bottom(".answer"); measured.next = bottom(".next + ol li");
    const box = document.querySelector("figure").getBoundingClientRect(), verdict = document.querySelector(".verdict");
    measured.picture = box.top; measured.beside = box.left >= verdict.getBoundingClientRect().right;
    measured.text = document.body.innerText;
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    const right = e => e.getBoundingClientRect().right;
    measured.cut = [...document.querySelectorAll("svg text, .rows td, .atlas td, .answers td")].filter(
      e => e.getClientRects().length && right(e) > right(e.closest(".wide, .narrow, figure")) + 1).map(e => e.textContent);"""
    measured = browse(report(), tmp_path, script, width)
    summary = measured["text"][: measured["text"].index("\nGates\n")]
    for words in (
        "Ship nothing.",
        "Refused by beats_baseline",
        "points less than the base model",
        "What to do next",
        "2026-01-02",
        "bundled/smollm2-135m-instruct, qlora, version m1",
        "version t1: 700 train, 80 validation, 171 test rows",
    ):
        assert words in summary, words
    assert max(measured["facts"], measured["answer"], measured["picture"]) < 800
    assert measured["beside"] is (width == 1280) and measured["next"] < (800 if width == 1280 else 1500)
    assert measured["wide"] <= 0, "the page scrolls sideways"
    assert measured["cut"] == []
    assert measured["high"] < (3500 if width == 1280 else 5500)


def test_the_report_prints_on_at_most_eight_pages(tmp_path: Path) -> None:
    page, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(report(), "utf-8")
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri())
    assert 1 <= len(re.findall(rb"/Type /Page\b", pdf.read_bytes())) <= 8


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["report", "every block"])
def test_every_text_has_contrast(tmp_path: Path, which: str, dark: bool) -> None:
    page = report() if which == "report" else page_html(every_block("words"))
    measured = browse(page, tmp_path, CONTRAST, dark=dark)
    assert len(measured) > 60
    assert not [text for text in measured if text[0] < 4.5], "(contrast ratio, text, element)"


def test_headers_have_a_scope_and_rows_can_be_filtered(tmp_path: Path) -> None:
    script = """const fold = document.querySelector("#rows").closest("details");
    const measured = {bare: document.querySelectorAll("th:not([scope])").length, counts: []};
    const say = () => measured.counts.push(fold.querySelector("output").textContent,
      [...fold.querySelectorAll(".rows tbody tr")].filter(row => !row.hidden).length);
    const set = (what, value) => { const field = fold.querySelectorAll(".controls input, .controls select")[what];
      field.value = value; field.dispatchEvent(new Event("input", {bubbles: true})); say(); };
    say(); set(1, "=regression"); set(0, "text of e0081"); set(1, ""); set(0, "nothing has this");
    location.hash = "#rows"; dispatchEvent(new Event("hashchange")); measured.open = fold.open;"""
    measured = browse(report(), tmp_path, script)
    assert measured["bare"] == 0
    assert measured["counts"] == ["200 of 200 rows", 200, "14 of 200 rows", 14, "1 of 200 rows", 1, "1 of 200 rows", 1,
                              "0 of 200 rows", 0]  # fmt: skip
    assert measured["open"] is True


def test_a_right_to_left_text_is_shown_in_its_order(tmp_path: Path) -> None:
    table = Table([("Text", text)], [["\u05e9\u05dc\u05d5\u05dd!"]], style="rows", audience="page")
    script = """const place = i => { const range = document.createRange(), words = document.querySelector("td").firstChild;
      range.setStart(words, i); range.setEnd(words, i + 1); return range.getBoundingClientRect().left; };
    const measured = [place(0), place(4)];"""
    first_letter, mark = browse(page_html(Page("t", "l", None, [Section.of("s", "S", [table])])), tmp_path, script)
    assert mark < first_letter, "the exclamation mark must be to the left of the word it ends"


def test_the_policy_lets_the_pages_own_script_run_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(report().replace("</main>", "</main><script>document.title = 'broken'</script>"), "utf-8")
    dom = chromium(tmp_path, "--dump-dom", file.as_uri())
    assert "<title>broken" not in dom and 'class="unfold"' in dom and 'class="controls"' in dom


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "demo").mkdir()
    return Task(spec=spec(name="demo", output={"kind": "labels", "labels": ["yes", "no"]}), folder=tmp_path / "demo")


def drive(page: str | Path, folder: Path) -> Any:
    """Open a page with a driver script. Returns what the script passed to `tell`."""
    url = page.as_uri() if isinstance(page, Path) else page
    dom = chromium(folder, "--dump-dom", "--virtual-time-budget=8000", url)
    told = re.search(r'<p id="told">(.*?)</p>', dom, re.S)
    assert told, dom[-2000:]
    assert "<title>broken" not in dom
    return json.loads(html.unescape(told.group(1)))


def with_driver(page: str, script: str) -> str:
    return page.replace("</body>", DRIVER % script + "</body>")


def queue(task: Task) -> ReviewQueue:
    texts = [EVIL, "q1", "q2"]
    items = [SheetItem(f"e{i}", text, "ref", f"left {i}", f"right {i}", RANDOM) for i, text in enumerate(texts)]
    return outputs_queue(task, SHEET, items)


def test_keys_decide_and_a_reload_loses_nothing(task: Task, tmp_path: Path) -> None:
    # The page reloads itself within one browser, since a browser may end before it has written its storage. Another process
    # writes the storage, which can be late on a busy machine, so the script reloads until it is there.
    wait = "await new Promise(done => setTimeout(done, 300));"
    before = (
        'press("1"); const refused = $("state").textContent, before = lines().length;'
        f'type("rater", "Ada"); press("1"); {wait} press("4"); {wait}'
        'press("k"); press("k"); type("comment", "why");'
        "const seen = { refused, before, rows: lines(), first: item().id,"
        ' shown: document.querySelector("#item pre").textContent, where: $("where").textContent };'
    )
    script = (
        'const kept_before = sessionStorage.getItem("seen"), tries = Number(sessionStorage.getItem("tries"));'
        f'if (!kept_before) {{ {before} sessionStorage.setItem("seen", JSON.stringify(seen)); location.reload(); }}'
        "else if (!read(store_key) && tries < 50)"
        ' { sessionStorage.setItem("tries", tries + 1); setTimeout(() => location.reload(), 50); }'
        'else tell({ seen: JSON.parse(kept_before), again: { rows: lines(), at, rater: $("rater").value } });'
    )
    file = tmp_path / "page.html"
    file.write_text(with_driver(queue(task).page(), script))
    result = drive(file, tmp_path)
    seen, again = result["seen"], result["again"]
    assert (seen["refused"], seen["before"]) == ("write your name first", 0)
    assert (seen["shown"], seen["where"]) == (EVIL, "1 of 3, 2 decided")
    decisions = [(row["id"], row["choice"], row["rater"], row["sheet"]) for row in seen["rows"]]
    assert decisions == [("e0", "A", "Ada", SHEET), ("e1", "neither", "Ada", SHEET)]
    assert seen["rows"][0]["comment"] == "why"
    assert again["rows"] == seen["rows"]
    assert (again["at"], again["rater"]) == (2, "Ada")
    for row in again["rows"]:
        assert queue(task).take(row)[0] is not None


def test_another_answer_is_asked_for_before_a_row_counts(task: Task, tmp_path: Path) -> None:
    rows = [{"id": "a" * 16, "generator": "g", "text": "t", "answer": "yes"}]
    file = tmp_path / "page.html"
    script = (
        'press("3"); const open = lines().length, asked = $("answer-row").className; type("answer", "no");'
        "tell({ open, asked, rows: lines() });"
    )
    file.write_text(with_driver(synthetic_queue(task, rows).page("Ada"), script))
    result = drive(file, tmp_path)
    assert (result["open"], result["asked"]) == (0, "row")
    (row,) = result["rows"]
    assert (row["decision"], row["label"], row["reviewer"]) == ("relabel", "no", "Ada")
    assert synthetic_queue(task, rows).take(row)[0] is not None


def test_served_decisions_are_stored_as_they_are_made(task: Task, tmp_path: Path) -> None:
    outputs, stored = queue(task), tmp_path / "out.jsonl"
    script = 'press("2"); await sending; tell({ state: $("state").textContent, rows: lines() });'
    page = with_driver(outputs.page("Ada", server=True), script)
    with LocalServer(review_app(page, outputs.take, stored)) as server:
        result = drive(f"{server.url}/", tmp_path)
    assert result["state"] == "stored"
    assert [json.loads(line) for line in stored.read_text().splitlines()] == result["rows"]
    assert result["rows"][0]["choice"] == "B"


def test_the_teachers_other_answer_stays_on_the_page_once_ones_own_is_stored(task: Task, tmp_path: Path) -> None:
    rows = [Example(id=f"{n:016x}", messages=[{"role": "user", "content": f"question {n}"}]) for n in range(3)]
    first, second, _ = (item["id"] for item in people_queue(task, rows, PeopleAnswers(), {}, "Ada", 9).items)
    people = people_queue(task, rows, PeopleAnswers(), {first: "no", second: "yes"}, "Ada", 9)
    script = (
        "const wait = async () => { await sending; await new Promise(done => setTimeout(done, 400)); };"
        'const texts = () => [...document.querySelectorAll("#item pre")].map(e => e.textContent);'
        'const before = texts(); press("1"); await wait(); const after = { at, texts: texts() };'
        'press("ArrowRight"); press("1"); await wait(); tell({ before, after, at, texts: texts() });'
    )
    page = with_driver(people.page("Ada", server=True), script)
    target = people.target("Ada")
    with LocalServer(review_app(page, people.take, target, people.reveal)) as server:
        result = drive(f"{server.url}/", tmp_path)
    assert len(result["before"]) == 1
    assert result["after"]["at"] == 0 and result["after"]["texts"][1] == "no\n\nYour answer is stored and counts: yes"
    assert result["at"] == 2 and len(result["texts"]) == 1, "where both agree the next row is shown"
    assert [json.loads(line)["answer"] for line in target.read_text().splitlines()] == ["yes", "yes"]


ANSWER_LOGGED = """
const wait = async () => { await sending; await new Promise(done => setTimeout(done, 400)); };
const see = () => ({ kept: Object.keys(kept).length, texts: [...document.querySelectorAll("#item pre")].map(e => e.textContent),
  on: [...document.querySelectorAll("#choices .on")].map(e => e.id), state: $("state").textContent, where: $("where").textContent,
  locked: [...$("choices").children].every(e => e.disabled), wide: document.documentElement.scrollWidth - innerWidth,
  cut: [...document.querySelectorAll("button")].filter(e => e.scrollWidth > e.clientWidth).length, inner: innerWidth });
const seen = top.seen = top.seen || [], frame = top.document.querySelector("iframe");
seen.push(see()); press(String(seen.length === 1 ? 1 : 2)); await wait(); seen.push(see());
press("3"); await wait(); seen.push(see()); // what comes too late
const next = { 3: "/Bo/", 6: "/Ada/" }[seen.length];
if (next) frame.src = next; else tell(seen);
"""


@pytest.mark.parametrize("width", [1280, 420])
def test_two_people_answer_rows_of_a_log_in_one_browser_and_see_neither_each_other_nor_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Ada answers otherwise than the teacher, whose answer she sees then, and can change hers no more. Bo sees neither. He answers
    otherwise than she, so that the row is open again on her page."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    traffic = Traffic(tmp_path)
    traffic.log("Is the long sentence about roses red, or https://example.com/" + "a" * 90 + " blue?", "blue")
    traffic.run("production_logs")
    task = load_task(traffic.folder)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def embedded(message: Any) -> None:  # the pages themselves are shown in no frame
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"content-security-policy"]
            await send(message)

        rater = scope.get("path", "").split("/")[1]
        if rater not in ("Ada", "Bo"):
            await HTMLResponse(f'<iframe src="/Ada/" width="{width}" height="900" style="border: 0">')(
                scope, receive, send
            )
            return
        queue = _queue(task, "test", 60, rater, taking=True)
        page = with_driver(queue.page(rater, server=True), ANSWER_LOGGED)
        reviews = review_app(page, queue.take, queue.target(rater), queue.reveal)
        await Mount(f"/{rater}", reviews).handle(
            {**scope, **Mount(f"/{rater}", reviews).matches(scope)[1]}, receive, embedded
        )

    with LocalServer(app) as server:
        opened, answered, late, bo, both, bo_late, again, agreed, done = drive(f"{server.url}/", tmp_path)
    question, locked = opened["texts"][0], "blue\n\nYour answer is stored and counts: red"
    assert {seen["inner"] for seen in (opened, bo, again)} == {width} and question.startswith("Is the long")
    assert opened["texts"] == bo["texts"] == [question] and bo["on"] == [] and bo["kept"] == 0
    assert answered["texts"] == late["texts"] == [question, locked] and answered["on"] == late["on"] == [
        "choice-is red"
    ]
    assert (answered["locked"], late["locked"], opened["locked"]) == (True, True, False)
    assert answered["state"] == "stored: next (j) goes on" and answered["where"] == "1 of 1, 1 decided"
    assert both["texts"] == [question] and both["on"] == ["choice-is blue"], "Bo agrees with the teacher"
    assert again["texts"][1] == "Ada: red\nBo: blue" and (again["on"], again["where"]) == ([], "1 of 1, 0 decided")
    assert agreed["on"] == ["choice-is blue"] and not agreed["locked"]
    people = read_people(task.folder, task.spec)
    (row,) = people.by_row.values()
    assert {name: (line.answer, line.log is not None) for name, line in row.items()} == {
        "Ada": ("blue", True),
        "Bo": ("blue", True),
    }
    assert people.pairs() == [("red", "blue")], "the agreement is that of their first answers"
    assert not any(seen["wide"] > 0 or seen["cut"] for seen in (opened, answered, bo, again))


def test_a_decision_that_is_refused_does_not_count_as_made(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "m": {"type": "string"}}, "required": ["n"]}
    output = {"kind": "json", "json_schema": schema}
    task = Task(spec=spec(name="demo", output=output), folder=tmp_path / "demo")
    rows = [Example(id=f"{n:016x}", messages=[{"role": "user", "content": f"question {n}"}]) for n in range(2)]
    people = people_queue(task, rows, PeopleAnswers(), {}, "Ada", 9)
    script = (
        "const wait = async () => { await sending; await new Promise(done => setTimeout(done, 400)); };"
        'const see = () => [at, $("where").textContent, $("state").textContent, $("answer").value];'
        """press("1"); type("answer", '{"n": "x"}'); await wait(); const refused = see();"""
        """type("answer", '{"n": 1}'); await wait();"""
        'tell({ refused, stored: see(), lead: document.querySelector(".lead").textContent });'
    )
    with LocalServer(
        review_app(with_driver(people.page("Ada", server=True), script), people.take, people.target("Ada"))
    ) as server:
        result = drive(f"{server.url}/", tmp_path)
    place, count, said, written = result["refused"]
    assert (place, count, written) == (0, "1 of 2, 0 decided", '{"n": "x"}')
    assert said.startswith("not stored: the answer breaks the schema") and "download" not in said
    assert result["stored"][1:3] == ["1 of 2, 1 decided", "stored"]
    assert "Give the right answer to each row, as JSON with n and, if any, m." in result["lead"]


def test_two_answers_in_free_text_are_compared_and_other_rows_corrected_on_one_page(tmp_path: Path) -> None:
    written = {"name": "demo", "description": "d", "system_prompt": "s", "output": {"kind": "text"}}
    task = Task(spec=TaskSpec.model_validate(written), folder=tmp_path / "demo")
    both = {"champion": "demo:1", "model_version": "demo:2", "champion_output": "old words", "output": "new words"}
    logged = {"timestamp": "2026-05-01T10:00:00+00:00", "model_version": "demo:1", "output": "old words", "turns": None}
    logged |= {"correction": None, "input": "question", "shadow": None}
    shadow = {**both, "seconds": 0.1, "champion_seconds": 0.1}
    rows = [
        {**logged, "id": "r1", "why": DIFFERS, "shadow": shadow},
        {**logged, "id": "r2", "why": "flagged: rude"},
        {**logged, "id": "r3", "why": DIFFERS, "shadow": shadow},
    ]
    flagged = flagged_queue(task, rows, b"secret")
    script = (
        "const wait = async () => { await sending; await new Promise(done => setTimeout(done, 400)); };"
        'const see = () => ({ labels: [...$("choices").children].map(e => e.lastChild.textContent), chosen:'
        ' [...document.querySelectorAll("#choices .on")].map(e => e.id), sides: document.querySelectorAll(".sides pre").length });'
        'const seen = [see()]; press("2"); await wait(); seen.push(see()); press("2"); type("answer", "right words");'
        'await wait(); press("j"); seen.push(see()); press("3"); await wait(); seen.push(see());'
        'tell({ seen, at, rows: lines(), state: $("state").textContent, pair: data.items[0].sides.map(side => side.text) });'
    )
    page = with_driver(flagged.page("Ada", server=True), script)
    target = flagged.target("Ada")
    with LocalServer(review_app(page, flagged.take, target)) as server:
        result = drive(f"{server.url}/", tmp_path)
    preferences = ["the first is better", "the second is better", "equally good", "neither is acceptable"]
    corrections = ["the answer is correct", "another answer", "leave it out"]
    assert [seen["labels"] for seen in result["seen"]] == [preferences, corrections, preferences, preferences]
    assert [seen["sides"] for seen in result["seen"]] == [2, 0, 2, 2]
    assert result["seen"][3]["chosen"] == ["choice-equal"] and result["state"] == "stored"
    second = {"old words": "champion", "new words": "shadow"}[result["pair"][1]]
    stored = [json.loads(line)["feedback"] for line in target.read_text().splitlines()]
    assert [one.get("preferred", {}).get("choice") or one.get("correction") for one in stored] == [
        second,
        "right words",
        "equal",
    ]
