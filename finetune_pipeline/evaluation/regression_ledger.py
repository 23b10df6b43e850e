"""Records which test rows each evaluated model version has right, and which rows a new version fixes or breaks.

One Parquet file a candidate in ``outcomes/`` of the task's state (columns example_id, candidate, right).
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_pipeline.engine.files import DamagedFile
from finetune_pipeline.evaluation.decisions import NeverBreak
from finetune_pipeline.evaluation.result import EarlierVersion, History, RowsOverVersions
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.spec.outputs import AnyOutput

FOLDER = "outcomes"
SCHEMA = pa.schema([("example_id", pa.string()), ("candidate", pa.string()), ("right", pa.bool_())])
SHOWN = 20


def outcomes_of(rows: Iterable[Mapping[str, object]], output: AnyOutput) -> dict[str, bool]:
    return {row["example_id"]: row.right for row in scored(rows, output)}


def never_broken(listed: Sequence[str], outcomes: Mapping[str, bool]) -> NeverBreak:
    """Which of the listed rows are missing or wrong."""
    return NeverBreak(
        listed=len(listed),
        missing=[i for i in listed if i not in outcomes],
        broken=[i for i in listed if not outcomes.get(i, True)],
    )


def record(state: Path, candidate: str, outcomes: Mapping[str, bool]) -> None:
    """Write one candidate's outcomes atomically."""
    folder = state / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    ids = sorted(outcomes)
    table = pa.table([ids, [candidate] * len(ids), [outcomes[i] for i in ids]], schema=SCHEMA)
    temporary = folder / f".making-{candidate}"  # a killed process leaves it, and the next one overwrites it
    pq.write_table(table, temporary)
    os.replace(temporary, folder / f"{candidate}.parquet")


def recorded(state: Path, candidates: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Outcomes of these candidates, in this order; those without a file are skipped. Raises DamagedFile."""
    outcomes = {}
    for candidate in candidates:
        path = state / FOLDER / f"{candidate}.parquet"
        if path.exists():
            try:
                table = pq.read_table(path, schema=SCHEMA)
            except (OSError, pa.ArrowException) as error:
                why = f"{path} is damaged ({error})\nfix: put back a copy, or remove it: then candidates are not compared with it"
                raise DamagedFile(why) from error
            outcomes[candidate] = dict(zip(table["example_id"].to_pylist(), table["right"].to_pylist(), strict=True))
    return outcomes


def regressions(before: Mapping[str, Mapping[str, bool]], now: Mapping[str, bool]) -> History:
    """Compare the candidate's outcomes with those of earlier candidates, in the order they were judged.

    Counts per earlier candidate over the rows both answered; test rows by how often they were right; and up to SHOWN ids that
    every earlier candidate had right and this one has wrong.
    """
    versions = []
    for name, earlier in before.items():
        pairs = Counter((earlier[i], correct) for i, correct in now.items() if i in earlier)
        versions.append(
            EarlierVersion(
                candidate=name,
                rows=pairs.total(),
                fixed=pairs[False, True],
                broken=pairs[True, False],
                both_right=pairs[True, True],
                both_wrong=pairs[False, False],
            )
        )
    earlier_outcomes = {i: [earlier[i] for earlier in before.values() if i in earlier] for i in now}
    lost = sorted(i for i, correct in now.items() if not correct and earlier_outcomes[i] and all(earlier_outcomes[i]))
    all_outcomes = [[*earlier, now[i]] for i, earlier in earlier_outcomes.items()]
    rows = RowsOverVersions(
        always_right=sum(all(x) for x in all_outcomes),
        never_right=sum(not any(x) for x in all_outcomes),
        changing=sum(any(x) and not all(x) for x in all_outcomes),
    )
    return History(versions=versions, rows=rows, lost=lost[:SHOWN], lost_total=len(lost))
