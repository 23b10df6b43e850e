"""The costs that the evaluation report shows: time, memory and tokens so far, and money for requests, a month, and a teacher."""

from collections.abc import Mapping, Sequence

from msgspec.structs import asdict, replace

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.costs import Cost, TeacherMonth, costs
from finetune_pipeline.evaluation.rivals import API_MODEL
from finetune_pipeline.evaluation.sealed_answers import SealedAnswers
from finetune_pipeline.evaluation.winner import TRAINED
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.planning.costs import USUAL_CALLS
from finetune_pipeline.planning.plan import TrainingPlan
from finetune_pipeline.planning.prices import PriceList
from finetune_pipeline.planning.serving_costs import Call, month_by_kind, request_prices
from finetune_pipeline.steps.baseline import simple_costs
from finetune_pipeline.training.facts import Measured


def cost_of(context: StepContext, rows: Sequence[Mapping[str, object]]) -> Cost:
    """Return the costs so far, and the cost of requests at the training plan's prices.

    rows: All predictions on the sealed test.
    """
    plan, endpoint = context.inputs["training_plan"].read(TrainingPlan), context.spec.baseline.endpoint
    names = ("few_shot_baseline", "adapter", "merged_model", "general_ability", "test_predictions")
    measured = {name: context.inputs[name].folder / "measured.json" for name in names}
    times = {name: read_json(file) for name, file in measured.items() if file.exists()}
    steps = {name: Measured.of(step) for name, step in times.items()}
    run_costs = costs(rows, steps)
    prompted_name = API_MODEL if API_MODEL in run_costs.tokens else "base"
    untrained, tuned_name = bool(context.inputs["adapter"].skipped), "candidate"
    if untrained:  # a champion in service may be fine-tuned all the same
        served_model = "champion" if context.run_inputs.champion_kind in TRAINED else prompted_name
        tuned_name = served_model if served_model in run_costs.tokens else prompted_name
    tuned, prompted = (Call(**asdict(run_costs.tokens[name])) for name in (tuned_name, prompted_name))
    served = PriceList.of_served(plan.serving)
    prices = request_prices(served, tuned, prompted, endpoint.model if endpoint else "")
    here = read_hosted(context.inputs["merged_model"].folder) is None and prompted_name == "base"
    month = month_by_kind(served, context.spec.advise.calls_per_month, tuned, prompted) if here else {}
    if untrained:
        prices = []
        if tuned_name == prompted_name:
            month.pop("tuned", None)
    return replace(
        run_costs,
        requests=prices,
        month=month,
        teacher_month=_teacher_month(context, served, tuned, prompted) if here and not untrained else None,
        simple=simple_costs(context.inputs["few_shot_baseline"]),
        milliseconds=times.get("test_predictions", {}).get("milliseconds", {}),
    )


def _teacher_month(context: StepContext, served: PriceList, tuned: Call, prompted: Call) -> TeacherMonth | None:
    """Return what the teacher and the student cost a month; None without a teacher whose price is known."""
    teacher = context.inputs["test_predictions"].read(SealedAnswers).teacher
    declared = context.spec.advise.calls_per_month
    calls = declared or USUAL_CALLS
    month = month_by_kind(served, calls, tuned, prompted)
    if not teacher or not teacher.dollars_per_1k or not month:
        return None
    return TeacherMonth(
        calls=calls,
        is_known=declared is not None,
        teacher=teacher.dollars_per_1k * calls / 1000,
        student=month["tuned"],
    )
