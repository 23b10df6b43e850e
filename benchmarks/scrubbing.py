"""How well and how fast personal data is found: ours against the libraries that are installed, on the labelled texts.

Run from the repository's root: ``python -m benchmarks.scrubbing [--lines FILE ...]``. Recall: share of the labelled values
of which at least half the characters were found as their kind. Precision: share of the hits of a kind that overlap a
labelled value of that kind. Kinds a library does not know count as missed in its recall over all shapes, and are shown as
a dash. Time: CPU microseconds a row, best of three passes. ``--lines``: files of any text; our hits in them are printed,
for people to judge. Libraries that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from finetune_pipeline.data.scrub import KINDS, SHAPE_KINDS, find_spans, load_recogniser
from finetune_pipeline_tests.unit.data.scrubbing_rows import Labelled, labelled_rows

Finder = Callable[[str], Iterable[tuple[int, int, str]]]
PROSE = (
    "The committee met on a quiet morning and talked at length about the garden behind the old library. Nobody could "
    "remember who had planted the apple trees, but everyone agreed that they should be kept. A few members wanted benches, "
    "others asked for a pond with fish, and one suggested that the wall be painted by pupils of the school nearby. After a "
    "long discussion, which touched on money, water and the question of who holds the lock of the gate, they decided to ask "
    "the gardener for a plan. He smiled and said it would take some time, because good things grow slowly. Then came tea."
)
NUMBERS = (
    "The committee met on 12 March 2019 at 10:30 and talked about the 24 apple trees behind the old library. Nobody could "
    "remember who had planted them, but 18 of the 35 members agreed that they should be kept. A few wanted benches, others "
    "asked for a pond with fish for $1,299.99, and one suggested on 2021-05-14 that the wall be painted by pupils of the "
    "school nearby. After a long discussion, which touched on money, water and the question of who holds the lock, they "
    "decided to ask the gardener for a plan. He smiled and said that it would take 2 to 3 years, at 45 euros a week."
)


@dataclass
class Scores:
    """Counts per kind: labelled, found of them, hits, right ones among them."""

    labelled: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def recall(self, kinds: Iterable[str]) -> float:
        kinds = list(kinds)
        return sum(self.found[k] for k in kinds) / max(1, sum(self.labelled[k] for k in kinds))

    def precision(self, kinds: Iterable[str]) -> float | None:
        kinds = list(kinds)
        hits = sum(self.hits[k] for k in kinds)
        return sum(self.right[k] for k in kinds) / hits if hits else None


def score(rows: list[Labelled], finder: Finder) -> Scores:
    """Counts of a finder's hits against the labels."""
    scores = Scores()
    for row in rows:
        hits = list(finder(row.text))
        for span in row.spans:
            scores.labelled[span.kind] += 1
            scores.found[span.kind] += any(
                kind == span.kind and 2 * (min(end, span.end) - max(start, span.start)) >= span.end - span.start
                for start, end, kind in hits
            )
        for start, end, kind in hits:
            scores.hits[kind] += 1
            scores.right[kind] += any(s.kind == kind and start < s.end and s.start < end for s in row.spans)
    return scores


def microseconds(finder: Finder, texts: list[str], passes: int = 3) -> float:
    """CPU microseconds a text, the best of some passes after a first one that loads what is loaded late."""
    for text in texts:
        list(finder(text))
    times = []
    for _ in range(passes):
        start = time.process_time()
        for text in texts:
            list(finder(text))
        times.append(time.process_time() - start)
    return min(times) / len(texts) * 1e6


def ours(text: str) -> list[tuple[int, int, str]]:
    return [(s.start, s.end, s.kind) for s in find_spans(text)]


def ours_with_model() -> Finder:
    recogniser = load_recogniser()
    return lambda text: [(s.start, s.end, s.kind) for s in find_spans(text, recogniser)]


PRESIDIO = {
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "IP_ADDRESS": "ip",
    "MAC_ADDRESS": "mac", "CRYPTO": "wallet", "PERSON": "name",
}  # fmt: skip
_NOT_IDS = (
    "DATE_TIME",
    "URL",
    "UUID",
    "NRP",
    "LOCATION",
    "ORGANIZATION",
    "MEDICAL_LICENSE",
    "US_BANK_NUMBER",
    "US_NPI",
)


def _presidio_kind(entity: str) -> str | None:
    return PRESIDIO.get(entity) or (None if entity in _NOT_IDS else "national_id")


def presidio_shapes() -> Finder:
    """Every recogniser of presidio-analyzer that works by pattern, with its own check digits; hits of score 0.4 and more."""
    from presidio_analyzer import PatternRecognizer, predefined_recognizers

    found = []
    for name in sorted(dir(predefined_recognizers)):
        cls = getattr(predefined_recognizers, name)
        if isinstance(cls, type) and (name == "PhoneRecognizer" or issubclass(cls, PatternRecognizer)):
            try:
                found.append(cls())
            except TypeError:
                continue  # one that asks for arguments

    def find(text: str) -> list[tuple[int, int, str]]:
        hits = [hit for r in found for hit in r.analyze(text, r.supported_entities, None) or () if hit.score >= 0.4]
        return [(h.start, h.end, kind) for h in hits if (kind := _presidio_kind(h.entity_type))]

    return find


def presidio_engine() -> Finder:
    """presidio-analyzer as it comes, with an installed English spaCy model: words around a hit raise its score."""
    import spacy
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [m for m in spacy.util.get_installed_models() if m.startswith("en_")]
    if not models:
        raise ImportError("no English spaCy model")
    nlp = NlpEngineProvider(
        nlp_configuration={"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": models[0]}]}
    ).create_engine()
    engine = AnalyzerEngine(nlp_engine=nlp, supported_languages=["en"])

    def find(text: str) -> list[tuple[int, int, str]]:
        hits = engine.analyze(text, language="en", score_threshold=0.4)
        return [(h.start, h.end, kind) for h in hits if (kind := _presidio_kind(h.entity_type))]

    return find


