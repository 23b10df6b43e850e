from __future__ import annotations

from finetune_pipeline.data.dedup.text_similarity import near_any, similarity


def test_a_text_is_near_when_any_other_reaches_the_threshold() -> None:
    texts = ["the invoice of may is wrong, please look", "a parcel never came to the harbour", "", "short"]
    others = [
        *(f"something else entirely, number {i}" for i in range(3000)),
        "The invoice of May is wrong; please look!",
    ]
    others.append("the parcel never came to a harbour")
    likest = max(similarity(texts[1], o) for o in others)
    assert near_any(texts, others, 0.8) == [True, False, False, False]
    assert near_any(texts, others, likest)[1] and not near_any(texts, others, likest + 0.01)[1]
    assert near_any([], others, 0.8) == [] and near_any(texts, [], 0.8) == [False] * 4
