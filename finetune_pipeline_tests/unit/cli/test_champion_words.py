"""What is said of the version that serves, beside a verdict."""

from functools import partial

from finetune_pipeline.cli.project import serving_words

words = partial(serving_words, "tickets", kind="tuned", this_version=1, is_refused=False, is_forgotten=False)


def test_a_model_that_serves_although_its_report_refuses_it_is_explained() -> None:
    refused = words(serving=1, is_refused=True)
    assert refused.startswith("version 1, this model. It serves although this report refuses it: ")
    assert "`finetune run tickets` judges it anew, `finetune rollback tickets` returns" in refused
    assert words(serving=1) == "version 1, this model"


def test_a_refused_candidate_beside_another_champion_needs_no_explanation() -> None:
    assert words(serving=1, this_version=2, is_refused=True) == "version 1; this model is version 2"
    assert words(serving=None, is_refused=True) == "none"
    assert words(serving=3, this_version=None, kind="simple").startswith("version 3 (")
