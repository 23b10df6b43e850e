"""Finds near-duplicate texts of a set: MinHash proposes pairs, and their exact Jaccard similarity decides.

Each 5-gram is hashed once. The top 8 bits choose one of 256 bins, and a bin keeps its smallest hash (one-permutation hashing,
Li, Owen and Zhang 2012). A second hash fills empty bins (Dahlgaard, Knudsen and Thorup 2017); the remaining ones borrow from
another bin (densification, Shrivastava 2017). The probability that two texts agree in a bin is their Jaccard similarity. Every
seven bins (at threshold 0.8) make a band key: two texts of similarity s share one of b keys of r bins with probability
1 - (1 - s^r)^b (Leskovec et al., Mining of Massive Datasets, ch. 3). One bit of every bin is kept too. The share of equal bits
estimates (1 + s) / 2 (Li and König 2010), so most pairs that share a key by chance need not be verified.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate, stripper
from finetune_pipeline.data.dedup.text_similarity import NEAR_ENOUGH, SIZE, loose_form, loosened
from finetune_pipeline.data.workers import available_cores

BANDS, BINS = 40, 256
COLUMNS = BANDS + BINS // 32
"""Columns of a sketch: band keys, then one bit per bin."""
_SMALL_BUCKET = 32
"""Rows of the largest bucket whose pairs are all candidates."""
_NEIGHBOURS = 8
"""In larger buckets each row is compared with this many following rows, in an order that differs from band to band."""
_FORESTS = 6
"""In larger buckets a pair is a candidate only while its rows are connected fewer times than this."""
_STANDARD_ERRORS = 3.7
"""How many standard errors the estimated similarity may be below the threshold: one pair in 3,000 is lost."""
_PAIRS_AT_ONCE = 20_000


def loose_forms(
    texts: Sequence[str], boilerplate: Boilerplate | None = None, exact: Sequence[str] | None = None
) -> list[str]:
    """Return the loose forms of texts without their boilerplate. exact: the texts' exact forms, if known."""
    stripped = texts if boilerplate is None else list(map(stripper(boilerplate), texts))
    if exact is None:
        return list(map(loose_form, stripped))
    forms = zip(texts, stripped, exact, strict=True)
    return [loosened(form) if content is text else loose_form(content) for text, content, form in forms]


def bins_per_band(threshold: float) -> int:
    """Return the most bins a band may join such that fewer than one in 10,000 pairs exactly at the threshold is missed."""
    rows = 1
    while rows < 16 and (1 - threshold ** (rows + 1)) ** BANDS < 1e-4:
        rows += 1
    return rows


