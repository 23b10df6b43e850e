"""Which of the evaluated models is shipped."""

from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.evaluation.winner import winner_of
from finetune_pipeline_tests.unit.evaluation.fake_run import changed, refusal, usual
from finetune_pipeline_tests.unit.evaluation.rows import spec


def test_the_fine_tuned_model_is_shipped_if_it_passes_every_gate():
    gates = decide(spec(), usual())
    assert (winner_of(usual(), gates).kind, winner_of(usual(), gates).name) == ("tuned", "candidate")
    classifier = changed(usual(), {"task.method": "classifier"})
    assert winner_of(classifier, gates).kind == "classifier"
    for refused in ([*gates, refusal()], []):
        assert winner_of(usual(), refused).kind is None
    assert "beats_baseline" in winner_of(usual(), [*gates, refusal()]).why
