import os
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.scrub import (
    SHAPE_KINDS,
    Scrubber,
    Span,
    find_spans,
    finder_of,
    fingerprint,
    kinds_left,
    load_key,
    load_recogniser,
    scrub_example,
    scrub_text,
    scrub_turns,
)
from finetune_pipeline.data.scrub.names import addresses
from finetune_pipeline.data.scrub.placeholders import scrub_keys
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec.data import DataSpec
from finetune_pipeline_tests.unit.data.raw_rows import turn
from finetune_pipeline_tests.unit.data.scrubbing_rows import labelled_rows, marked_lines

ROWS = labelled_rows()
KEY = bytes(range(32))


def test_recall_and_precision_on_the_labelled_texts() -> None:
    found = [(row, find_spans(row.text)) for row in ROWS]
    for kind in SHAPE_KINDS:
        hits = [(row, hit) for row, spans in found for hit in spans if hit.kind == kind]
        wanted = [(row, span) for row in ROWS for span in row.spans if span.kind == kind]
        right = [pair for pair in hits if pair[1] in pair[0].spans]
        missed = [row.text for row, spans in found for s in row.spans if s.kind == kind and s not in spans]
        wrong = [(row.text, hit) for row, hit in hits if hit not in row.spans]
        assert len(right) >= 0.98 * len(wanted) > 0, (kind, missed)
        assert len(right) >= 0.98 * len(hits), (kind, wrong)
    hits = [(row, Span(*place, "address")) for row in ROWS for place in addresses(row.text)]
    wanted = [(row, span) for row in ROWS for span in row.spans if span.kind == "address"]
    assert len(wanted) >= 20
    assert sum(pair in hits for pair in wanted) >= 0.95 * len(wanted)
    assert sum(pair in wanted for pair in hits) >= 0.95 * len(hits)


def test_ordinary_code_configuration_and_logs_stay() -> None:
    harmed = [line.text for line in marked_lines("ordinary") if line.harmed(line.scrubbed())]
    assert len(marked_lines("ordinary")) == 300 and len(harmed) <= 1, harmed


@pytest.mark.parametrize(
    ("name", "with_region", "found", "harmed"),
    [
        ("secrets", False, 80, 4),
        ("telephones", False, 99, 1),
        ("telephones", True, 112, 1),
        ("hidden", False, 20, 0),
        ("unseen", False, 114, 5),
    ],
)
def test_marked_values_go_and_the_rest_stays(name: str, with_region: bool, found: int, harmed: int) -> None:
    missed, wrong, values = [], [], 0
    for line in marked_lines(name):
        done = line.scrubbed(with_region)
        values += len(line.values)
        missed += line.missed(done)
        wrong += [line.text] if line.harmed(done) else []
    assert values - len(missed) >= found, missed
    assert len(wrong) <= harmed, wrong


# an order passes the Luhn check as often as a card, ten figures with a check digit are an NHS number or somebody's
# telephone: the words decide; a wrong check digit matters only without the name of the number
DECIDED = """order 4111 1111 1111 1111 paid -> order 4111 1111 1111 1111 paid
order 17, card 4111 1111 1111 1111 -> order 17, card [CARD_1]
NHS 943 476 5919 -> NHS [NATIONAL_ID_1]
call 943 476 5919 -> call [PHONE_1]
943 476 5919 -> 943 476 5919
Call 09066382422 Calls cost 50p -> Call [PHONE_1] Calls cost 50p
ring 8005550199 minutes are free -> ring [PHONE_1] minutes are free
a gift waits on 08712345990, 0212345670 -> a gift waits on [PHONE_1], [PHONE_2]
call 10000000 times -> call 10000000 times
order 09066382422, receipt 0212345670 -> order 09066382422, receipt 0212345670
digits = '0123456789' -> digits = '0123456789'
DNI 12345678A -> DNI [NATIONAL_ID_1]
Fecha de nac.: 12/05/1990 -> Fecha de nac.: [BIRTH_DATE_1]
nee le 12 mai 1990 -> nee le [BIRTH_DATE_1]
Reisepass C01X00T47, passeport 12AB34567 -> Reisepass [NATIONAL_ID_1], passeport [NATIONAL_ID_2]
12345678A -> 12345678A
ref 12345678Z -> ref 12345678Z
on 2024-01-15 555-123-4567 rang -> on 2024-01-15 [PHONE_1] rang
0２0 7946 ０９５８ -> [PHONE_1]
tel. 030\u00a023125\u00a0014 -> tel. [PHONE_1]
[EMAIL_1] forwarded c@example.com -> [EMAIL_1] forwarded [EMAIL_2]
see x.y@example.com vs xy@example.com -> see [EMAIL_1] vs [EMAIL_2]
login(user, password=password2) -> login(user, password=password2)
https://user:password@host and mysql://${USER}:${PASS2}@host -> https://user:password@host and mysql://${USER}:${PASS2}@host
[IP_2], password: [SECRET_1], born [BIRTH_DATE_3] -> [IP_2], password: [SECRET_1], born [BIRTH_DATE_3]
[NATIONAL_ID_4], SSN 078-05-1120 -> [NATIONAL_ID_4], SSN [NATIONAL_ID_5]"""


