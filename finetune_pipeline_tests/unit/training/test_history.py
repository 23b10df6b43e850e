"""What the training history says of overfitting."""

import pytest

from finetune_pipeline.training import history
from finetune_pipeline.training.history import LoggedLoss


def _curve(train: list[float], validation: list[float]) -> list[dict[str, float]]:
    """A training loss a step, a validation loss before the first and after every second step."""
    entries = [LoggedLoss(step=0, eval_loss=validation[0])]
    for step, loss in enumerate(train, 1):
        entries.append(LoggedLoss(step=step, loss=loss))
        if step % 2 == 0:
            entries.append(LoggedLoss(step=step, eval_loss=validation[step // 2]))
    return entries


@pytest.mark.parametrize(
    ("train", "validation", "verdict", "best_step"),
    [
        ([2.0, 1.5, 1.0, 0.8, 0.7, 0.6], [2.1, 1.6, 1.2, 1.1], "none", 6),
        ([2.0, 1.5, 1.0, 0.5, 0.2, 0.1], [2.1, 1.6, 1.5, 1.7], "overfitted", 4),
        ([2.0, 1.5, 1.0, 0.5, 0.2, 0.1], [2.1, 1.6, 1.5, 1.6], "turning", 4),
        ([2.0, 1.5, 1.0, 0.9, 1.5, 1.9], [2.1, 1.6, 1.5, 2.0], "unstable", 4),
        ([1.0, 0.9, 0.5, 0.4, 0.2, 0.1], [1.0, 1.2, 1.5, 1.8], "overfitted", 0),
        ([1.0, 1.2, 1.4, 1.9, 3.0, 4.0], [1.0, 1.2, 1.5, 1.8], "unstable", 0),
    ],
)
def test_overfitting_is_validation_up_while_training_goes_down(train, validation, verdict, best_step) -> None:
    result = history.overfitting(_curve(train, validation))
    assert (result.verdict, result.best_step) == (verdict, best_step)
    assert result.last_eval == validation[-1] and result.best_eval == min(validation)
    assert result.rise == pytest.approx(validation[-1] / min(validation) - 1)