def scrubadub_default() -> Finder:
    import scrubadub

    kinds = {
        "email": "email",
        "phone": "phone",
        "credit_card": "card",
        "social_security_number": "national_id",
        "credential": "secret",
    }
    scrubber = scrubadub.Scrubber()
    return lambda text: [
        (f.beg, f.end, kinds[f.type]) for f in scrubber.iter_filth(text) if getattr(f, "type", None) in kinds
    ]


def datafog_scan() -> Finder:
    import datafog

    kinds = {
        "EMAIL": "email", "PHONE": "phone", "CREDIT_CARD": "card", "IP_ADDRESS": "ip", "SSN": "national_id", "IBAN": "iban",
        "DE_IBAN": "iban", "DE_TAX_ID": "national_id", "DOB": "birth_date", "DATE_OF_BIRTH": "birth_date",
    }  # fmt: skip
    return lambda text: [(e.start, e.end, kinds[e.type]) for e in datafog.scan(text).entities if e.type in kinds]


def commonregex_all() -> Finder:
    import commonregex

    shapes = (
        (commonregex.email, "email"), (commonregex.phone, "phone"), (commonregex.ip, "ip"), (commonregex.ipv6, "ip"),
        (commonregex.credit_card, "card"), (commonregex.btc_address, "wallet"), (commonregex.street_address, "address"),
    )  # fmt: skip
    return lambda text: [(*m.span(), kind) for shape, kind in shapes for m in shape.finditer(text)]


def detect_secrets_plugins() -> Finder:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins = [cls() for _, cls in sorted(get_mapping_from_secret_type_to_class().items())]

    def find(text: str) -> list[tuple[int, int, str]]:
        hits, at = [], 0
        for line in text.split("\n"):
            for plugin in plugins:
                for secret in plugin.analyze_line(filename="text", line=line, line_number=1):
                    start = line.find(secret.secret_value or "\0")
                    if start >= 0:
                        hits.append((at + start, at + start + len(secret.secret_value), "secret"))
            at += len(line) + 1
        return hits

    return find


def phonenumbers_matcher() -> Finder:
    import phonenumbers

    return lambda text: [
        (m.start, m.end, "phone") for m in phonenumbers.PhoneNumberMatcher(text, "US", phonenumbers.Leniency.POSSIBLE)
    ]


CANDIDATES: tuple[tuple[str, Callable[[], Finder]], ...] = (
    ("ours", lambda: ours),
    ("ours with names (spaCy)", ours_with_model),
    ("presidio-analyzer, patterns", presidio_shapes),
    ("presidio-analyzer, engine", presidio_engine),
    ("scrubadub", scrubadub_default),
    ("datafog", datafog_scan),
    ("detect-secrets", detect_secrets_plugins),
    ("phonenumbers matcher, US", phonenumbers_matcher),
    ("commonregex", commonregex_all),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, nargs="*", default=[], help="files of text; our hits in them are printed")
    arguments = parser.parse_args()
    rows = labelled_rows()
    texts = [row.text for row in rows]
    negatives = sum(not row.spans for row in rows)
    labels = Counter(span.kind for row in rows for span in row.spans)
    print(f"{len(rows)} rows, {negatives} of them without a hit; {sum(labels.values())} labelled values\n")
    results: list[tuple[str, Scores, float]] = []
    for name, make in CANDIDATES:
        try:
            finder = make()
        except Exception as error:  # noqa: BLE001 - whatever keeps a library from running here
            print(f"left out: {name}: {str(error).splitlines()[0][:150]}")
            continue
        results.append((name, score(rows, finder), microseconds(finder, texts)))
    print("\nrecall / precision per kind\n")
    print("| kind | values | " + " | ".join(name for name, _, _ in results) + " |")
    print("|---|---|" + "---|" * len(results))
    for kind in KINDS:
        cells = [_cell(scores, [kind]) for _, scores, _ in results]
        print(f"| {kind} | {labels[kind]} | " + " | ".join(cells) + " |")
    print(
        f"| all shapes | {sum(labels[k] for k in SHAPE_KINDS)} | "
        + " | ".join(_cell(s, SHAPE_KINDS) for _, s, _ in results)
        + " |"
    )
    print("| µs a row | | " + " | ".join(f"{us:.0f}" for _, _, us in results) + " |")
    for name, text in (("prose", PROSE), ("prose with numbers and dates", NUMBERS)):
        print(f"\n{name}, {len(text)} characters, no hit: {microseconds(ours, [text] * 2000):.1f} µs")
    for path in arguments.lines:
        _print_hits(path)


def _cell(scores: Scores, kinds: Iterable[str]) -> str:
    kinds = list(kinds)
    precision = scores.precision(kinds)
    return "–" if precision is None else f"{scores.recall(kinds):.2f} / {precision:.2f}"


def _print_hits(path: Path) -> None:
    lines = path.read_text("utf-8", "replace").splitlines()
    hits = [(number, kind, line[start:end]) for number, line in enumerate(lines, 1) for start, end, kind in ours(line)]
    print(f"\n{path}: {len(lines)} lines, {len(hits)} hits, {microseconds(ours, lines, 1):.1f} µs a line")
    for number, kind, value in hits:
        print(f"  {number}: {kind}: {value}")


if __name__ == "__main__":
    main()