def test_words_and_check_digits_decide() -> None:
    pairs = [line.split(" -> ") for line in DECIDED.splitlines()]
    assert [scrub_text(text) for text, _ in pairs] == [shown for _, shown in pairs]


HARD = st.one_of(
    st.text(st.sampled_from("0123456789 +-./:()@aAkeysctpowrd=_[]{}EI|\n\u0661０－é日"), max_size=160),
    st.lists(
        st.sampled_from(
            ["born", "password is", "key=", "+49", "4111 1111", "@", "example.com", "[EMAIL_1]", "://", ":", "a1B2c3D4e5F6g7H8",
             "12/05/1990", "DE89", "::", "ff:", "SSN", "tel", "078-05-1120", "eyJ", "\u2013", "İ", "\ud800", "203.0.113.7"]
        ),
        max_size=20,
    ).map(" ".join),
    st.text(max_size=120),
)  # fmt: skip


@settings(deadline=None)
@given(HARD)
def test_any_text_is_scrubbed_once_and_for_all_and_only_at_the_hits(text: str) -> None:
    spans = find_spans(text)
    assert all(0 <= s.start < s.end <= len(text) and s.kind in SHAPE_KINDS for s in spans)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    done = scrub_text(text)
    assert find_spans(done) == [] and scrub_text(done) == done
    assert spans or done == text
    at = 0
    for piece in re.split(r"\[[A-Z_]+_[0-9]{1,6}\]", done):
        at = text.index(piece, at) + len(piece)  # every stretch between placeholders stands in the text, in order


def test_same_value_same_placeholder_across_turns() -> None:
    said = ("ask boss@example.com", "a@example.com or b@example.com, A@Example.com; +1 555 010 2030",
            "I wrote to b@example.com and called +1 (555) 010-2030")  # fmt: skip
    turns = [turn(role, text) for role, text in zip(("system", "user", "assistant"), said, strict=True)]
    done = scrub_turns(turns)
    shown = ["[EMAIL_1] or [EMAIL_2], [EMAIL_1]; [PHONE_1]", "I wrote to [EMAIL_2] and called [PHONE_1]"]
    assert [m["content"] for m in done.messages] == [said[0], *shown] and done.counts == {"email": 4, "phone": 2}
    assert scrub_turns(turns, keep=[2]).messages[2] == turns[2]
    assert scrub_turns(done.messages) == (done.messages, {}, [])


