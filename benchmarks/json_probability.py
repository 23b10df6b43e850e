"""How well the span tagger's probabilities of JSON answers tell right answers from wrong ones: product or least of the fields.

    python -m benchmarks.json_probability [--public FOLDER]

Sets: the shipped orders, and with --public three intents of Snips, whose slots are the fields (the first value of each). Half of
the rows, at most 2,500, train; two tenths are validation, on which the probability of the whole answer is calibrated; three tenths
are sealed. `auroc`: how often a right answer has a higher probability than a wrong one. `error`: calibration error before and
after. `fields` are those of the same answers, each by itself, uncalibrated.

Measures: finetune_pipeline/evaluation/simple_models.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.example_sets import example_set
from finetune_pipeline.evaluation.calibration import fit_calibration
from finetune_pipeline.evaluation.probabilities import Answers, reliability
from finetune_pipeline.evaluation.simple_models.tagger import TaggerAndLinear
from finetune_pipeline.spec.outputs import JsonOutput

INTENTS = ("BookRestaurant", "GetWeather", "PlayMusic")
MOST_ROWS = 2_500
Pair = tuple[str, str]
WAYS: dict[str, Callable[[list[float]], float]] = {"product": lambda shares: float(np.prod(shares)), "least": min}


def slots(folder: Path) -> Iterator[Pair]:
    """Yield text and slots of the messages of one intent."""
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_bytes().decode("utf-8", "replace"))[folder.name]:
            values = {part["entity"]: part["text"].strip() for part in reversed(row["data"]) if "entity" in part}
            yield "".join(part["text"] for part in row["data"]).strip(), json.dumps(values)


def report(name: str, pairs: Sequence[Pair]) -> None:
    """Fit, calibrate and measure, and print a line for each way."""
    rows = random.Random(0).sample(pairs, min(len(pairs), MOST_ROWS))
    train, validation, test = np.split(np.array(rows, object), [len(rows) // 2, len(rows) * 7 // 10])
    model = TaggerAndLinear().fit(*map(list, zip(*train, strict=True)), JsonOutput(json_schema={"type": "object"}))

    def answered(rows: np.ndarray) -> tuple[list[dict[str, float]], np.ndarray, list[tuple[float, bool]]]:
        texts, gold = [text for text, _ in rows], [json.loads(answer) for _, answer in rows]
        shares, answers = model.field_probabilities(texts) or [], list(map(json.loads, model.predict(texts)))
        fields = [
            (share, answer.get(name) == right.get(name))
            for table, answer, right in zip(shares, answers, gold, strict=True)
            for name, share in table.items()
        ]
        return shares, np.array([a == b for a, b in zip(answers, gold, strict=True)]), fields

    asked, asked_right, _ = answered(validation)
    sealed, right, fields = answered(test)
    for way, whole in WAYS.items():
        calibration = fit_calibration(np.array([whole([*table.values()]) for table in asked]), asked_right)
        answers = Answers(np.array([whole([*table.values()]) for table in sealed]), right)
        before, after = reliability(answers), reliability(answers.calibrated(calibration))
        assert before and after and before.ece is not None and after.ece is not None
        auroc = roc_auc_score(right, answers.probabilities)
        print(f"{name:15} {way:8} {len(right):5} {right.mean():6.1%} {auroc:6.3f} {before.ece:7.3f} {after.ece:6.3f}")
    given, judged = map(np.array, zip(*fields, strict=True))
    said = reliability(Answers(given, judged))
    assert said and said.ece is not None
    print(
        f"{name:15} {'fields':8} {len(given):5} {judged.mean():6.1%} {roc_auc_score(judged, given):6.3f} {said.ece:7.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path)
    public = parser.parse_args().public
    print(f"{'set':15} {'way':8} {'n':>5} {'right':>6} {'auroc':>6} {'error':>7} {'after':>6}")
    report("order_intake", [(e.user_text, e.answer) for e in example_set("order_intake", Path()).rows])
    for intent in INTENTS if public else ():
        report(intent, sorted(dict(slots(public / "snips" / intent)).items()))


if __name__ == "__main__":
    main()
