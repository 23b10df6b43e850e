"""Token counts equal the counter's own, long rows are named, and prices are arithmetic."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from finetune_pipeline.data.examples import sample_examples
from finetune_pipeline.data.quality.parts import Place
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.planning.prices import SHIPPED, load_prices
from finetune_pipeline.planning.tokens import TokenCounter, _histogram, token_counts, unencodable
from finetune_pipeline.training.rows import training_examples
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make, make_spec, requests


@pytest.fixture(scope="module")
def counter(base: Path) -> TokenCounter:
    return TokenCounter(base)


ROWS = requests(300)
LORA = {"method": "lora", "epochs": 2, "max_tokens": 200}


def test_counts_are_exact_and_perturbed_copies_are_counted_as_the_training_reads_them(counter: TokenCounter) -> None:
    measured = token_counts(ROWS, counter, make_spec(LABELS, LORA))
    counts = [counter.count(e.messages) for e in ROWS]
    assert measured.passed and measured.total == sum(counts) and measured.training_tokens == 2 * sum(counts)
    assert measured.message == f"{sum(counts):,} tokens in 300 training rows, {2 * sum(counts):,} in 2 epochs"
    assert measured.whole and (measured.whole.min, measured.whole.max) == (min(counts), max(counts))
    assert sum(b.count for b in measured.histogram) == 300
    spec = make_spec(LABELS, {**LORA, "augment": True})
    measured, read = token_counts(ROWS, counter, spec), training_examples(ROWS, spec.training)
    assert len(read) > 2 * len(ROWS)
    assert measured.training_tokens == 2 * sum(counter.count(e.messages) for e in read)
    assert measured.total == sum(counts), "the rows themselves are as they were"


def test_rows_over_the_limit_are_named_and_fail_unless_they_are_to_be_dropped(counter: TokenCounter) -> None:
    rows = [*ROWS, make("long " * 400, "x", 999)]
    measured = token_counts(rows, counter, make_spec(LABELS, LORA))
    assert not measured.passed and measured.over == 1
    assert [finding.place for finding in measured.findings] == [rows[-1].place]
    two = token_counts([*rows, make("long " * 400, "y", 1000)], counter, make_spec(LABELS, LORA))
    assert [finding.place for finding in two.findings] == [f"{rows[-1].place} and 1 more"]
    assert measured.over_rows == [Place(place="raw/a.jsonl:999", id=rows[-1].id)]
    dropped = token_counts(rows, counter, make_spec(LABELS, {**LORA, "over_length": "drop"}))
    longest = max(counter.count(e.messages) for e in ROWS)
    for limit, over in ((longest, 0), (longest - 1, sum(counter.count(e.messages) == longest for e in ROWS))):
        assert token_counts(ROWS, counter, make_spec(LABELS, {**LORA, "max_tokens": limit})).over == over
    (finding,) = measured.findings
    assert "(training.max_tokens)" in finding.message and finding.fix.startswith("raise training.max_tokens")
    context = counter.config["max_position_embeddings"]
    beyond = make_spec(LABELS, {**LORA, "max_tokens": context + 1})
    (finding,) = token_counts([make("long " * 2 * context, "x", 1)], counter, beyond).findings
    assert f"more than {context:,} tokens" in finding.message and "is no longer)" in finding.message
    assert finding.fix.startswith("use a base model with a longer context")
    assert dropped.passed and dropped.findings[0].severity == "note"


def test_a_sample_tells_about_how_many_there_are(counter: TokenCounter) -> None:
    truth = sum(counter.count(e.messages) for e in ROWS)
    few = sample_examples(ROWS, 100)
    measured = token_counts(few, counter, make_spec(LABELS, LORA), of=300)
    assert measured.total == pytest.approx(truth, rel=0.1)
    assert (measured.sampled, measured.of_rows, measured.rows) == (100, 300, 300)
    assert "about" in measured.message


def test_a_histogram_has_every_row_once_and_no_outlier_widens_its_bins() -> None:
    counts = np.array([*range(1, 1001), 100_000])
    bins = _histogram(counts)
    assert len(bins) == 24 and (bins[0].first, bins[-1].last) == (1, 100_000)
    assert [b.count for b in bins] == [int(((counts >= b.first) & (counts <= b.last)).sum()) for b in bins]
    assert all(after.first == b.last + 1 for b, after in pairwise(bins))
    assert max(b.last - b.first for b in bins[:-1]) <= 1000 / 24 + 1
    assert [(b.first, b.last, b.count) for b in _histogram(np.array([7, 7]))] == [(7, 7, 2)]


def test_rows_that_a_template_refuses_are_found_without_counts(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    refuses = "{% if messages[-1].content == 'never' %}{{ raise_exception('no') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refuses + (base / "chat_template.jinja").read_text())
    strict, spec = TokenCounter(folder), make_spec(LABELS, LORA)
    fine = unencodable(ROWS, strict)
    assert fine.passed and not fine.blocking and not fine.applies and fine.message.startswith("not asked")
    refused = unencodable([*ROWS, make("a", "never", 301)], strict)
    assert not refused.passed and refused.blocking and refused.message.startswith("1 of 301 rows cannot be encoded")
    assert "(1)" not in refused.message, "one reason needs no number"
    for train, others in (([*ROWS, make("a", "never", 301)], []), (ROWS, [make("a", "never", 1)])):
        measured = token_counts(train, strict, spec, others=others)
        assert not measured.passed and measured.blocking and measured.refused == 1
        assert measured.total == sum(strict.count(e.messages) for e in ROWS) and measured.applies
        assert measured.whole and measured.whole.min == min(strict.count(e.messages) for e in ROWS) > 0
    nothing = token_counts([make("a", "never")], strict, spec)
    assert not nothing.passed and nothing.blocking and not nothing.applies


def test_control_tokens_are_decoded_as_they_are_written(counter: TokenCounter) -> None:
    assert counter.end_token_ids and "<|im_end|>" in counter.decode(sorted(counter.end_token_ids))


def test_the_shipped_prices_by_hand() -> None:
    prices = load_prices()
    shipped = {price.name: price for price in prices.training}
    assert shipped["OpenAI, gpt-4o-mini"].of_training(2_000_000, 8e9) == ((6.0, 6.0), None)
    (low, high), hours = shipped["rented H100, 80 GB, 8B, LoRA"].of_training(2_000_000, 8e9)
    expected = 2e6 / 12_000 / 3600
    assert hours == pytest.approx((0.63 * expected, 2.5 * expected)) and low < 2.95 * expected < high
    assert all(p.note and p.date for p in [*prices.training, *prices.apis]) and SHIPPED.is_file()


def test_a_bad_price_list_is_explained(tmp_path: Path) -> None:
    row = "- {engine: x, model: m, date: 2026-01-01, note: n, %s}"
    for text, message in (
        ("engine: x", "must be a list"),
        (row % "unit: hour, price: 1", "tokens_per_second"),
        (row % "unit: million_tokens, price: -1", "price 1, price"),
        (row % "unit: million_tokens, price: 1, cost: 1", "price 1, cost"),
        (row % "unit: million_served, input: -1, output: 1", "price 1, input"),
        (row % "price: 1", "price 1, unit: Field required"),
        (row % "unit: hours", "price 1: .*'hours'.*'hour', 'million_served'"),
        (row % "unit: million_served, input: 1, input: 2", "yaml:1:84: key 'input' appears twice"),
        *((no_yaml, r"prices\.yaml:") for no_yaml in ("- [", "- {date: 2026-13-26}", "[" * 5000, "- \x00")),
    ):
        (tmp_path / "prices.yaml").write_text(text)
        with pytest.raises(FindingsError, match=message):
            load_prices(home=tmp_path)