def test_arguments_of_tool_calls_stay_json_and_are_read_with_their_keys_and_escapes() -> None:
    arguments = '{ "to":"jane@example.com",\n "phone": 5550142000, "tags": ["call 555-123-4567"], "n": 12, "ok": true }'
    call = {"id": "1", "type": "function", "function": {"name": "send", "arguments": arguments}}
    turns = [turn("user", "mail jane@example.com"), turn("assistant", "", tool_calls=[call], weight=1)]
    done = scrub_turns(turns)
    made = done.messages[1]["tool_calls"][0]
    scrubbed = '{ "to":"[EMAIL_1]",\n "phone": "[PHONE_1]", "tags": ["call [PHONE_2]"], "n": 12, "ok": true }'
    assert made["function"]["arguments"] == scrubbed and call["function"]["arguments"] == arguments
    assert done.counts == {"email": 2, "phone": 2} and made["id"] == "1" and done.messages[1]["weight"] == 1
    assert scrub_turns(done.messages).messages == done.messages
    scrub = Scrubber().scrub_json
    assert scrub('{"password": "Tr0ub4dor&3", "n": "Tr0ub4dor&3"}') == '{"password": "[SECRET_1]", "n": "Tr0ub4dor&3"}'
    assert scrub('{"to": "jane\\u0040example.com"}') == '{"to": "[EMAIL_1]"}'
    assert scrub('{"text": "say \\"hi\\" to jane@example.com\\n"}') == '{"text": "say \\"hi\\" to [EMAIL_1]\\n"}'
    assert scrub('{"jane@example.com": 1}') == '{"jane@example.com": 1}'  # keys are names of fields
    assert Scrubber().scrub_json("{broken jane@example.com") == "{broken [EMAIL_1]"


def test_whole_examples() -> None:
    said = ("write to desk@example.com", "from jane@example.com and 203.0.113.7", "Dear jane@example.com")
    turns = [turn(role, text) for role, text in zip(("system", "user", "assistant"), said, strict=True)]
    tools = [{"type": "function", "function": {"name": "a", "description": "x@example.com"}}]
    row = Example(id="0" * 16, messages=turns, tools=tools)
    done, counts, replaced = scrub_example(row, (), KEY)
    assert counts == {"email": 2, "ip": 1}
    assert replaced == [
        ("email", "[EMAIL_1]", fingerprint(KEY, "email", "jane@example.com"), "ja••@•••••••.•om"),
        ("ip", "[IP_1]", fingerprint(KEY, "ip", "203.0.113.7"), "2••.•.•••.7"),
    ]
    assert done.messages[2]["content"] == "Dear [EMAIL_1]" and done.tools == row.tools and done.id == row.id
    labelled = scrub_example(row, ("Dear jane@example.com",))
    assert labelled[0].messages[2] == turns[2] and labelled[2] == []
    assert kinds_left(row) == ["email", "email", "ip"] and kinds_left(row, ("x",)) == ["email", "ip"]
    assert kinds_left(done) == [] and scrub_example(done) == (done, {}, [])
    people = [replace(row, group=f"{name}@example.com", source={"id": f"x{name}@example.com"}) for name in "112"]
    first, again, other = (scrub_keys(person, KEY) for person in people)
    assert first == again and first.group != other.group and first.source != other.source
    assert kinds_left(people[0]) == [*kinds_left(row), "email", "email"] and kinds_left(first) == kinds_left(row)
    tagged = replace(row, tags=["vip", "1@example.com", "log:2@example.com"], generator="1@example.com")
    assert scrub_keys(tagged, KEY).tags == ["vip", first.group, scrub_keys(tagged, KEY).tags[2]]
    assert scrub_keys(tagged, KEY).generator == first.group and kinds_left(scrub_keys(tagged, KEY)) == kinds_left(row)
    assert scrub_keys(replace(tagged, origin="production"), KEY).tags[2] == tagged.tags[2]  # names its row in the log
    clean = Example(id="1" * 16, messages=[turn("user", "hello")], group="c1")
    assert scrub_keys(clean, KEY) is clean
    assert scrub_example(clean)[0] is clean


def test_a_fingerprint_depends_on_key_kind_and_value_and_on_no_spelling() -> None:
    one = fingerprint(KEY, "phone", "+44 20 7946 0018")
    for same in ("0044 (20) 7946-0018", "+44 (0)20 7946 0018", "+４４\u202f20 7946\u200b 0018"):
        assert one == fingerprint(KEY, "phone", same)
    assert len({one, fingerprint(KEY[::-1], "phone", "+442079460018"), fingerprint(KEY, "card", "+442079460018")}) == 3
    assert fingerprint(KEY, "secret", "aB") != fingerprint(KEY, "secret", "Ab")
    assert fingerprint(KEY, "name", "\ud800") != one  # half a surrogate pair is a value like any other


