"""Teachers that answer badly, or not at all: nothing is paid for in vain, and no row is lost because a call was not taken."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.decisions import TeacherRival
from finetune_pipeline.evaluation.result_parts import Primary
from finetune_pipeline.evaluation.sealed_answers import SealedAnswers
from finetune_pipeline.evaluation.teacher_rival import AskedTeacher
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.teacher import LEDGER, identity_of
from finetune_pipeline_tests.openai_server import completion, openai_server
from finetune_pipeline_tests.skilled_model import truth
from finetune_pipeline_tests.unit.evaluation.fake_run import report_facts
from finetune_pipeline_tests.unit.steps.test_teacher import (
    CALL_USD,
    KEY,
    Class,
    answers_about_test,
    in_json,
    refused,
    user,
    wrong,
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)


def calls_in(lesson: Class) -> list[tuple[float | None, str | None]]:
    """(dollars, answer) of every call in the ledger of training rows."""
    ledger = sqlite3.connect(lesson.store.state_folder("colours") / LEDGER)
    try:
        return ledger.execute("SELECT dollars, answer FROM calls").fetchall()
    finally:
        ledger.close()


def test_a_wrong_key_costs_nothing_of_the_budget_and_loses_no_row(tmp_path: Path) -> None:
    """The first refusal ends the run; the calls under way by then are waited for."""
    known = False

    def mind(body: dict[str, Any], seen: int) -> Any:
        if known:
            return truth(user(body))
        time.sleep(0.02 * len(server.requests))  # the refusals come one after another
        return 401, {}, b"no such key"

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url)
        for _ in range(2):
            assert "401" in refused(lesson)
        assert calls_in(lesson) == []
        known = True
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
    assert facts["kept"] == 90 and facts["spent_usd"] == pytest.approx(270 * CALL_USD)


@pytest.mark.parametrize("status", [429, 503])
def test_calls_that_a_busy_endpoint_did_not_take_are_asked_by_the_next_run(tmp_path: Path, status: int) -> None:
    """Not five in a row, so that the others go on; no row is left out for it, and none kept with fewer answers."""
    busy = True

    def mind(body: dict[str, Any], seen: int) -> Any:
        number = int(user(body).rsplit(" ", 1)[1])
        return (status, {"Retry-After": "0"}, b"busy") if busy and number % 9 == 0 else truth(user(body))

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url, answers=1)
        lesson.spec["teacher"]["endpoint"]["concurrency"] = 1
        lesson.write_spec()
        message = refused(lesson)
        assert "10 calls were not taken" in message and "80 answers are kept" in message, message
        busy, sent = False, len(server.requests)
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        assert len(server.requests) - sent == 10 and facts["kept"] == 90


def test_a_budget_that_ends_before_the_rows_do_says_so_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    """A server that does not count its tokens: every call counts at its most, which is more than was estimated."""
    with openai_server(lambda body, seen: completion(truth(user(body)), usage=None)) as server:
        lesson = Class(tmp_path, server.url, budget_usd=0.2)
        message = refused(lesson)
        sent = len(server.requests)
        assert 0 < sent < 270 and f"{270 - sent} calls were not sent" in message and "teacher.budget_usd" in message
        assert sum(1 for _ in calls_in(lesson)) == sent
        lesson.spec["teacher"]["budget_usd"] = 5.0
        lesson.write_spec()
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        assert len(server.requests) == 270 and facts["kept"] == 90


def test_a_row_with_one_answer_of_three_has_no_agreement_of_one(tmp_path: Path) -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        number = int(user(body).rsplit(" ", 1)[1])
        failed = body["temperature"] and (number % 3 == 0 or (number % 3 == 1 and seen))
        return completion(None, "content_filter") if failed else truth(user(body))

    with openai_server(mind) as server:
        facts = Class(tmp_path, server.url, unlabelled=30).run("teacher_answers")["teacher_answers"].facts
    assert facts["by_reason"] == {"filtered": 10} and facts["agreement"] == {"0.33": 10, "0.67": 10, "1.00": 10}


FENCED = "```json\n{}\n```"


@pytest.mark.parametrize(
    ("says", "shown"),
    [
        ("", "nothing"),
        ("La réponse est rouge.", "La réponse"),
        (f"{FENCED}", "```json"),
        ("red\n\nLet me know if you need more!", "Let me know"),
    ],
)
def test_a_teacher_that_never_answers_in_form_is_stopped_after_a_few_calls(
    tmp_path: Path, says: str, shown: str
) -> None:
    with openai_server(lambda body, seen: completion(says)) as server:
        lesson = Class(tmp_path, server.url)
        for _ in range(2):
            message = refused(lesson)
            assert "none of its first 20 answers is in the declared form" in message and shown in message, message
            assert "teacher.prompt" in message and len(server.requests) == 20
        lesson.spec["teacher"]["prompt"] = "Answer red or blue, and nothing else."
        lesson.write_spec()
        server.mind = lambda body, seen: truth(user(body)) if "nothing else" in body["messages"][0]["content"] else says
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
    assert facts["kept"] == 90 and len(server.requests) == 290, "the other prompt's answers are not used"


def test_a_teacher_that_sometimes_answers_in_form_is_asked_on(tmp_path: Path) -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        right = json.dumps({"colour": truth(user(body))})
        return right if int(user(body).rsplit(" ", 1)[1]) % 4 == 0 else f"```json\n{right}\n```"

    with openai_server(mind) as server:
        facts = in_json(tmp_path, server.url).run("teacher_answers")["teacher_answers"].facts
    assert 15 <= facts["kept"] <= 30 and facts["by_reason"] == {"form": 90 - facts["kept"]}


@pytest.mark.parametrize("usage", [None, (-1, 3), (10**400, 3)])
def test_a_server_that_does_not_count_its_tokens_has_no_price_of_nothing(tmp_path: Path, usage: Any) -> None:
    with openai_server(lambda body, seen: completion(truth(user(body)), usage=usage)) as server:
        lesson = Class(tmp_path, server.url, people=100, unlabelled=2)
        asked, _ = answers_about_test(lesson, tmp_path)
    assert asked.dollars_per_1k is None and asked.kept == 100
    assert asked.spent_usd > 300 * CALL_USD, "each call counts at its most"


@pytest.mark.parametrize("reply", [[], [1, 2], None])
def test_replies_with_another_number_of_choices_are_paid_for_once(tmp_path: Path, reply: Any) -> None:
    """Of several choices the first one counts; of none, the call is paid for and its row left out."""

    def mind(body: dict[str, Any], seen: int) -> Any:
        made = completion(truth(user(body)))
        if int(user(body).rsplit(" ", 1)[1]) % 2:
            made["choices"] = (
                reply if not reply else [made["choices"][0], completion(wrong(truth(user(body))))["choices"][0]]
            )
        return made

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url, unlabelled=40, answers=1)
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        assert facts["by_reason"] == ({} if reply else {"garbled": 20})
        assert facts["spent_usd"] == pytest.approx(40 * CALL_USD) and len(server.requests) == 40
        lesson.spec["teacher"]["min_agreement"] = 0.9
        lesson.write_spec()
        lesson.run("teacher_answers")
        assert len(server.requests) == 40, "a reply that was paid for is not asked for again"


def test_a_server_error_may_have_been_paid_for_and_is_not_asked_again(tmp_path: Path) -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        number = int(user(body).rsplit(" ", 1)[1])
        return (500, {}, b"answered, and then broke") if number % 10 == 3 else truth(user(body))

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url, answers=1)
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        assert facts["by_reason"] == {"refused": 9} and len(server.requests) == 90
        assert facts["spent_usd"] > 90 * CALL_USD and sum(dollars is None for dollars, _ in calls_in(lesson)) == 9
        lesson.spec["teacher"]["rows"] = 95
        lesson.write_spec()
        lesson.run("teacher_answers")
        assert len(server.requests) == 90


@pytest.mark.parametrize(
    ("changed", "buys"),
    [
        ({"teacher": {"min_agreement": 0.9}}, False),
        ({"teacher": {"answers": 2}}, False),
        ({"system_prompt": "Red or blue: the last colour named."}, True),
        ({"teacher": {"prompt": "Red or blue: the last colour named."}}, True),
    ],
)
def test_only_another_prompt_or_model_makes_another_teacher_of_one_that_was_beaten(
    tmp_path: Path, changed: dict[str, Any], buys: bool
) -> None:
    with openai_server(lambda body, seen: truth(user(body))) as server:
        lesson = Class(tmp_path, server.url, rows=10, answers=1)
        lesson.run("teacher_answers")
        asked = AskedTeacher(
            name="t", asked=identity_of(load_task(lesson.folder).spec), dollars_per_1k=1.0, milliseconds=None, kept=20,
            kept_wrong=2, spent_usd=0.1,
        )  # fmt: skip
        sealed = SealedAnswers(rows=0, sets={}, kinds={}, champion={}, api=None, teacher=asked, untrained="")
        predictions = lesson.made("test_predictions", {}, sealed.to_json())
        rival = TeacherRival(
            name="t", n=9, score=Primary(name="accuracy"), comparison=None, decision=None, beaten_by=["TF-IDF"]
        )
        lesson.made(
            "evaluation_report", {"test_predictions": predictions.version}, report_facts(teacher=rival.to_json())
        )
        lesson.spec |= {key: value for key, value in changed.items() if key != "teacher"}
        lesson.spec["teacher"] |= {"rows": 20, **changed.get("teacher", {})}
        lesson.write_spec()
        if buys:
            assert lesson.run("teacher_answers")["teacher_answers"].facts["kept"] == 20
        else:
            assert "TF-IDF is surely better than the teacher" in refused(lesson) and len(server.requests) == 10
