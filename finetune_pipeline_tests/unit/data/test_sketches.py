from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from finetune_pipeline.data.sketches import (
    Forms,
    bands_for,
    candidate_pairs,
    loose_forms,
    row_keys,
    similarities,
    sketch,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_pipeline.data import buckets, sketches
from finetune_pipeline.data.dedup.text_similarity import loose_form

LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8)
ODD = "aäß東京éＡﬁ½İıΣςσ ,.!?-_+#%\t\n\u3000\u00a0😀\ud800\u0301\u0345ㄱ가각ẞ𝔸x y'’“”\x1c"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything compiled, however little there is to do."""
    monkeypatch.setattr(sketches, "_SMALL", 0)
    monkeypatch.setattr(buckets, "_SMALL", 0)


def odd_texts(count: int = 400) -> list[str]:
    rng = random.Random(1)
    texts = ["".join(rng.choices(ODD, k=rng.randint(0, 80))) for _ in range(count)]
    texts += ["", "a", "!!!", "...", " \n", "—", "abcd", "日本", "plain words, plain words; and More"]
    texts += [t.upper() + " edited" for t in texts[:100]]
    return texts + [f"Hello, I cannot log in to the portal since the update, number {i}" for i in range(150)]


def texts_alike(threshold: float, grams: int, count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts i and i + count are as alike as the threshold, hardly more; their union has about `grams` 5-grams."""
    rng = np.random.default_rng(seed)
    own = max(1, round(grams * (1 - threshold) / 2))
    shared = int(np.ceil(threshold * 2 * own / (1 - threshold) - 1e-9))
    head = LETTERS[rng.integers(0, 36, (count, shared + 4))]
    tails = [LETTERS[rng.integers(0, 36, (count, own))] for _ in range(2)]
    texts = [bytes(row).decode() for tail in tails for row in np.concatenate([head, tail], 1)]
    return texts, np.stack([np.arange(count), np.arange(count) + count], 1)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=30), max_size=6))
def test_forms_of_any_text_are_the_loose_forms(texts: list[str]) -> None:
    sketches.import_module(sketches.KERNELS)
    forms = loose_forms(texts)
    assert [forms.text(i) for i in range(len(forms))] == [loose_form(t) for t in texts]


def test_numpy_and_the_kernels_agree() -> None:
    texts = odd_texts()
    found = {}
    for how in ("by_hand", "compiled"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sketches, "_SMALL", 0)
            patch.setattr(buckets, "_SMALL", 0)
            if how == "by_hand":
                patch.setattr(sketches, "kernels_for", lambda _: None)
                patch.setattr(buckets, "_SMALL", 10**9)
            forms = loose_forms(texts)
            made = sketch(forms, 0.8)
            pairs = candidate_pairs(made, None, 0.8)
            fresh = candidate_pairs(made, np.arange(len(texts)) % 7 == 0, 0.8)
            some = np.concatenate([pairs, np.random.default_rng(0).integers(0, len(texts), (2000, 2))])
            likeness = similarities(forms, some)
            found[how] = (forms.codes, forms.offsets, row_keys(forms), made, pairs, fresh, likeness)
    assert len(found["compiled"][4]) > 500
    for by_hand, compiled in zip(found["by_hand"], found["compiled"], strict=True):
        assert np.array_equal(by_hand, compiled)


