"""Writes data/order_intake: messages to a made-up wholesale bakery, and the order that stands in each, as JSON.

python tools/make_order_intake.py

Every message is put together from phrases written by hand for this project (tools/order_intake_phrases.py), by a seeded
generator that refuses messages too like an earlier one; then faults are put in, each listed with its file and line.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import order_intake_phrases as said
import yaml

FOLDER = Path(__file__).resolve().parent.parent / "data" / "order_intake"
ROWS = 1000
MOST_ALIKE = 0.6
"""Jaccard similarity of character 5-grams with any earlier message; the pipeline calls 0.8 a near-duplicate."""
ASKED = ("customer", "product", "quantity", "day")
"""What the task asks for, in the order of the schema. Wishes and urgency are in the messages, and not asked for."""


def spelled(chance: random.Random, n: int) -> str:
    """A quantity as people write it."""
    words = {6: "half a dozen", 12: "a dozen", 24: "two dozen", 36: "three dozen"}
    few = {2: "two", 3: "three", 4: "four", 5: "five", 8: "eight", 10: "ten", 15: "fifteen", 20: "twenty", 30: "thirty"}
    if n in words and chance.random() < 0.4:
        return words[n]
    return few[n] if n in few and chance.random() < 0.4 else str(n)


def named(chance: random.Random, product: str, of_them: bool = False) -> str:
    """A name of a product; with `of_them` also one that only stands behind a number, such as `of the rye`."""
    return chance.choice([name for name in said.PRODUCTS[product] if of_them or not name.startswith("of ")])


def order(chance: random.Random) -> dict[str, Any]:
    """What a message is made from: what is asked for, and what only stands in it."""
    extras = chance.sample(list(said.EXTRAS), chance.choice([0, 0, 0, 0, 1, 1, 1, 2]))
    return {
        "customer": chance.choice(said.PLACES) + chance.choice(said.NAMES)
        if chance.random() < 0.8
        else chance.choice(said.ALONE),
        "product": chance.choice(list(said.PRODUCTS)),
        "quantity": chance.choice(
            [2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 20, 24, 25, 30, 36, 40, 48, 50, 60, 75, 80, 120, 150]
        ),
        "day": chance.choice([*said.DAYS, None]) if chance.random() < 0.85 else None,
        "urgent": chance.random() < 0.25,
        "extras": extras,
    }


def message(chance: random.Random, of: dict[str, Any]) -> str:
    """One way to write an order down, some with a red herring: an earlier quantity, another product, another day."""
    product = named(chance, of["product"], of_them=True)
    frame = chance.choice(said.REQUESTS)
    if "{product}" in frame:
        product = named(chance, of["product"])
    amount = spelled(chance, of["quantity"])
    if " dozen" in f" {amount}" and chance.random() < 0.3:
        amount = str(of["quantity"])
    what = f"{amount} {product}"
    parts = [frame.format(what=what, amount=amount, product=product)]
    if of["day"]:
        parts[0] = chance.choice(said.WITH_DAY).format(request=parts[0], day=said.DAYS[of["day"]][chance.randrange(3)])
    if of["extras"]:
        wishes = [chance.choice(said.EXTRAS[e]) for e in of["extras"]]
        parts.append(chance.choice(said.WISHES).format(wish=" and ".join(wishes)))
    if chance.random() < 0.3:
        other = chance.choice([q for q in (7, 9, 14, 16, 22, 28, 45, 55, 90) if q != of["quantity"]])
        different = named(chance, chance.choice([p for p in said.PRODUCTS if p != of["product"]]))
        parts.insert(chance.randrange(len(parts) + 1), chance.choice(said.HERRINGS).format(n=other, product=different))
    if of["urgent"]:
        parts.insert(chance.randrange(len(parts) + 1), chance.choice(said.URGENT))
    if chance.random() < 0.55:
        parts.insert(chance.choice([0, len(parts)]), chance.choice(said.CHATTER))
    signed = chance.random()
    if signed < 0.55:
        text = " ".join([chance.choice(said.OPENINGS), *parts]) + chance.choice(said.SIGNED).format(
            customer=of["customer"]
        )
    else:
        parts.insert(0, chance.choice(said.FROM).format(customer=of["customer"]))
        text = " ".join([chance.choice(said.OPENINGS), *parts, chance.choice(said.CLOSINGS)])
    text = re.sub(r"[ \t]+", " ", text).strip()
    return mistyped(chance, text, of["customer"]) if chance.random() < 0.25 else text


def mistyped(chance: random.Random, text: str, keep: str) -> str:
    """Two letters of one longer word swapped, or everything in lower case but the customer's name."""
    if chance.random() < 0.4:
        return keep.join(part.lower() for part in text.split(keep))
    words = [m for m in re.finditer(r"\b[a-z]{5,}\b", text) if m[0] not in keep.lower()]
    known = {w for names in (*said.PRODUCTS.values(), *said.EXTRAS.values()) for n in names for w in n.split()}
    words = [m for m in words if m[0] not in known]
    if not words:
        return text
    word = chance.choice(words)
    at = word.start() + chance.randrange(1, len(word[0]) - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


class Unlike:
    """Remembers texts, and tells whether a new one is too like any of them."""

    def __init__(self) -> None:
        self._of: dict[str, list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    def takes(self, text: str) -> bool:
        plain = re.sub(r"[\W_]+", " ", text.casefold()).strip()
        grams = {plain[i : i + 5] for i in range(max(1, len(plain) - 4))}
        shared = Counter(i for gram in grams for i in self._of[gram])
        if any(n / (len(grams) + self._sizes[i] - n) > MOST_ALIKE for i, n in shared.most_common(20)):
            return False
        for gram in grams:
            self._of[gram].append(len(self._sizes))
        self._sizes.append(len(grams))
        return True


def rows(chance: random.Random) -> list[tuple[str, dict[str, Any]]]:
    made: list[tuple[str, dict[str, Any]]] = []
    unlike = Unlike()
    while len(made) < ROWS:
        of = order(chance)
        text = message(chance, of)
        if unlike.takes(text):
            made.append((text, of))
    return made


def write_json(answer: Any) -> str:
    return json.dumps(answer, ensure_ascii=False)


def asked(of: dict[str, Any]) -> dict[str, Any]:
    """The answer that is wanted."""
    return {name: of[name] for name in ASKED}


def chat(prompt: str, text: str, answer: str) -> dict[str, Any]:
    turns = [("system", prompt), ("user", text), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main() -> None:
    chance = random.Random(20260301)
    prompt = yaml.safe_load((FOLDER / "task.yaml").read_text("utf-8"))["system_prompt"]
    clean = rows(chance)
    files: dict[str, list[Any]] = {"inbox_spring.jsonl": [], "inbox_summer.jsonl": [], "counter_notes.jsonl": []}
    for i, (text, of) in enumerate(clean):
        name = list(files)[i % 3]
        answer = write_json(asked(of))
        files[name].append(
            {"prompt": text, "completion": answer} if name == "counter_notes.jsonl" else chat(prompt, text, answer)
        )
    planted = plant(chance, files, prompt)
    for name, lines in files.items():
        written = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        (FOLDER / "raw" / name).write_text("\n".join(written) + "\n", "utf-8")
    (FOLDER / "planted_faults.json").write_text(json.dumps(planted, indent=1) + "\n", "utf-8")


def plant(chance: random.Random, files: dict[str, list[Any]], prompt: str) -> list[dict[str, Any]]:
    """Put faults in at random lines. Returns where each is and what must happen to it."""
    notes: list[tuple[str, Any, dict[str, Any]]] = []  # file, the line itself, what is expected

    def add(name: str, line: Any, **expected: Any) -> None:
        files[name].insert(chance.randrange(len(files[name]) + 1), line)
        notes.append((name, line, expected))

    def sound() -> tuple[str, dict[str, Any]]:
        """A new order of a customer that nobody else has, so that it is like no other."""
        of = order(chance) | {"customer": chance.choice(said.RARE)}
        said.RARE.remove(of["customer"])
        return message(chance, of), asked(of)

    broken = {
        "data.answer_schema": [
            lambda o: o | {"quantity": str(o["quantity"])},
            lambda o: o | {"product": "cheesecake"},
            lambda o: {k: v for k, v in o.items() if k != "quantity"},
            lambda o: o | {"price": 12.5},
            lambda o: o | {"day": "Fri"},
            lambda o: o | {"customer": None},
        ]
    }
    for rule, makers in broken.items():
        for make in makers:
            text, of = sound()
            add(
                "inbox_spring.jsonl",
                chat(prompt, text, write_json(make(of))),
                fault="breaks the schema",
                expect="quarantine",
                rule=rule,
            )
    for spoil in (
        lambda t: t[:-1],
        lambda t: f"```json\n{t}\n```",
        lambda t: t.replace('"', "'"),
        lambda t: "Order: " + t,
    ):
        text, of = sound()
        line = {"prompt": text, "completion": spoil(write_json(of))}
        add("counter_notes.jsonl", line, fault="answer is not JSON", expect="quarantine", rule="data.answer_not_json")
    for _ in range(3):
        text, of = sound()
        whole = json.dumps(chat(prompt, text, write_json(of)))
        add(
            "inbox_summer.jsonl",
            whole[: -chance.randrange(5, 40)],
            fault="broken json",
            expect="quarantine",
            rule="data.bad_json",
        )
    text, of = sound()
    add(
        "inbox_summer.jsonl",
        chat(prompt.replace("bakery", "shop"), text, write_json(of)),
        fault="wrong system prompt",
        expect="quarantine",
        rule="data.wrong_system_prompt",
    )
    text, of = sound()
    add(
        "counter_notes.jsonl",
        {"prompt": text, "completion": ""},
        fault="empty answer",
        expect="quarantine",
        rule="data.empty_field",
    )
    text, of = sound()
    add(
        "counter_notes.jsonl",
        {"prompt": text + "\u0007", "completion": write_json(of)},
        fault="control character",
        expect="quarantine",
        rule="data.control_characters",
    )
    for pair in range(2):
        text, of = sound()
        for answer in (of, of | {"quantity": of["quantity"] + 1}):
            add(
                "inbox_spring.jsonl",
                chat(prompt, text, write_json(answer)),
                fault="two answers",
                expect="quarantine",
                rule="data.contradiction",
                pair=pair,
            )
    for kind, part in (
        ("email", "Mail me at j.okafor@mill-cafe.example if not."),
        ("email", "Invoice to accounts@northpier.example."),
        ("phone", "Ring me on +44 20 7946 0958."),
        ("phone", "My cell is (202) 555-0147."),
    ):
        text, of = sound()
        add(
            "inbox_summer.jsonl",
            chat(prompt, f"{text}\n{part}", write_json(of)),
            fault=kind,
            expect="scrubbed",
            kind=kind,
        )
    for kind in ["exact"] * 5 + ["near"] * 5:
        name = chance.choice(["inbox_spring.jsonl", "inbox_summer.jsonl"])
        known = [
            line for line in files[name] if isinstance(line, dict) and all(line is not other for _, other, _ in notes)
        ]
        original = chance.choice([line for line in known if len(line["messages"][1]["content"]) > 110])
        _, user, answer = (m["content"] for m in original["messages"])
        copy = user if kind == "exact" else user + chance.choice(["!", " Thanks.", " Please."])
        line = {"prompt": copy, "completion": answer}
        files["counter_notes.jsonl"].insert(chance.randrange(len(files["counter_notes.jsonl"]) + 1), line)
        notes.append(
            (
                "counter_notes.jsonl",
                line,
                {"fault": f"{kind} duplicate", "expect": "duplicate", "kind": kind, "of": original, "in": name},
            )
        )
    return sorted((place(files, note) for note in notes), key=lambda told: (told["file"], told["line"]))


def place(files: dict[str, list[Any]], note: tuple[str, Any, dict[str, Any]]) -> dict[str, Any]:
    """A planted fault with the line it ended up in."""

    def line_of(name: str, wanted: Any) -> int:
        return next(i for i, line in enumerate(files[name], 1) if line is wanted)

    name, line, expected = note
    told = {"file": name, "line": line_of(name, line), **{k: v for k, v in expected.items() if k not in ("of", "in")}}
    if "of" in expected:
        told["original"] = {"file": expected["in"], "line": line_of(expected["in"], expected["of"])}
    return told


if __name__ == "__main__":
    main()
