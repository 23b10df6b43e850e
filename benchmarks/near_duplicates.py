"""Near-duplicate search: time, memory, recall and precision against MinHash LSH of datasketch and rensa.

    python benchmarks/near_duplicates.py [--rows 100000] [--threshold 0.8] [--datasketch] [--rensa]

Every method runs in its own process on the texts of texts.py. CPU seconds count from the list of texts to the clusters; the
peak is that of the whole process. Recall: share of the planted pairs with a true similarity of at least the threshold that
end in one cluster. Precision: share of the reported pairs with that similarity. True similarities are computed with Python
sets, on up to 50,000 planted and 20,000 reported pairs. datasketch and rensa get 21 bands of 6 (126 permutations), and their
candidates are verified too. The kernels are compiled beforehand; the last line says how long that takes once per
installation.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.texts import KINDS, make_texts
from finetune_pipeline.data.dedup.near_duplicates import components, loose_forms, similarities, sketch, verified_pairs
from finetune_pipeline.data.dedup.text_similarity import grams, loose_form

PLANTED, REPORTED = 50_000, 20_000
BANDS, ROWS = 21, 6


def true_similarities(texts: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Jaccard similarities by Python sets."""
    result = np.zeros(len(pairs))
    for i, (a, b) in enumerate(pairs.tolist()):
        x, y = grams(loose_form(texts[a])), grams(loose_form(texts[b]))
        result[i] = len(x & y) / len(x | y)
    return result


def ours(texts: Sequence[str], threshold: float) -> np.ndarray:
    """This package's search."""
    forms = loose_forms(texts)
    return verified_pairs(sketch(forms, threshold), threshold, lambda rows: [forms[i] for i in rows])[0]


def datasketch(texts: Sequence[str], threshold: float) -> np.ndarray:
    """MinHashLSH of every text against those before it; candidates are verified with sets."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    pairs = []
    for i, text in enumerate(texts):
        minhash = MinHash(num_perm=BANDS * ROWS)
        own = grams(loose_form(text))
        minhash.update_batch([g.encode() for g in own])
        for j in index.query(minhash):
            other = grams(loose_form(texts[j]))
            if len(own & other) / len(own | other) >= threshold - 1e-9:
                pairs.append((j, i))
        index.insert(i, minhash)
    return np.array(pairs, np.int64).reshape(-1, 2)


def rensa(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Signatures by rensa, bands by numpy, verification by this package."""
    from rensa import RMinHash

    signatures = np.empty((len(texts), BANDS * ROWS), np.uint32)
    for start in range(0, len(texts), 4096):
        sets = [[zlib.crc32(gram.encode()) for gram in grams(loose_form(t))] for t in texts[start : start + 4096]]
        hashes = np.array([h for row in sets for h in row], np.uint64)
        offsets = np.concatenate(([0], np.cumsum([len(row) for row in sets])))
        digest = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), BANDS * ROWS, 42)
        signatures[start : start + 4096] = np.asarray(digest.to_rows(), np.uint32)
    encoded_pairs = np.zeros(0, np.int64)
    for band in range(BANDS):
        keys = np.zeros(len(texts), np.uint64)
        for column in signatures[:, band * ROWS : (band + 1) * ROWS].T:
            keys = (keys ^ column) * np.uint64(0xFF51AFD7ED558CCD)
            keys ^= keys >> np.uint64(32)
        order = np.argsort(keys, kind="stable")
        batches, left, distance = [encoded_pairs], np.flatnonzero(keys[order][1:] == keys[order][:-1]), 1
        while len(left) and distance <= 64:
            a, b = order[left], order[left + distance]
            batches.append((np.minimum(a, b) << 32) | np.maximum(a, b))
            distance += 1
            left = left[left + distance < len(texts)]
            left = left[keys[order[left]] == keys[order[left + distance]]]
        encoded_pairs = np.unique(np.concatenate(batches))
    pairs = np.stack([encoded_pairs >> 32, encoded_pairs & 0xFFFFFFFF], 1)
    similarity = similarities(pairs, lambda rows: loose_forms([texts[i] for i in rows]))
    return pairs[similarity >= threshold - 1e-9]


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
    similar = true_similarities(texts, known) >= threshold - 1e-9
    together = labels[known[:, 0]] == labels[known[:, 1]]
    reported = pairs[rng.permutation(len(pairs))[:REPORTED]]
    result: dict[str, float | str] = {
        "method": method,
        "CPU s": cpu,
        "wall s": wall,
        "peak MiB": peak,
        "texts MiB": size,
        "pairs": len(pairs),
        "recall": float(together[similar].mean()),
        "precision": float((true_similarities(texts, reported) >= threshold - 1e-9).mean()),
    }
    for number, kind in enumerate(KINDS):
        result[kind] = float(together[kinds == number].mean())
    return result


def run(method: str, rows: int, threshold: float) -> dict[str, float | str]:
    """Run one method in a new process."""
    command = [sys.executable, __file__, "--method", method, "--rows", str(rows), "--threshold", str(threshold)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def compile_seconds() -> float:
    """CPU seconds of a first search with an empty kernel cache; most of them are compilation."""
    code = (
        "import time\nfrom finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters\n"
        "near_duplicate_clusters(['a', 'b'], 0.8)\nprint(time.process_time())"
    )
    with tempfile.TemporaryDirectory() as folder:
        root, env = Path(__file__).resolve().parents[1], {"NUMBA_CACHE_DIR": folder, "PATH": ""}
        return float(
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=root, env=env).stdout
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--datasketch", action="store_true", help="compare with datasketch (minutes at 100,000 rows)")
    parser.add_argument("--rensa", action="store_true", help="compare with rensa's signatures")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments.method, arguments.rows, arguments.threshold)))
        return

    ours(["two texts", "that compile the kernels"], arguments.threshold)
    methods = ["ours"] + ["rensa"] * arguments.rensa + ["datasketch"] * arguments.datasketch
    results = [run(method, arguments.rows, arguments.threshold) for method in methods]
    base = float(results[-1]["CPU s"])
    print(f"{arguments.rows} rows, {results[0]['texts MiB']:.0f} MiB of text, threshold {arguments.threshold}\n")
    names = [name for name in results[0] if name not in ("method", "texts MiB")]
    print("| method | " + " | ".join(names) + f" | {results[-1]['method']} is slower by |")
    print("|" + "---|" * (len(names) + 2))
    for row in results:
        cells = [f"{row[n]:.{0 if n in ('peak MiB', 'pairs') else 1 if n.endswith(' s') else 4}f}" for n in names]
        print(f"| {row['method']} | " + " | ".join(cells) + f" | {base / float(row['CPU s']):.1f} |")
    print(f"\nkernels compiled from nothing: {compile_seconds():.1f} CPU s")


if __name__ == "__main__":
    main()
