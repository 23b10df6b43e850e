"""The review page in a real browser: keys, a reload, markup in texts, and what comes out."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.review.queues import ReviewQueue, outputs_queue, synthetic_queue
from finetune_pipeline.review.server import review_app
from finetune_pipeline.review.sheet import RANDOM, SheetItem, sheet_name
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.spec.model import Task, TaskSpec

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: the page cannot be driven")
SHEET = sheet_name("0123456789abcdef", 3)
EVIL = "</script><img src=x onerror=document.title='broken'>"

DRIVER = """
<script>
const press = (key, target) => (target || document.body).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const type = (id, text) => { const f = $(id); f.value = text; f.dispatchEvent(new Event("change")); };
const tell = value => {
  const p = document.createElement("p"); p.id = "told"; p.textContent = JSON.stringify(value); document.body.append(p);
};
const lines = () => data.items.map(i => kept[i.id]).filter(complete).map(line);
setTimeout(async () => { %s }, 50);
</script>
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    spec = {
        "name": "demo",
        "description": "d",
        "system_prompt": "Say yes or no.",
        "output": {"kind": "labels", "labels": ["yes", "no"]},
    }
    (tmp_path / "demo").mkdir()
    return Task(spec=TaskSpec.model_validate(spec), folder=tmp_path / "demo")


def drive(page: str | Path, profile: Path) -> Any:
    """What the page's driver told, after the browser has run it."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--dump-dom"]
    url = page.as_uri() if isinstance(page, Path) else page
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--virtual-time-budget=8000", url],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    seen = re.search(r'<p id="told">(.*?)</p>', done.stdout, re.S)
    assert seen, done.stdout[-2000:]
    assert "<title>broken" not in done.stdout
    return json.loads(html.unescape(seen.group(1)))


def with_driver(page: str, script: str) -> str:
    return page.replace("</body>", DRIVER % script + "</body>")


def queue(task: Task) -> ReviewQueue:
    items = [
        SheetItem(f"e{i}", EVIL if i == 0 else f"q{i}", "ref", f"left {i}", f"right {i}", RANDOM) for i in range(3)
    ]
    return outputs_queue(task, SHEET, items)


def test_keys_decide_and_a_reload_loses_nothing(task: Task, tmp_path: Path) -> None:
    # The reload is the page's own, in one browser: a browser that ends at once may not have written its storage yet.
    # The storage is written by another process, which a busy machine lets wait: then the page is loaded again.
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
    both = drive(file, tmp_path / "profile")
    seen, again = both["seen"], both["again"]
    assert seen["refused"] == "write your name first"
    assert seen["before"] == 0
    assert seen["shown"] == EVIL
    assert seen["where"] == "1 of 3, 2 decided"
    assert [(r["id"], r["choice"], r["rater"], r["sheet"]) for r in seen["rows"]] == [
        ("e0", "A", "Ada", SHEET),
        ("e1", "neither", "Ada", SHEET),
    ]
    assert seen["rows"][0]["comment"] == "why"
    assert again["rows"] == seen["rows"]
    assert (again["at"], again["rater"]) == (2, "Ada")
    for row in again["rows"]:
        assert queue(task).take(row)[0] is not None


def test_another_answer_is_asked_for_before_a_row_counts(task: Task, tmp_path: Path) -> None:
    rows = [{"id": "a" * 16, "generator": "g", "text": "t", "answer": "yes"}]
    file = tmp_path / "page.html"
    file.write_text(
        with_driver(
            synthetic_queue(task, rows).page("Ada"),
            'press("3"); const open = lines().length, asked = $("answer-row").className; type("answer", "no");'
            "tell({ open, asked, rows: lines() });",
        )
    )
    seen = drive(file, tmp_path / "profile")
    assert (seen["open"], seen["asked"]) == (0, "row")
    (row,) = seen["rows"]
    assert (row["decision"], row["label"], row["reviewer"]) == ("relabel", "no", "Ada")
    assert synthetic_queue(task, rows).take(row)[0] is not None


def test_served_decisions_are_stored_as_they_are_made(task: Task, tmp_path: Path) -> None:
    made, stored = queue(task), tmp_path / "out.jsonl"
    page = with_driver(
        made.page("Ada", "token"), 'press("2"); await sending; tell({ state: $("state").textContent, rows: lines() });'
    )
    with LocalServer(review_app(page, "token", made.take, stored)) as server:
        seen = drive(f"{server.url}/", tmp_path / "profile")
    assert seen["state"] == "stored"
    assert [json.loads(line) for line in stored.read_text().splitlines()] == seen["rows"]
    assert seen["rows"][0]["choice"] == "B"
