from __future__ import annotations

import json
import random

import pytest
from finetune_pipeline.data.line_scan import scan_lines
from finetune_pipeline.data.sound_lines import sort_out

from finetune_pipeline.data.readers.blocks import Block
from finetune_pipeline.data.validate.row_validation import judge_block
from finetune_pipeline_tests.unit.data.raw_rows import PROMPT, TEXT_OUTPUT, as_lines, chat, spec_of, turn

S, U, A = turn("system", PROMPT), turn("user", "It broke again"), turn("assistant", "bug_report")
PIECES = [
    *("The export button does nothing.", 'It broke \\"again\\"', "line\\nline", "tab\\there", "é accents"),
    *(
        "e\u0301",
        "日本語",
        "😀",
        "\\ud83d\\ude00",
        "\\u00e9",
        "\\ud83d",
        "\\u0041",
        "\\u0000",
        "\x7f",
        "\u0085",
        "\ufffd",
    ),
    *("&amp;", "R&D", "a < b", "<br>", "<|im_end|>", "{{name}}", "{{", "[INST]", "[1]", "### Response:", "# x", "AI"),
    *("As an AI language model", "Below is an instruction that describes a task", "BBelow", "being a language model"),
    *("noinput", "\\r\\n", "\\r", " ", "\\u2028", "\u2003", 'key\\": 1', "\\\\", "\\/", "\\b", "x" * 300),
    *(
        "as a language model",
        "as an artificial intelligence",
        "end\\n",
        "\\tbegin",
        "a\\n\u0301b",
        "Well, as an AI",
        "<<1+1=2>>",
    ),
]
HEADS = [json.dumps(PROMPT), json.dumps(PROMPT + "\n"), '"Other."', '" ' + PROMPT + '"']
MODELS = ['"Well, as an AI I pass on this"', '"I am a language model, friend"', '"As an artificial intelligence"']
ANSWERS = ['"bug_report"', '"feature_request"', *MODELS, '"bug_report "', '"Bug"', '"It broke"', "null", '""', "5"]
EXTRAS = [
    *("", "", "", ', "label": "bug_report"', ', "label": null', ', "label": "x"', ', "group": "g"', ', "group": ""'),
    *(
        ', "group": null',
        ', "origin": "synthetic"',
        ', "origin": "robot"',
        ', "id": "i1"',
        ', "id": ""',
        ', "extra": 1',
    ),
    *(', "messages": []', ', "score": NaN', ', "group" : "g"', ', "group"\t: "g"', ', "tags": ["a"]', ', "id": 1'),
]


def line_of(rng: random.Random, multi: bool) -> bytes:
    """A line of a chat, made by gluing pieces of JSON text together: mostly sound, now and then broken somewhere."""
    if rng.random() < 0.03:
        return rng.choice(
            [
                b"",
                b"  ",
                b"{",
                b"[]",
                b"null",
                b'{"messages": [}',
                b"\xff",
                b'{"text": "It broke", "label": "bug_report"}',
            ]
        )
    head = rng.choice(HEADS if rng.random() < 0.1 else HEADS[:1])
    turns = [f'{{"role": "system", "content": {head}}}'] if rng.random() < 0.95 else []
    for _ in range(rng.choice([1, 1, 2]) if multi else 1):
        user = " ".join(rng.choice(PIECES[:5] if rng.random() < 0.8 else PIECES) for _ in range(rng.randint(1, 5)))
        space = " " if rng.random() < 0.03 else ""
        who = "user" if rng.random() < 0.98 else "tool"
        turns.append(f'{{"role": "{who}", "content": "{space}{user}"}}')
        answer = rng.choice(ANSWERS if rng.random() < 0.1 else ANSWERS[:2])
        answer = json.dumps("Well: " + user) if rng.random() < 0.05 else answer
        weight = ', "weight": 0' if rng.random() < 0.01 else ""
        turns.append(f'{{"role": "assistant", "content": {answer}{weight}}}')
    extra = rng.choice(EXTRAS) if rng.random() < 0.2 else ""
    text = f'{{"messages": [{", ".join(turns)}]{extra}}}'
    data = text.encode("utf-8")
    if rng.random() < 0.02:
        data = data[: rng.randint(0, len(data))]
    if rng.random() < 0.02:
        at = rng.randint(0, len(data))
        data = data[:at] + bytes([rng.randint(1, 255)]).replace(b"\n", b"!") + data[at:]
    return data + rng.choice([b"\r", b" ", b" x", b"}"] if rng.random() < 0.03 else [b""])


SPECS = [
    spec_of(max_chars=900),
    spec_of(max_chars=300, min_chars=20, prompt=PROMPT),
    spec_of(inject=True),
    spec_of(TEXT_OUTPUT, max_chars=900),
    spec_of(TEXT_OUTPUT, prompt='You are an AI <helper> & "friend" {{x}}\né', inject=True),
]


@pytest.mark.parametrize("which", range(len(SPECS)))
def test_the_short_way_and_the_long_way_agree(which: int) -> None:
    spec = SPECS[which]
    rng = random.Random(which)
    data = b"\n".join(line_of(rng, multi=True) for _ in range(2500))
    own = json.dumps(spec.system_prompt, ensure_ascii=which % 2 == 0).encode()
    data = data.replace(json.dumps(PROMPT).encode(), own)
    if which == 2:  # most rows leave the system turn to `inject`
        data = data.replace(b'{"role": "system", "content": ' + own + b"}, ", b"", 2200)
    if which % 2:  # as programs write JSON that waste no blanks
        for wide in (b'"messages": [', b'{"role": ', b', "content": ', b"}, {"):
            data = data.replace(wide, wide.replace(b" ", b""))
    block = Block("raw/a.jsonl" if which else "production.jsonl", "lines", 11, data, start=1000)
    short, long = judge_block(block, spec, fast_from=0), judge_block(block, spec, fast_from=1 << 40)
    for name in vars(long):
        assert getattr(short, name) == getattr(long, name), name
    sound = sort_out(block, spec)
    assert sound is not None and 300 < sound.count <= long.kept
    assert judge_block(block, spec, write=False, fast_from=0).examples == b""


