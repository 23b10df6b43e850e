"""Intervals, tests, agreement and power: small enough to read, tested against scipy, statsmodels and scikit-learn.

One file a job: :mod:`.proportions` (rates, also paired and of rows that share a source), :mod:`.resampling` (F1,
continuous scores), :mod:`.agreement` (raters), :mod:`.multiple_testing` (several hypotheses, several looks), :mod:`.power`
(how many rows).
"""

from finetune_pipeline.evaluation.statistics.agreement import cohens_kappa, kappa_interval
from finetune_pipeline.evaluation.statistics.multiple_testing import holm, level_left, looks_spent, selection_optimism
from finetune_pipeline.evaluation.statistics.power import (
    detectable_mean,
    paired_power,
    rows_needed_for_gain,
    rows_needed_for_mean,
    rows_needed_for_share,
    smallest_detectable_gain,
)
from finetune_pipeline.evaluation.statistics.proportions import (
    Interval,
    cluster_sign_flip,
    clustered_share,
    clustered_tango_interval,
    design_effect,
    mcnemar_exact,
    sign_test,
    tango_interval,
    tango_statistic,
    wilson_interval,
    z_value,
)
from finetune_pipeline.evaluation.statistics.resampling import (
    bootstrap_mean,
    draws_interval,
    paired_bootstrap_f1,
    paired_bootstrap_mean,
    paired_permutation,
)

__all__ = [
    "Interval",
    "bootstrap_mean",
    "cluster_sign_flip",
    "clustered_share",
    "clustered_tango_interval",
    "cohens_kappa",
    "design_effect",
    "detectable_mean",
    "draws_interval",
    "holm",
    "kappa_interval",
    "level_left",
    "looks_spent",
    "mcnemar_exact",
    "paired_bootstrap_f1",
    "paired_bootstrap_mean",
    "paired_permutation",
    "paired_power",
    "rows_needed_for_gain",
    "rows_needed_for_mean",
    "rows_needed_for_share",
    "selection_optimism",
    "sign_test",
    "smallest_detectable_gain",
    "tango_interval",
    "tango_statistic",
    "wilson_interval",
    "z_value",
]
