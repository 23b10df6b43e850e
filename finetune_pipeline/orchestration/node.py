"""From one row of a stage's table to a Dagster asset with its checks."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from finetune_pipeline.checks.all import checks_of
from finetune_pipeline.engine.checks import Answer, Check
from finetune_pipeline.orchestration.compute import Compute
from finetune_pipeline.orchestration.materialize import materialize
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.tracking.tracking import Tracking

GPU_POOL = "gpu"
RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@dataclass(frozen=True)
class Node:
    """An asset: its name (also the step's, see engine/step.py), what it depends on, and how the UI shows it.

    `heavy`: runs a model in a child process; takes the one slot of the GPU pool and is tried again after a crash.
    """

    name: str
    deps: Sequence[str]
    description: str
    kinds: Sequence[str]
    group: str
    heavy: bool = False

    def build(self, task: Task) -> dg.AssetsDefinition:
        """The asset of this node for one task, key ``[task, name]``."""
        spec, key = task.spec, dg.AssetKey([task.name, self.name])
        checks = checks_of(self.name)

        @dg.asset(
            key=key,
            deps=[dg.AssetKey([task.name, d]) for d in self.deps],
            description=self.description,
            group_name=self.group,
            kinds=set(self.kinds),
            owners=[spec.owner],
            pool=GPU_POOL if self.heavy else None,
            retry_policy=RETRY if self.heavy else None,
            check_specs=[
                dg.AssetCheckSpec(c.name, asset=key, description=c.description, blocking=c.blocks(spec)) for c in checks
            ],
        )
        def node(
            context: dg.AssetExecutionContext, store: Store, tracking: Tracking, compute: Compute
        ) -> dg.MaterializeResult:
            artifact, metadata = materialize(context, task, self.name, store, tracking, compute)
            return dg.MaterializeResult(
                asset_key=key,
                metadata=metadata,
                data_version=dg.DataVersion(artifact.version),
                check_results=[check_result(c, c.ask(artifact, spec), spec) for c in checks],
            )

        return node


def check_result(check: Check, answer: Answer, spec: TaskSpec) -> dg.AssetCheckResult:
    """What a step tells Dagster of a check."""
    from finetune_pipeline.orchestration.metadata import as_metadata

    return dg.AssetCheckResult(
        check_name=check.name,
        passed=answer.passed,
        description=answer.message,
        severity=dg.AssetCheckSeverity.WARN if answer.warns or check.warns(spec) else dg.AssetCheckSeverity.ERROR,
        metadata=as_metadata(dict(answer.figures)),
    )


def check_event(task: Task, check: Check, answer: Answer) -> dg.AssetCheckEvaluation:
    """What a sensor tells Dagster of a check, outside any run."""
    told = check_result(check, answer, task.spec)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey([task.name, check.step]),
        check_name=check.name,
        passed=told.passed,
        description=told.description,
        severity=told.severity,
        metadata=told.metadata,
    )
