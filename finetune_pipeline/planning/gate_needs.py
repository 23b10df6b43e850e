"""What the gates need of the test set, before any candidate exists: rows, and room above the rivals.

A gate that refuses even a candidate without a mistake is an obstacle: nothing that is trained can be promoted. `check`, `plan`
and `advise` say so, all from here.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.automation import STEPS
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.coverage import coverage_gain, forecast_alone
from finetune_pipeline.evaluation.deciding import MIN_ROWS, margin_of, metrics_of_gains
from finetune_pipeline.evaluation.gates import GATES
from finetune_pipeline.evaluation.metrics import METRICS, Gain, metric_title
from finetune_pipeline.evaluation.metrics.base import Metric
from finetune_pipeline.evaluation.rivals import Rival
from finetune_pipeline.evaluation.statistics.proportions import effective_sources
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.planning.coverage import surest_rival
from finetune_pipeline.spec.model import TaskSpec

ENLARGE = "collect examples or raise split.test"
FIRST_ROWS = 1000
"""What this many rows show, more rows show too, so a larger test is not simulated then."""


@dataclass(frozen=True)
class Obstacle:
    """A gate that no candidate can pass on this test, why, and what to do."""

    gate: str
    reason: str
    to_do: str

    def __str__(self) -> str:
        return f"{self.gate} would refuse every candidate: {self.reason}. To do: {self.to_do}."


def obstacles(
    spec: TaskSpec, test_rows: int, examples: Sequence[Example], rivals: Sequence[Rival] = ()
) -> list[Obstacle]:
    """The gates that refuse even a candidate without a mistake, judged as the first one on a test of this many rows.

    Args:
        examples: Rows like those of the test: all that are known outside it.
        rivals: Measured on validation (rivals.rivals_of). Without any, the rivals are taken to be wrong on every row.
    """
    if not examples or test_rows < 1:
        return []
    sources = {example.id: example.made_from for example in examples}
    unanswered = [_unanswered(spec, example) for example in examples]
    _, units = _like_the_test(unanswered, sources, test_rows)
    independent = effective_sources(units)
    return [
        *_too_few_rows(spec, test_rows, independent),
        *_too_little_room(
            spec, test_rows, rivals or [Rival("a rival without a right answer", 0.0, unanswered)], sources
        ),
        *_too_small_parts(spec, test_rows, examples),
    ]


def refusals(spec: TaskSpec, hindering: Sequence[Obstacle]) -> list[str]:
    """Return the obstacles as sentences, the last of which says what a run does about them; none without an obstacle."""
    trains = "A run trains all the same, unless gates.enough_test_rows is block."
    stops = "A run stops there (gates.enough_test_rows)."
    what_follows = stops if spec.gates.enough_test_rows == "block" else trains
    return [*map(str, hindering), what_follows] if hindering else []


def _too_few_rows(spec: TaskSpec, test_rows: int, independent: float) -> list[Obstacle]:
    """The gates whose own number of rows is not reached; rows that share sources count as `independent` ones."""
    have = counted(test_rows, "row")
    if independent < test_rows * 0.999:
        have += f", which weigh like {independent:,.0f} independent ones"
    obstacles_of_gates = []
    for gate in GATES.values():
        least = gate.least_rows(spec)
        if least is None:
            continue
        if least.rows is None:
            obstacles_of_gates.append(Obstacle(gate.name, "no test can show what it asks for", least.to_do))
        elif least.rows > independent * 1.001:
            needed = f"it takes {counted(least.rows, 'test row')} without a mistake, and the test has {have}"
            obstacles_of_gates.append(Obstacle(gate.name, needed, f"{ENLARGE}, or {least.to_do}"))
    return obstacles_of_gates


def _too_little_room(
    spec: TaskSpec, test_rows: int, rivals: Sequence[Rival], sources: Mapping[str, str]
) -> list[Obstacle]:
    """The gates on gains that a candidate without a mistake would fail against the strongest rival, in each of their metrics."""
    gates, obstacles_of_gates = spec.gates, []
    simple_margin = margin_of(gates.simple, gates.simple_margin)
    margins = {"beats_baseline": gates.min_gain, "beats_simple": simple_margin, "beats_commonest": 0.0}
    for name, margin in margins.items():
        of_gate = [rival for rival in rivals if name in rival.gates]
        if spec.by_coverage and of_gate:
            obstacles_of_gates += _too_little_coverage(spec, name, of_gate, sources, test_rows)
        for metric_name in metrics_of_gains(spec) if of_gate else ():
            metric = METRICS[metric_name]
            strongest = of_gate[0]
            if len(of_gate) > 1:  # to score texts takes long
                strongest = max(of_gate, key=lambda rival: metric.rank(metric.score(rival.rows, spec.output)))
            sizes = {min(test_rows, FIRST_ROWS), test_rows}
            if any(_best_case(spec, metric, strongest.rows, sources, n).surely_above(margin) for n in sorted(sizes)):
                continue
            score = metric.score(strongest.rows, spec.output)
            reached = f"{strongest.title} reaches {percent(score)} in {metric_title(metric_name)}"
            if metric.rank(score) <= 0:
                reached = f"these rows, or those of a rare label, are too few for {metric_title(metric_name)}"
            shown = f"{counted(test_rows, 'test row')} cannot show a candidate without a mistake to be better"
            obstacles_of_gates.append(Obstacle(name, f"{reached}; {shown}", ENLARGE))
    return obstacles_of_gates


def _too_little_coverage(
    spec: TaskSpec, gate: str, rivals: Sequence[Rival], sources: Mapping[str, str], test_rows: int
) -> list[Obstacle]:
    """The gate, if a candidate that answers every row by itself would fail it against the rival that answers most."""
    surest = surest_rival(spec, rivals, sources, test_rows) if len(rivals) > 1 else rivals[0]
    answered = forecast_alone(spec, surest.rows, sources, test_rows)
    alone = {row["example_id"]: by_itself for row, by_itself in zip(surest.rows, answered, strict=True)}
    drawn, units = _like_the_test(surest.rows, sources, test_rows)
    before = [alone[row["example_id"]] for row in drawn]
    best, level = [True] * len(before), 1 - spec.gates.confidence
    if coverage_gain(surest.title, before, best, thresholds=STEPS, level=level, clusters=units).shown:
        return []
    reached = f"{surest.title} answers {percent(sum(before) / len(before))} by itself"
    shown = f"{counted(test_rows, 'test row')} cannot show that a candidate which answers all of them answers more"
    return [Obstacle(gate, f"{reached}; {shown}", ENLARGE)]


def _best_case(spec: TaskSpec, metric: Metric, rival: Sequence[Row], sources: Mapping[str, str], n: int) -> Gain:
    """The gain of a candidate without a mistake over a rival, on a test of `n` rows like the rival's."""
    before, units = _like_the_test(rival, sources, n)
    perfect = [{**row, "text": row["gold"], "status": "ok"} for row in before]
    shared = units if len(set(units)) < len(units) else None
    return metric.gain(before, perfect, spec.output, spec.gates.confidence, shared)