@pytest.mark.usefixtures("compiled")
def test_similarities_are_those_of_sets_of_strings() -> None:
    texts = odd_texts(60)
    forms = loose_forms(texts)
    pairs = np.array(list(combinations(range(len(texts)), 2)))[:: len(texts) // 20]
    sets = [{f[i : i + 5] for i in range(len(f) - 4)} for f in (loose_form(t).ljust(5) for t in texts)]
    wanted = [len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in pairs]
    assert similarities(forms, pairs).tolist() == wanted


@pytest.mark.usefixtures("compiled")
def test_a_row_compared_with_70000_others_has_the_same_similarities_to_the_last() -> None:
    forms = loose_forms(["the quick brown fox", "the quick brown dog", "lorem ipsum dolor"])
    pairs = np.tile([[0, 1], [0, 2], [1, 2]], (70_000, 1))
    first = similarities(forms, pairs[:3])
    assert np.array_equal(similarities(forms, pairs), np.tile(first, 70_000))


def test_a_sketch_does_not_depend_on_the_rows_beside_it() -> None:
    texts = odd_texts(50)
    whole = sketch(loose_forms(texts), 0.8)
    assert whole.shape == (len(texts), buckets.COLUMNS) and whole.dtype == np.uint32
    for i in (0, 7, len(texts) - 1):
        assert np.array_equal(sketch(loose_forms([texts[i]]), 0.8)[0], whole[i])


def test_bands_miss_almost_nothing_at_any_threshold() -> None:
    for threshold in (0.35, 0.5, 0.65, 0.8, 0.9, 1.0):
        bands, rows = bands_for(threshold)
        assert bands == 40 and 1 <= rows <= 16
        assert (1 - threshold**rows) ** bands < 1e-4
    assert bands_for(0.8) == (40, 7)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("threshold", "grams"), [(0.5, 100), (0.65, 300), (0.8, 25), (0.8, 100), (0.8, 700), (0.9, 60), (0.95, 120)]
)
def test_pairs_just_at_the_threshold_are_candidates(threshold: float, grams: int) -> None:
    texts, planted = texts_alike(threshold, grams, 3000)
    forms = loose_forms(texts)
    alike = similarities(forms, planted)
    planted = planted[alike >= threshold - 1e-9]  # a chance repeat in a text may take one below
    assert len(planted) > 2500 and alike.mean() < threshold + 0.03
    found = set(map(tuple, candidate_pairs(sketch(forms, threshold), None, threshold).tolist()))
    assert sum((a, b) in found for a, b in planted.tolist()) >= 0.998 * len(planted)
    assert len(found) < 1.2 * len(planted)


@pytest.mark.usefixtures("compiled")
def test_without_a_threshold_whatever_shares_a_band_is_a_candidate() -> None:
    texts, planted = texts_alike(0.6, 100, 500)
    made = sketch(loose_forms(texts), 0.8)
    assert len(candidate_pairs(made)) > 100 > len(candidate_pairs(made, None, 0.8))


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_only_pairs_with_a_fresh_row(share: float) -> None:
    texts, _ = texts_alike(0.85, 150, 400)
    made = sketch(loose_forms(texts), 0.8)
    fresh = np.random.default_rng(2).random(len(texts)) < share
    every = candidate_pairs(made, None, 0.8)
    wanted = every[fresh[every].any(axis=1)]
    assert len(wanted) > 15 and np.array_equal(candidate_pairs(made, fresh, 0.8), wanted)
    assert len(candidate_pairs(made, np.zeros(len(texts), bool), 0.8)) == 0


@pytest.mark.usefixtures("compiled")
def test_fresh_rows_of_a_large_bucket_are_joined_to_old_ones() -> None:
    texts = [f"Hello, my name is on the list and I cannot log in to the portal, number {i}" for i in range(3000)]
    fresh = np.arange(3000) >= 2900
    pairs = candidate_pairs(sketch(loose_forms(texts), 0.8), fresh, 0.8)
    assert fresh[pairs].any(axis=1).all() and len(pairs) < 100 * 50
    reached = {0}  # all old rows are one cluster
    for _ in range(10):
        reached |= {int(b) for a, b in pairs if not fresh[a] or a in reached}
    assert set(range(2900, 3000)) <= reached


def test_small_inputs() -> None:
    nothing = loose_forms([])
    assert len(nothing) == 0 and sketch(nothing, 0.8).shape == (0, buckets.COLUMNS)
    assert candidate_pairs(sketch(nothing, 0.8)).shape == (0, 2)
    assert similarities(nothing, np.zeros((0, 2), np.int64)).tolist() == []
    made = sketch(loose_forms(["", "?", "a", "A."]), 0.8)
    assert candidate_pairs(made, None, 0.8).tolist() == [[2, 3]]
    assert isinstance(nothing, Forms)
