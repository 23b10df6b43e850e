"""Write data/order_intake: messages to an invented wholesale bakery, with the order in each as JSON.

    python tools/make_order_intake.py

A seeded generator combines hand-written phrases (tools/order_intake_phrases.py) into messages, and rejects those too similar
to an earlier one. Then faults are planted, each listed with its file and line.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import order_intake_phrases as phrases
import yaml

FOLDER = Path(__file__).resolve().parent.parent / "data" / "order_intake"
ROWS = 1000
MAX_SIMILARITY = 0.6
"""Jaccard similarity of character 5-grams with any earlier message; the pipeline calls 0.8 a near-duplicate."""
ORIGIN = {"origin": "synthetic", "generator": "make_order_intake.py"}
"""Added to every row: no person wrote it, so it is never tested on."""
ANSWER_FIELDS = ("customer", "product", "quantity", "day")
"""Fields of the answer, in the order of the schema. Wishes and urgency are in the messages but not in the answer."""


def spelled(chance: random.Random, n: int) -> str:
    """A quantity as people write it."""
    words = {6: "half a dozen", 12: "a dozen", 24: "two dozen", 36: "three dozen"}
    few = {2: "two", 3: "three", 4: "four", 5: "five", 8: "eight", 10: "ten", 15: "fifteen", 20: "twenty", 30: "thirty"}
    if n in words and chance.random() < 0.4:
        return words[n]
    return few[n] if n in few and chance.random() < 0.4 else str(n)


def named(chance: random.Random, product: str, of_them: bool = False) -> str:
    """A name of a product; with `of_them` also one that only fits after a number, such as `of the rye`."""
    return chance.choice([name for name in phrases.PRODUCTS[product] if of_them or not name.startswith("of ")])


def customer(chance: random.Random) -> str:
    """A name of a business or a person, in every tenth message in small letters."""
    surname, other = chance.sample(phrases.SURNAMES, 2)
    parts = {
        "type": phrases.TYPES,
        "kind": phrases.KINDS,
        "land": phrases.LANDS,
        "adjective": phrases.ADJECTIVES,
        "thing": phrases.THINGS,
        "first": phrases.FIRST_NAMES,
    }
    words = {part: chance.choice(choices) for part, choices in parts.items()}
    name = chance.choice(phrases.FORMS).format(surname=surname, other=other, **words)
    return name.lower() if chance.random() < 0.1 else name


def order(chance: random.Random) -> dict[str, Any]:
    """Draw the contents of a message: the fields of the answer, wishes and urgency."""
    extras = chance.sample(list(phrases.EXTRAS), chance.choice([0, 0, 0, 0, 1, 1, 1, 2]))
    return {
        "customer": customer(chance),
        "product": chance.choice(list(phrases.PRODUCTS)),
        "quantity": chance.choice(
            [2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 20, 24, 25, 30, 36, 40, 48, 50, 60, 75, 80, 120, 150]
        ),
        "day": chance.choice([*phrases.DAYS, None]) if chance.random() < 0.85 else None,
        "urgent": chance.random() < 0.25,
        "extras": extras,
    }


def message(chance: random.Random, contents: dict[str, Any]) -> str:
    """Write an order in words, sometimes with a red herring: an earlier quantity, another product, another day."""
    product = named(chance, contents["product"], of_them=True)
    frame = chance.choice(phrases.REQUESTS)
    if "{product}" in frame:
        product = named(chance, contents["product"])
    amount = spelled(chance, contents["quantity"])
    if " dozen" in f" {amount}" and chance.random() < 0.3:
        amount = str(contents["quantity"])
    what = f"{amount} {product}"
    parts = [frame.format(what=what, amount=amount, product=product)]
    if contents["day"]:
        parts[0] = chance.choice(phrases.WITH_DAY).format(
            request=parts[0], day=phrases.DAYS[contents["day"]][chance.randrange(3)]
        )
    if contents["extras"]:
        wishes = [chance.choice(phrases.EXTRAS[e]) for e in contents["extras"]]
        parts.append(chance.choice(phrases.WISHES).format(wish=" and ".join(wishes)))
    if chance.random() < 0.3:
        other = chance.choice([q for q in (7, 9, 14, 16, 22, 28, 45, 55, 90) if q != contents["quantity"]])
        different = named(chance, chance.choice([p for p in phrases.PRODUCTS if p != contents["product"]]))
        parts.insert(
            chance.randrange(len(parts) + 1), chance.choice(phrases.HERRINGS).format(n=other, product=different)
        )
    if contents["urgent"]:
        parts.insert(chance.randrange(len(parts) + 1), chance.choice(phrases.URGENT))
    if chance.random() < 0.55:
        parts.insert(chance.choice([0, len(parts)]), chance.choice(phrases.CHATTER))
    signed = chance.random()
    who = {"customer": contents["customer"], "first": chance.choice(phrases.FIRST_NAMES)}
    if signed < 0.45:
        text = " ".join([chance.choice(phrases.OPENINGS), *parts]) + chance.choice(phrases.SIGNED).format(**who)
    elif signed < 0.7:
        text = chance.choice(phrases.INSIDE).format(request=" ".join(parts), **who)
    else:
        parts.insert(0, chance.choice(phrases.FROM).format(**who))
        text = " ".join([chance.choice(phrases.OPENINGS), *parts, chance.choice(phrases.CLOSINGS)])
    text = re.sub(r"[ \t]+", " ", text).strip()
    return mistyped(chance, text, contents["customer"]) if chance.random() < 0.25 else text


def mistyped(chance: random.Random, text: str, keep: str) -> str:
    """Swap two letters of a longer word, or write everything in lower case except the customer's name."""
    if chance.random() < 0.4:
        return keep.join(part.lower() for part in text.split(keep))
    words = [m for m in re.finditer(r"\b[a-z]{5,}\b", text) if m[0] not in keep.lower()]
    known = {w for names in (*phrases.PRODUCTS.values(), *phrases.EXTRAS.values()) for n in names for w in n.split()}
    words = [m for m in words if m[0] not in known]
    if not words:
        return text
    word = chance.choice(words)
    at = word.start() + chance.randrange(1, len(word[0]) - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


class SimilarityFilter:
    """Rejects texts that are too similar to an earlier one."""

    def __init__(self) -> None:
        self._texts_with: dict[str, list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    def accepts(self, text: str) -> bool:
        plain = re.sub(r"[\W_]+", " ", text.casefold()).strip()
        grams = {plain[i : i + 5] for i in range(max(1, len(plain) - 4))}
        shared = Counter(i for gram in grams for i in self._texts_with[gram])
        if any(n / (len(grams) + self._sizes[i] - n) > MAX_SIMILARITY for i, n in shared.most_common(20)):
            return False
        for gram in grams:
            self._texts_with[gram].append(len(self._sizes))
        self._sizes.append(len(grams))
        return True


def rows(chance: random.Random) -> list[tuple[str, dict[str, Any]]]:
    accepted: list[tuple[str, dict[str, Any]]] = []
    similarity = SimilarityFilter()
    while len(accepted) < ROWS:
        contents = order(chance)
        text = message(chance, contents)
        if similarity.accepts(text):
            accepted.append((text, contents))
    return accepted


def write_json(answer: Any) -> str:
    return json.dumps(answer, ensure_ascii=False)


def answer_of(contents: dict[str, Any]) -> dict[str, Any]:
    """The right answer to a message."""
    return {name: contents[name] for name in ANSWER_FIELDS}


def chat(prompt: str, text: str, answer: str) -> dict[str, Any]:
    turns = [("system", prompt), ("user", text), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    chance = random.Random(20260301)
    prompt = yaml.safe_load((FOLDER / "task.yaml").read_text("utf-8"))["system_prompt"]
    clean = rows(chance)
    files: dict[str, list[Any]] = {"inbox_spring.jsonl": [], "inbox_summer.jsonl": [], "counter_notes.jsonl": []}
    for i, (text, contents) in enumerate(clean):
        name = list(files)[i % 3]
        answer = write_json(answer_of(contents))
        files[name].append(
            {"prompt": text, "completion": answer} if name == "counter_notes.jsonl" else chat(prompt, text, answer)
        )
    planted = plant(chance, files, prompt)
    for name, lines in files.items():
        written = [line if isinstance(line, str) else json.dumps(line | ORIGIN, ensure_ascii=False) for line in lines]
        (FOLDER / "raw" / name).write_text("\n".join(written) + "\n", "utf-8")
    (FOLDER / "planted_faults.json").write_text(json.dumps(planted, indent=1) + "\n", "utf-8")


def plant(chance: random.Random, files: dict[str, list[Any]], prompt: str) -> list[dict[str, Any]]:
    """Insert faults at random lines. Returns the place of each and what must happen to it."""
    notes: list[tuple[str, Any, dict[str, Any]]] = []  # file, the line itself, its expected treatment

    def add(name: str, line: Any, **expected: Any) -> None:
        files[name].insert(chance.randrange(len(files[name]) + 1), line)
        notes.append((name, line, expected))

    def new_order() -> tuple[str, dict[str, Any]]:
        """A new order of a customer with no other orders, so that it resembles none."""
        contents = order(chance) | {"customer": chance.choice(phrases.RARE)}
        phrases.RARE.remove(contents["customer"])
        return message(chance, contents), answer_of(contents)

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
            text, answer = new_order()
            add(
                "inbox_spring.jsonl",
                chat(prompt, text, write_json(make(answer))),
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
        text, answer = new_order()
        line = {"prompt": text, "completion": spoil(write_json(answer))}
        add("counter_notes.jsonl", line, fault="answer is not JSON", expect="quarantine", rule="data.answer_not_json")
    for _ in range(3):
        text, answer = new_order()
        whole = json.dumps(chat(prompt, text, write_json(answer)))
        add(
            "inbox_summer.jsonl",
            whole[: -chance.randrange(5, 40)],
            fault="broken json",
            expect="quarantine",
            rule="data.bad_json",
        )
    text, answer = new_order()
    add(
        "inbox_summer.jsonl",
        chat(prompt.replace("bakery", "shop"), text, write_json(answer)),
        fault="wrong system prompt",
        expect="quarantine",
        rule="data.wrong_system_prompt",
    )
    text, answer = new_order()
    add(
        "counter_notes.jsonl",
        {"prompt": text, "completion": ""},
        fault="empty answer",
        expect="quarantine",
        rule="data.empty_field",
    )
    text, answer = new_order()
    add(
        "counter_notes.jsonl",
        {"prompt": text + "\u0007", "completion": write_json(answer)},
        fault="control character",
        expect="quarantine",
        rule="data.control_characters",
    )
    for pair in range(2):
        text, answer = new_order()
        for variant in (answer, answer | {"quantity": answer["quantity"] + 1}):
            add(
                "inbox_spring.jsonl",
                chat(prompt, text, write_json(variant)),
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
        text, answer = new_order()
        add(
            "inbox_summer.jsonl",
            chat(prompt, f"{text}\n{part}", write_json(answer)),
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
    return sorted((place(files, note) for note in notes), key=lambda fault: (fault["file"], fault["line"]))


def place(files: dict[str, list[Any]], note: tuple[str, Any, dict[str, Any]]) -> dict[str, Any]:
    """Describe a planted fault with its final line."""

    def line_of(name: str, wanted: Any) -> int:
        return next(i for i, line in enumerate(files[name], 1) if line is wanted)

    name, line, expected = note
    fault = {"file": name, "line": line_of(name, line), **{k: v for k, v in expected.items() if k not in ("of", "in")}}
    if "of" in expected:
        fault["original"] = {"file": expected["in"], "line": line_of(expected["in"], expected["of"])}
    return fault


if __name__ == "__main__":
    main()