def _too_small_parts(spec: TaskSpec, test_rows: int, examples: Sequence[Example]) -> list[Obstacle]:
    """The globs of gates.parts whose files give the test fewer rows than a part needs."""
    obstacles_of_parts = []
    for pattern in spec.gates.parts:
        share = sum(fnmatch(str(example.source.get("file")), pattern) for example in examples) / len(examples)
        if (rows := round(share * test_rows)) < MIN_ROWS:
            reason = f"{pattern} gives the test about {counted(rows, 'row')}, and {MIN_ROWS} are needed"
            obstacles_of_parts.append(Obstacle("beats_baseline_on_parts", reason, f"{ENLARGE}, or change gates.parts"))
    return obstacles_of_parts


def _unanswered(spec: TaskSpec, example: Example) -> dict[str, object]:
    """The row of a model that gives no answer to the example."""
    gold = str(example.label) if spec.labels else example.answer
    return {"example_id": example.id, "gold": gold, "text": "", "status": "error", "label_scores": []}


def _like_the_test(rows: Sequence[Row], sources: Mapping[str, str], n: int) -> tuple[list[Row], list[Hashable]]:
    """About `n` of these rows, some of them more than once if needed, and the source of each: whole sources, evenly over all
    right answers, as the splits are drawn."""
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (str(row["gold"]), row["text"] != row["gold"], row["example_id"])):
        by_source[sources.get(row["example_id"], row["example_id"])].append(row)
    names = list(by_source)
    wanted = max(1, round(len(names) * n / len(rows)))
    drawn: list[Row] = []
    units: list[Hashable] = []
    for i in range(wanted):
        of_source = by_source[names[int((i + 0.5) * len(names) / wanted)]]
        drawn += of_source
        units += [i] * len(of_source)
    return drawn, units
