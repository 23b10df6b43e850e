"""Near-duplicates with verification: time, memory, recall and precision, against MinHash LSH of datasketch and rensa.

    python benchmarks/near_duplicates.py [--rows 100000] [--threshold 0.8] [--datasketch] [--rensa]

Every method works in a process of its own on the texts of texts.py. CPU seconds count from the list of texts to the
clusters; the peak is that of the whole process, interpreter and texts included. Recall: the share of planted pairs with
true similarity at the threshold or above that end in one cluster. Precision: the share of reported pairs that have it.
The truth is computed apart, by Python sets of strings, on up to 50,000 planted and 20,000 reported pairs. datasketch
and rensa get 21 bands of 6 (126 permutations), and their candidates are verified too. The kernels are compiled before, in
a process of their own; how long that takes, once for an installation, is the last line.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.texts import KINDS, make_texts
from finetune_pipeline.data.dedup.near_duplicates import components, loose_forms, similarities, sketch, verified_pairs
from finetune_pipeline.data.dedup.text_similarity import grams, loose_form

PLANTED, REPORTED = 50_000, 20_000
BANDS, ROWS = 21, 6


def true_similarities(texts: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Jaccard similarity by sets of strings."""
    found = np.zeros(len(pairs))
    for i, (a, b) in enumerate(pairs.tolist()):
        x, y = grams(loose_form(texts[a])), grams(loose_form(texts[b]))
        found[i] = len(x & y) / len(x | y)
    return found


def ours(texts: Sequence[str], threshold: float) -> np.ndarray:
    """This package."""
    forms = loose_forms(texts)
    return verified_pairs(sketch(forms, threshold), threshold, lambda rows: [forms[i] for i in rows])[0]


def datasketch(texts: Sequence[str], threshold: float) -> np.ndarray:
    """MinHashLSH, every text against those before it; candidates verified by sets."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    found = []
    for i, text in enumerate(texts):
        sketch = MinHash(num_perm=BANDS * ROWS)
        own = grams(loose_form(text))
        sketch.update_batch([g.encode() for g in own])
        for j in index.query(sketch):
            other = grams(loose_form(texts[j]))
            if len(own & other) / len(own | other) >= threshold - 1e-9:
                found.append((j, i))
        index.insert(i, sketch)
    return np.array(found, np.int64).reshape(-1, 2)


def rensa(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Signatures by rensa, the rest by numpy and by this package's verification."""
    from rensa import RMinHash

    signed = np.empty((len(texts), BANDS * ROWS), np.uint32)
    for start in range(0, len(texts), 4096):
        sets = [[zlib.crc32(gram.encode()) for gram in grams(loose_form(t))] for t in texts[start : start + 4096]]
        hashes = np.array([h for row in sets for h in row], np.uint64)
        offsets = np.concatenate(([0], np.cumsum([len(row) for row in sets])))
        digest = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), BANDS * ROWS, 42)
        signed[start : start + 4096] = np.asarray(digest.to_rows(), np.uint32)
    found = np.zeros(0, np.int64)
    for band in range(BANDS):
        keys = np.zeros(len(texts), np.uint64)
        for column in signed[:, band * ROWS : (band + 1) * ROWS].T:
            keys = (keys ^ column) * np.uint64(0xFF51AFD7ED558CCD)
            keys ^= keys >> np.uint64(32)
        order = np.argsort(keys, kind="stable")
        fresh, left, distance = [found], np.flatnonzero(keys[order][1:] == keys[order][:-1]), 1
        while len(left) and distance <= 64:
            a, b = order[left], order[left + distance]
            fresh.append((np.minimum(a, b) << 32) | np.maximum(a, b))
            distance += 1
            left = left[left + distance < len(texts)]
            left = left[keys[order[left]] == keys[order[left + distance]]]
        found = np.unique(np.concatenate(fresh))
    pairs = np.stack([found >> 32, found & 0xFFFFFFFF], 1)
    likeness = similarities(pairs, lambda rows: loose_forms([texts[i] for i in rows]))
    return pairs[likeness >= threshold - 1e-9]


METHODS: dict[str, Callable[[Sequence[str], float], np.ndarray]] = {
    "ours": ours,
    "rensa": rensa,
    "datasketch": datasketch,
}


def measure(method: str, rows: int, threshold: float) -> dict[str, float | str]:
    """Run one method in this process."""
    planted = make_texts(rows)
    texts = planted.texts
    size = sum(map(len, texts)) / 2**20
    cpu, wall = time.process_time(), time.perf_counter()
    pairs = METHODS[method](texts, threshold)
    labels = components(len(texts), pairs)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(planted.pairs))[:PLANTED]
    known, kinds = planted.pairs[chosen], planted.kinds[chosen]
    alike = true_similarities(texts, known) >= threshold - 1e-9
    together = labels[known[:, 0]] == labels[known[:, 1]]
    reported = pairs[rng.permutation(len(pairs))[:REPORTED]]
    result: dict[str, float | str] = {
        "method": method,
        "CPU s": cpu,
        "wall s": wall,
        "peak MiB": peak,
        "texts MiB": size,
        "pairs": len(pairs),
        "recall": float(together[alike].mean()),
        "precision": float((true_similarities(texts, reported) >= threshold - 1e-9).mean()),
    }
    for number, kind in enumerate(KINDS):
        result[kind] = float(together[kinds == number].mean())
    return result


def run(method: str, rows: int, threshold: float) -> dict[str, float | str]:
    """Run one method in a process of its own."""
    command = [sys.executable, __file__, "--method", method, "--rows", str(rows), "--threshold", str(threshold)]
    answer: dict[str, float | str] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return answer


def compile_seconds() -> float:
    """CPU seconds of a first search in a process with an empty cache, most of which go into compiling."""
    code = (
        "import time\nfrom finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters\n"
        "near_duplicate_clusters(['a', 'b'], 0.8)\nprint(time.process_time())"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={"NUMBA_CACHE_DIR": folder, "PATH": ""},
        )
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--datasketch", action="store_true", help="compare with datasketch (minutes at 100,000 rows)")
    parser.add_argument("--rensa", action="store_true", help="compare with rensa's signatures")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(measure(options.method, options.rows, options.threshold)))
        return

    ours(["compiled here,", "so that no method pays for it"], options.threshold)
    methods = ["ours"] + ["rensa"] * options.rensa + ["datasketch"] * options.datasketch
    results = [run(method, options.rows, options.threshold) for method in methods]
    base = float(results[-1]["CPU s"])
    print(f"{options.rows} rows, {results[0]['texts MiB']:.0f} MiB of text, threshold {options.threshold}\n")
    names = [name for name in results[0] if name not in ("method", "texts MiB")]
    print("| method | " + " | ".join(names) + f" | {results[-1]['method']} is slower by |")
    print("|" + "---|" * (len(names) + 2))
    for row in results:
        cells = [f"{row[n]:.{0 if n in ('peak MiB', 'pairs') else 1 if n.endswith(' s') else 4}f}" for n in names]
        print(f"| {row['method']} | " + " | ".join(cells) + f" | {base / float(row['CPU s']):.1f} |")
    print(f"\nkernels compiled from nothing: {compile_seconds():.1f} CPU s")


if __name__ == "__main__":
    main()
