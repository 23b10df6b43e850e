"""``finetune advise TASK``: prompt, retrieve, use a simple model, collect data first, or fine-tune. Trains nothing."""

import click

from finetune_pipeline.baseline.advice import DECISIONS
from finetune_pipeline.cli.output import DONE, REFUSED, apply_environment, as_json, get_task, tell
from finetune_pipeline.cli.run import make_artifact


@click.command()
@click.argument("task")
@as_json
def advise(task: str) -> int:
    """Say whether TASK is worth fine-tuning, and why: from what prompts, retrieval and models of words do on validation.

    Runs the stages data and baseline if needed, and trains nothing. Exit code 2: the answer is no, or not
    yet.
    """
    loaded = get_task(task)
    apply_environment()
    advice = None
    _, stopped, failed = make_artifact(loaded, "data", "data_quality")
    if not stopped and not failed:
        advice, refused, failed = make_artifact(loaded, "baseline", "advice")
        failed += refused if advice is None else []
    if failed:
        raise click.ClickException("\n".join([*failed, *stopped]))
    if advice:
        result = {**advice.facts["advice"], **{key: advice.facts[key] for key in ("power", "worth_training")}}
    else:
        first = "No model was asked yet: fix this first. `finetune check` lists every affected row."
        sentence = DECISIONS["collect"]
        result = {"decision": "collect", "fine_tune": False, "sentence": sentence, "reasons": [*stopped, first]}
    where = [f"\nfigures and answers: {advice.folder} and its inputs; --json prints the figures"] if advice else []
    headline = f"{loaded.name}: {DECISIONS[result['decision']]}"
    reasons = (f"  - {reason}" for reason in result["reasons"])
    tell({"task": loaded.name, **result}, headline, "", *reasons, *where)
    return DONE if result["fine_tune"] else REFUSED