def sketch(forms: Sequence[str], threshold: float) -> np.ndarray:
    """Compute sketches (uint32, [n, 48]): 40 band keys, then 256 bits of signature. Only sketches for the same threshold are
    comparable."""
    from finetune_pipeline.data.dedup import kernels

    bins_of_a_band = bins_per_band(threshold)
    slot = np.arange(BANDS * bins_of_a_band)
    turn = slot // BINS  # bands take every bin once, then every bin again in another order
    bands = ((slot * (74 * turn + 1) + 11 * turn) % BINS).reshape(BANDS, bins_of_a_band)
    donors = np.random.default_rng(0).permutation(np.arange(1, BINS))
    keys = np.empty((len(forms), BANDS), np.uint32)
    bits = np.empty((len(forms), BINS // 64), np.uint64)
    kernels.sketch_rows(*code_points(forms), bands, donors, keys, bits)
    return np.concatenate([keys, bits.view(np.uint32)], 1)


def code_points(forms: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (code points (uint32) of all forms, the start of each (int64)); short forms are padded with blanks."""
    padded = [form.ljust(SIZE) for form in forms]
    offsets = np.zeros(len(padded) + 1, np.int64)
    np.cumsum([len(p) for p in padded], out=offsets[1:])
    return np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32), offsets


def candidate_pairs(sketches: np.ndarray, threshold: float) -> np.ndarray:
    """Return pairs of rows (int64, [m, 2], first < second, sorted) whose sketches (uint32, [n, 48]) are similar enough.
    Buckets of up to 32 rows with one band key give all their pairs; larger ones (a template with very many rows) give only
    enough to connect every row six times, so the time stays linear."""
    from finetune_pipeline.data.dedup import kernels

    n = len(sketches)
    bits = np.ascontiguousarray(sketches[:, BANDS:]).view(np.uint64)
    most_differing = (_differing_bits(threshold, _STANDARD_ERRORS), _differing_bits(threshold, 0))
    forests = np.tile(np.arange(n, dtype=np.int32), (_FORESTS, 1))
    candidates = [np.zeros(0, np.uint64)]
    with ThreadPoolExecutor(available_cores()) as pool:  # sorting does not hold the interpreter's lock
        for rows, starts in pool.map(lambda band: _buckets(sketches[:, band], band), range(BANDS)):
            sizes = np.diff(starts)
            most_pairs = np.where(sizes > _SMALL_BUCKET, sizes * _NEIGHBOURS, sizes * (sizes - 1) // 2).sum()
            out = np.empty(int(most_pairs), np.uint64)
            count = kernels.pair_up(rows, starts, bits, most_differing, _SMALL_BUCKET, _NEIGHBOURS, forests, out)
            candidates.append(out[:count].copy())
            if sum(map(len, candidates[1:])) > len(candidates[0]) + 1_000_000:
                candidates = [np.unique(np.concatenate(candidates))]
    packed = np.unique(np.concatenate(candidates))
    return np.stack([packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)], 1).astype(np.int64)


def _differing_bits(threshold: float, standard_errors: float) -> int:
    """Return how many of the 256 signature bits of a candidate may differ: the expected number at the threshold plus this
    many standard errors. At similarity s a bit differs with probability p = (1 - s) / 2, so the standard error is
    sqrt(256 p (1 - p))."""
    p = (1 - threshold) / 2
    return min(BINS, int(BINS * p + standard_errors * (BINS * p * (1 - p)) ** 0.5) + 2)


def _buckets(keys: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (int64) that share a key (uint32, [n]): bucket k is ``rows[starts[k]:starts[k + 1]]``. Its order looks random
    and differs from band to band: rows are sorted by ``row * multiplier`` modulo 2^32, and the multiplier is odd."""
    multiplier = (2 * band + 1) * 0x9E3779B1 % 2**32
    order = keys.astype(np.uint64) << np.uint64(32) | np.arange(len(keys), dtype=np.uint32) * np.uint32(multiplier)
    order.sort()
    ordered = order >> np.uint64(32)
    same = ordered[1:] == ordered[:-1]
    shared = np.append(same, False) | np.append(False, same) if len(keys) else same
    rows = (order[shared] & np.uint64(0xFFFFFFFF)).astype(np.uint32) * np.uint32(pow(multiplier, -1, 2**32))
    values = ordered[shared]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.zeros(0, int)
    return rows.astype(np.int64), np.append(starts, len(values)).astype(np.int64)


def similarities(pairs: np.ndarray, forms_of: Callable[[np.ndarray], Sequence[str]]) -> np.ndarray:
    """Compute the Jaccard similarity (float64, [m]) of each pair of rows (int64, [m, 2]), in bounded memory. forms_of: returns
    the loose forms of rows (int64)."""
    from finetune_pipeline.data.dedup import kernels

    similarity = np.empty(len(pairs), np.float64)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        rows, places = np.unique(pairs[part], return_inverse=True)
        kernels.jaccard_pairs(*code_points(forms_of(rows)), places.reshape(-1, 2), similarity[part])
    return similarity


def verified_pairs(
    sketches: np.ndarray, threshold: float, forms_of: Callable[[np.ndarray], Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (pairs (int64, [m, 2], first < second, sorted), their similarity (float64, [m])) at or above the threshold."""
    pairs = candidate_pairs(sketches, threshold)
    similarity = similarities(pairs, forms_of)
    is_similar = similarity >= threshold - NEAR_ENOUGH
    return pairs[is_similar], similarity[is_similar]


def near_duplicate_clusters(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Return the cluster number (int64, [n]) of every text: connected components of the pairs with similarity ≥ threshold."""
    forms = loose_forms(texts)
    index_of_form = {form: i for i, form in enumerate(dict.fromkeys(forms))}
    distinct = list(index_of_form)
    pairs, _ = verified_pairs(sketch(distinct, threshold), threshold, lambda rows: [distinct[i] for i in rows])
    return components(len(distinct), pairs)[[index_of_form[form] for form in forms]]


def components(n: int, pairs: np.ndarray) -> np.ndarray:
    """Return the component number (int64, [n], from 0) of every row in the graph of these pairs (int64, [m, 2])."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not n:
        return np.zeros(0, np.int64)
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    number: np.ndarray = connected_components(graph, directed=False)[1]
    return number.astype(np.int64)
