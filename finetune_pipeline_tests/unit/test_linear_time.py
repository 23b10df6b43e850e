"""What meets foreign text takes time in proportion to its length, whatever it says: a log line of 8 MiB must not take hours."""

import json
import re

import pytest

from finetune_pipeline.data.dedup.text_similarity import visible_text
from finetune_pipeline.data.json_lines import decode_line
from finetune_pipeline.data.scrub import Scrubber, finder_of, numbers, scrub_text
from finetune_pipeline.evaluation.metrics.facts import facts
from finetune_pipeline.production.log_owners import hide_users, owners_of
from finetune_pipeline.production.log_rows import parse_line
from finetune_pipeline_tests.unit.adversarial import Expression, expressions, growth, slow_attack
from finetune_pipeline_tests.unit.production.streams import make_spec

SHORT = {
    "finetune_pipeline.data.draft.files:sub('(\\\\.\\\\w{1,8})+$')": 255,  # a file's name
    "finetune_pipeline.data.scrub.find._VERSION_WORD": numbers.BEFORE,
    "finetune_pipeline.data.scrub.kinds:sub('\\\\s*[\\\\[(]\\\\s*(at|dot)\\\\s*[\\\\])]\\\\s*')": 600,  # find._OBFUSCATED_EMAIL
    "finetune_pipeline.data.scrub.national_ids.NUMBER_WORD": numbers.BEFORE,
    "finetune_pipeline.data.scrub.national_ids._WORDS": numbers.BEFORE,
    "finetune_pipeline.data.scrub.secrets._CALL_OR_NAME": 256,  # the value in secrets._NAMED, and the words before it
    "finetune_pipeline.data.scrub.secrets._MASKED_OR_CALL": 256,
    "finetune_pipeline.data.scrub.secrets._NAME_OF_SECRET": 256,
    "finetune_pipeline.data.scrub.secrets._QUALIFIED": 40,
}
"""Expressions that meet only a part of a text, and its greatest length."""
EXPRESSIONS = {expression.name: expression for expression in expressions()}


def test_no_expression_is_missed() -> None:
    assert len(EXPRESSIONS) > 200 and not SHORT.keys() - EXPRESSIONS.keys()
    assert any(name.startswith("finetune_pipeline.data.scrub.secrets._KNOWN") for name in EXPRESSIONS)


@pytest.mark.parametrize("pattern", [r"a*b", r"(a+)+b", r"x[\w-]*y", r"\s*:", r'\\*"user"', r"(?=[0-9-]*[A-Z])[0-9]"])
def test_a_slow_expression_is_found(pattern: str) -> None:
    assert slow_attack(Expression("", re.compile(pattern), frozenset(("search",))))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_time_of_an_expression_grows_with_the_text(name: str) -> None:
    assert slow_attack(EXPRESSIONS[name], SHORT.get(name)) is None


PARTS = [
    *(" -._:/,0a\\\"'\n\t1Z[({<#*=@+%|"), "2020-01-02-", "1-", "0 ", "a@", "a@b.co ", "a@b.co@", "[EMAIL_1] ",
    "a@b.co [EMAIL_1] ", "4111111111111111 ", "+34 612 34 56 78 ", "192.168.1.1 ", "192.168.1.1.",
    "password: x9$kdja8! ", "password:", "pass=a1!; ", "key=", "key is ", "-sk-1a", "sk-", "eyJhbGciOi-", "bearer ",
    "login a ", "mysql ", "https://a:b@c ", "://", "passport ", "né le ", "dob 1.1.2000 ",
    "ES9121000418450200051332 ", "AB12 ", "call 612345678 ", "(0)", "::", "a::", "00:", "seed phrase: word ", "word ",
    "\u200b", "a\u200b", "１", "\u00a0", "[at]", "a [at] b [dot] ", "-----BEGIN PRIVATE KEY-----", "kunden",
    "2020-01-02T10:00:00Z ", "123456789012345678901234567890", "a1-", "AAAAA0000A ", "123-45-6789 ",
    "password is a!!!!", "password=a)))", "378-22-1234\\n", "378-22-1234.", "AB 12 34 56 C ", "12.345.678-5 ",
    "0612 345 678 ", "00 49 30 123456 ", " -p a", "?a=&", '"user": ', '{"user": "a"} ', '{"a":', "[",
    '\\"user\\": \\"a\\" ', '{"log": "{', "\\u0061", "user", '"user\\',
]  # fmt: skip
"""What a whole function is tried on: characters, starts of what it looks for, and things that it does find, many times over."""
SPEC = make_spec()
FUNCTIONS = {
    "scrub_text": lambda text: scrub_text(text, finder_of(SPEC.data, names=False)),
    "scrub_json": lambda text: Scrubber(find=finder_of(SPEC.data, names=False)).scrub_json(json.dumps({"phone": text})),
    "scrubbing of many fields": lambda text: Scrubber().scrub_json(
        json.dumps([text[i : i + 8] for i in range(0, len(text), 8)])
    ),
    "visible_text": visible_text,
    "owners_of": lambda text: owners_of(text.encode()),
    "owners_of a wrapped line": lambda text: owners_of(json.dumps({"log": json.dumps({"log": text})}).encode()),
    "hide_users": lambda text: hide_users(text.encode()),
    "decode_line": lambda text: decode_line(text.encode(), "a:1"),
    "decode_line of an answer": lambda text: decode_line(json.dumps({"text": text}).encode(), "a:1"),
    "parse_line": lambda text: parse_line(text.encode(), False, {"file": "a", "line": 1}, SPEC, b"key"),
    "parse_line of an answer": lambda text: parse_line(answer(text), False, {"file": "a", "line": 1}, SPEC, b"key"),
    "facts": facts,
}


def answer(text: str) -> bytes:
    row = {"id": text[:64], "timestamp": "2026-05-01T10:00:00Z", "input": text, "output": text, "model_version": "1"}
    return json.dumps({**row, "feedback": {"correction": text}}).encode()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_time_of_a_function_grows_with_the_text(name: str) -> None:
    slow = {
        part: factor
        for part in PARTS
        if (factor := growth(lambda size, part=part: FUNCTIONS[name](part * (size // len(part) + 1)))) > 9
    }
    assert not slow