FLAT = [("text", "label"), ("prompt", "completion"), ("instruction", "output"), ("question", "answer")]


def flat_line(rng: random.Random) -> bytes:
    """A line of single texts, glued together in the same way."""
    said, answered = rng.choice(FLAT if rng.random() < 0.3 else FLAT[:3])
    user = " ".join(rng.choice(PIECES[:5] if rng.random() < 0.85 else PIECES) for _ in range(rng.randint(1, 5)))
    answer = rng.choice(ANSWERS if rng.random() < 0.1 else ANSWERS[:2])
    pairs = [f'"{said}": "{user}"', f'"{answered}": {answer}']
    if (said == "instruction" and rng.random() < 0.7) or rng.random() < 0.02:
        given = rng.choice(["", "", "It broke again", " padded", "noinput", "None", "Some text, then", *PIECES])
        pairs.append(f'"input": "{given}"')
        if rng.random() < 0.1:
            pairs[1] = f'"{answered}": "{given.upper()}"'
    if rng.random() < 0.1:
        pairs.append(rng.choice(EXTRAS)[2:] or '"system": "You are kind."')
    if rng.random() < 0.02:
        pairs.append(rng.choice(pairs))
    if rng.random() < 0.02:
        pairs.pop(rng.randrange(2))
    if rng.random() < 0.3:
        rng.shuffle(pairs)
    data = ("{" + ", ".join(pairs) + "}").encode("utf-8")
    return data[: rng.randint(0, len(data))] if rng.random() < 0.02 else data


@pytest.mark.parametrize("which", range(len(SPECS) + 1))
def test_the_ways_agree_about_rows_of_single_texts(which: int) -> None:
    spec = [*SPECS, spec_of(TEXT_OUTPUT, format="instruction", prompt="  " + PROMPT + " \n", max_chars=200)][which]
    rng = random.Random(100 + which)
    data = b"\n".join(flat_line(rng) for _ in range(2500))
    if which % 2:
        data = data.replace(b'": "', b'":"').replace(b", ", b",")
    block = Block("raw/a.jsonl" if which else "production.jsonl", "lines", 11, data, start=1000)
    short, long = judge_block(block, spec, fast_from=0), judge_block(block, spec, fast_from=1 << 40)
    for name in vars(long):
        assert getattr(short, name) == getattr(long, name), name
    sound = sort_out(block, spec)
    assert sound is not None and 100 < sound.count <= long.kept


def test_sound_rows_of_single_texts_take_the_short_way() -> None:
    rows = [
        {"text": "It broke again", "label": "bug_report"},
        {"prompt": "It broke: again", "completion": "bug_report", "group": "g", "origin": "synthetic", "id": "x"},
        {"instruction": "Sort this", "input": "", "output": "bug_report"},
        {"instruction": "Sort this", "input": "It broke é", "output": "bug_report"},
    ]
    sound = sort_out(Block("a", "lines", 1, as_lines(rows)), spec_of())
    assert sound is not None and (sound.count, sound.doubtful) == (4, [])
    assert sound.shapes == {"text_label": 1, "prompt_completion": 1, "instruction": 2}


def test_sound_rows_of_every_kind_take_the_short_way() -> None:
    rows = [
        chat(),
        chat(user='tab\tand\nline and "quote" \\ and: colon'),
        chat(user="é日本語😀 e\u0301"),
        chat(label="bug_report", group="g", origin="synthetic", id="x"),
        {"messages": [S, U, A, U, A]},
        chat(system=PROMPT + "\n"),
    ]
    for written in (as_lines(rows), b"".join(json.dumps(r).encode() + b"\r\n" for r in rows)):
        sound = sort_out(Block("a", "lines", 1, written), spec_of())
        assert sound is not None and (sound.count, sound.doubtful) == (len(rows), [])


def test_other_specs_take_the_long_way() -> None:
    block = Block("a", "lines", 1, as_lines([chat()]))
    assert sort_out(Block("a", "lines", 1, b'{"text": "x", "label": "y"}'), spec_of(format="messages")) is None
    for spec in (spec_of(format="text_label"), spec_of(roles={"x": "user"}), spec_of(fields={"messages": "messages"})):
        assert sort_out(block, spec) is None
    assert judge_block(block, spec_of(fields={"messages": "messages"}), fast_from=0).kept == 1


def test_the_scan_marks_what_it_should() -> None:
    lines = [
        b'{"a": "plain", "b" : "x"}',
        'é {"a":1}'.encode(),
        b"a <",
        b"\x01",
        b"\\u0041",
        b"\\ud83d\\ude00",
        b"\\ud83d",
        b"x\r",
        b"",
    ]
    starts, states, keys = scan_lines(b"\n".join(lines))
    assert list(states) == [0, 1, 2, 2, 2, 1, 2, 0, 0]
    assert list(keys) == [2, 1, 0, 0, 0, 0, 0, 0, 0]
    assert [int(s) for s in starts] == [sum(len(x) + 1 for x in lines[:i]) for i in range(len(lines))]