def test_all_who_make_a_key_at_once_get_one_for_its_owner_alone(tmp_path: Path) -> None:
    paths = [tmp_path / f"keys/{i}.key" for i in range(20)]
    with ThreadPool(4) as pool:
        for path in paths:
            (key,) = set(pool.map(load_key, [path] * 4, chunksize=1))
            assert len(key) == 32 and path.read_bytes() == key and path.stat().st_mode & 0o777 == 0o600
    assert len(os.listdir(tmp_path / "keys")) == 20 == len({path.read_bytes() for path in paths})


@pytest.mark.parametrize(("content", "mode", "said"), [(b"short", 0o600, "restore the key"), (KEY, 0o644, "chmod 600")])
def test_what_is_no_key_or_open_to_others_is_refused_and_left_alone(tmp_path, content, mode, said) -> None:
    path = tmp_path / "scrubbing.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(FindingsError, match=said) as error:
        load_key(path)
    assert error.value.findings[0].place == str(path) and path.read_bytes() == content


NAMES = DataSpec(scrub_names=True)
PEOPLE = ("Margaret Holloway", "Dr. Susan Whitfield", "Jane Doe's", "EMAIL_1", "a1b2", "Tom\nHead of Facilities")


class Pipeline:
    """A stand-in for a spaCy pipeline: spaCy is an extra that need not be there."""

    pipe_names = ("ner",)
    max_length = 100

    def __call__(self, text: str) -> Any:
        places = [("PERSON", text.index(name), text.index(name) + len(name)) for name in PEOPLE if name in text]
        ents = [SimpleNamespace(label_=n, start_char=a, end_char=b) for n, a, b in [*places, ("ORG", 0, 3)]]
        return SimpleNamespace(ents=ents)


@pytest.fixture
def _own_recogniser() -> Iterator[None]:
    load_recogniser.cache_clear()
    yield
    load_recogniser.cache_clear()


@pytest.mark.usefixtures("_own_recogniser")
def test_without_spacy_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    row = Example(id="0" * 16, messages=[turn("user", "hello")])
    said = r"spaCy is not installed.*\n.*pip install 'spacy.*python -m spacy download"
    with pytest.raises(FindingsError, match=said):
        scrub_example(row, find=finder_of(NAMES))
    assert scrub_example(row)[0] is row


@pytest.mark.usefixtures("_own_recogniser")
def test_names_without_titles_possessives_and_placeholders(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("spacy")
    module.util = SimpleNamespace(get_installed_models=lambda: ["en_core_web_sm"])
    module.load = lambda name, exclude: {"en_core_web_sm": Pipeline()}[name]
    monkeypatch.setitem(sys.modules, "spacy", module)

    def found(text: str) -> list[tuple[str, str]]:
        return [(s.kind, text[s.start : s.end]) for s in find_spans(text, load_recogniser())]

    said = found("Margaret Holloway met Dr. Susan Whitfield at Jane Doe's house")
    assert said == [("name", "Margaret Holloway"), ("name", "Susan Whitfield"), ("name", "Jane Doe")]
    assert found("[EMAIL_1] has the code a1b2") == []
    assert found("Signed,\nTom\nHead of Facilities") == [("name", "Tom")]
    text = "Margaret Holloway, 742 Evergreen Terrace, Springfield, IL 62704, m@example.com"
    row = Example(id="0" * 16, messages=[turn("user", text)])
    done, counts, _ = scrub_example(row, find=finder_of(NAMES))
    assert done.messages[0]["content"] == "[NAME_1], [ADDRESS_1], [EMAIL_1]"
    assert counts == {"email": 1, "address": 1, "name": 1}
    assert scrub_example(done, find=finder_of(NAMES)) == (done, {}, [])
