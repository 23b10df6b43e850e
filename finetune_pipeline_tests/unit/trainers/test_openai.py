"""Training at services of OpenAI's protocol: the SDK against a server on this machine."""

import copy
import datetime
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, models_of
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.models.merging import merge
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.trainers import TRAINERS, TrainingOrder, preflight, train
from finetune_pipeline.trainers.chat_file import write_chat_file
from finetune_pipeline.trainers.openai_service import PROFILES, end_findings
from finetune_pipeline.training.facts import training_of
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.service_server import KEY, Reply, Request, refusal
from finetune_pipeline_tests.unit.planning.plans import planned
from finetune_pipeline_tests.unit.trainers.orders import GPT, files_below, interrupt, make_order, make_rows, make_task


def test_the_adapter_of_the_best_checkpoint_comes_back_and_merges(nebius, rows, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FINETUNE_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setitem(PROFILES, "nebius", replace(PROFILES["nebius"], base_url=nebius.url))
    spec = make_task("openai", {"profile": "nebius", "base_url": nebius.url}, learning_rate=3e-4)
    facts = train(make_order(spec, rows, tmp_path))
    (request,) = nebius.asked("POST", "/jobs")
    values = request.json()["hyperparameters"]
    assert [values[key] for key in ("learning_rate_multiplier", "lora_r", "n_epochs")] == [3e-4, 4, 2]
    assert (facts.returns, facts.kept_step, facts.best_eval_loss) == ("weights", 2, 1.1)
    out = tmp_path / "out"
    assert not (out / "endpoint.json").exists() and (out / "adapter/tokenizer.json").exists()
    assert merge(rows / "base", out / "adapter", tmp_path / "merged").merged_tensors == 2
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history == facts.to_json()["history"] and {"step": 2, "eval_loss": 1.1} in history
    assert json.loads((out / "measured.json").read_text())["billed_tokens"] == 4321
    progress = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert any(line.get("loss") == 0.9 and line["step"] == 3 for line in progress)
    assert sum(line["message"] == "Created fine-tuning job [2J for [key]" for line in progress) == 1
    for address in ({"base_url": nebius.url}, {}, {"base_url": f"{nebius.url}/"}):
        train(make_order(make_task("openai", {"profile": "nebius", **address}, learning_rate=3e-4), rows, tmp_path))
        assert len(nebius.jobs) == 1, f"a rerun finds the job, with the usual address written out or not: {address}"
    assert KEY not in json.dumps(facts.to_json()) and KEY.encode() not in b"".join(files_below(tmp_path).values())


@pytest.mark.parametrize("profile", ["nebius", "openai"])
def test_the_graphs_checks_know_what_a_service_cannot_tell(server, nebius, rows, tmp_path, profile) -> None:
    section = {"base_url": (nebius if profile == "nebius" else server).url, "profile": profile}
    spec = make_task("openai", {**section, **(GPT if profile == "openai" else {})})
    facts = json.loads(json.dumps(train(make_order(spec, rows, tmp_path)).to_json()))
    artifact = Artifact("demo", "adapter", "0", tmp_path / "out", facts, {})
    results = {check.name: check.ask(artifact, spec) for check in PIPELINE.steps["adapter"].checks}
    assert {name: r.passed for name, r in results.items() if not r.passed} == {"not_overfitted": False}
    assert "16 rows" in results["supervision"].message and "does not report" in results["learned"].message
    assert training_of(artifact).measured.billed_tokens == 4321
    unfit = Artifact("demo", "plan", "0", tmp_path, planned(fits=False), {})
    plan = PIPELINE.steps["training_plan"].checks[0].ask(unfit, spec)
    assert plan.passed, "this machine's memory does not matter"
    facts["history"] = []
    silent = {check.name: check.ask(artifact, spec) for check in PIPELINE.steps["adapter"].checks}
    assert silent["loss_finite"].warns and silent["learned"].warns and not silent["learned"].passed


def test_a_training_that_diverged_there_is_told_and_its_curve_is_kept(server, order) -> None:
    server.losses = [(2.0, 1.9), (math.nan, math.inf)]
    for _ in range(2):
        with pytest.raises(JobError, match=r"not finite at step 2 of the job ftjob-1"):
            train(order)
    rows = [json.loads(line) for line in (order.work / "history.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 1.9}] and len(server.jobs) == 1


def odd_lists(answer: Any, path: str) -> None:
    """Every list is the same page twice, and names no end."""
    if path.endswith(("/jobs", "/events", "/checkpoints")) and "data" in answer:
        answer["data"] *= 2
        del answer["has_more"]


def odd_others(answer: Any, path: str) -> None:
    """The list has jobs of others, with metadata of any kind."""
    if path.endswith("/jobs") and "data" in answer:
        answer["data"] += [
            {"id": f"ftjob-x{n}", "metadata": kind} for n, kind in enumerate(["text", ["text"], 3, None])
        ]


def odd_checkpoints(answer: Any, path: str) -> None:
    """Checkpoints have no metrics, one has no step, and events have no time."""
    if path.endswith("/checkpoints"):
        answer["data"] = [{**checkpoint, "metrics": None} for checkpoint in answer["data"]]
        answer["data"] += [{**checkpoint, "id": "c0", "step_number": None} for checkpoint in answer["data"][:1]]
    if path.endswith("/events"):
        answer["data"] = [{**event, "created_at": None} for event in answer["data"]]


def odd_states(answer: Any, path: str) -> None:
    """States are spelled in capitals."""
    if "fine_tuned_model" in answer:
        answer["status"] = answer["status"].upper()


def no_events(answer: Any, path: str) -> Reply | None:
    """The server has no events."""
    return refusal(404, "no such route") if path.endswith("/events") else None


@pytest.mark.parametrize("oddity", [odd_states, odd_lists, odd_others, odd_checkpoints, no_events])
def test_an_odd_server_costs_no_second_job_and_no_result(nebius, rows, tmp_path, capsys, oddity) -> None:
    usual, faults = nebius.answer, ["fail after"]

    def answer(request: Request) -> Reply | None:
        reply: Reply | None = usual(request)
        if reply is not None and isinstance(reply.content, dict):
            reply = replace(reply, content=copy.deepcopy(reply.content))
            return oddity(reply.content, request.path) or reply
        return reply

    nebius.answer, nebius.keeps_metadata = answer, False
    nebius.fault = lambda request: faults.pop() if faults and request.path.endswith("/jobs") and request.body else None
    order = make_order(make_task("openai", {"profile": "nebius", "base_url": nebius.url}), rows, tmp_path)
    facts = train(order)
    assert (facts.job, facts.kept_step) == ("ftjob-1", 3 if oddity is odd_checkpoints else 2)
    assert "second job" not in capsys.readouterr().err, "it is one job, listed twice"


def test_the_way_out_is_named_when_the_service_has_deleted_what_was_trained(nebius, rows, tmp_path) -> None:
    usual = nebius.answer
    nebius.answer = lambda request: refusal(404, "gone") if request.path.endswith("/content") else usual(request)
    order = make_order(make_task("openai", {"profile": "nebius", "base_url": nebius.url}), rows, tmp_path)
    for _ in range(2):
        with pytest.raises(JobError, match=r"\(404\): gone\nfix: .* set another training\.seed: .* paid for, again"):
            train(order)
    assert len(nebius.jobs) == 1


def test_a_model_that_stays_there_is_an_endpoint(server, order, tmp_path) -> None:
    facts = train(order)
    assert facts.returns == "endpoint" and not (tmp_path / "out/adapter").exists()
    endpoint = json.loads((tmp_path / "out/endpoint.json").read_text())
    assert endpoint.pop("model") == facts.model and endpoint.pop("base_model") == GPT["model"]
    assert endpoint == {"base_url": server.url, "api_key_env": "OPENAI_API_KEY", "trainer": "openai"}
    (request,) = server.asked("POST", "/jobs")
    values = request.json()["method"]["supervised"]["hyperparameters"]
    assert values == {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": "auto"}


def test_a_job_that_ends_without_a_model_is_told(server: OpenAiJobsServer, order: TrainingOrder) -> None:
    train(order)
    server.jobs["ftjob-1"]["fine_tuned_model"] = None
    with pytest.raises(JobError, match="ftjob-1 .* names no model"):
        train(order)


def test_azure_says_what_to_deploy_and_does_not_buy_again(server, ordered, tmp_path) -> None:
    with pytest.raises(JobError, match="training.openai.deployment"):
        train(ordered({"profile": "azure"}))
    facts = train(ordered({"profile": "azure", "deployment": "tickets"}))
    endpoint = json.loads((tmp_path / "out/endpoint.json").read_text())
    assert endpoint["model"] == "tickets" != facts.model and len(server.jobs) == 1


@pytest.mark.parametrize(("state", "words"), [("failed", "line 3 has no answer"), ("cancelled", "4,321|not known")])
def test_a_failed_job_says_why_and_the_next_run_buys_another(server, order, tmp_path, state, words) -> None:
    server.states = ("queued", state)
    with pytest.raises(JobError, match=words):
        train(order)
    server.states = ("queued", "succeeded")
    assert train(order).job == "ftjob-2"
    (entry,) = [json.loads(p.read_text()) for p in (tmp_path / "home/jobs").glob("*.json")]
    assert [a["job"] for a in entry["attempts"]] == ["ftjob-1", "ftjob-2"] and entry["attempts"][0]["state"] == state


@pytest.mark.parametrize(("billed", "budget"), [(None, 1.9), (None, 2.1), (0, 1.1)])
def test_failed_attempts_count_in_the_budget(server: OpenAiJobsServer, tmp_path: Path, billed, budget: float) -> None:
    """Each attempt is estimated at a dollar; billed: tokens, if the service says so."""
    rows, section = make_rows(tmp_path / "rows"), {**GPT, "base_url": server.url}
    order = make_order(make_task("openai", section, budget_usd=budget), rows, tmp_path)
    tokens = 2 * write_chat_file(tmp_path / "counted.jsonl", read_examples(order.train)).tokens
    order.home.mkdir(parents=True)
    price = (
        f"engine: OpenAI, model: {GPT['model']}, unit: million_tokens, price: {1e6 / tokens}, date: 2026-11-01, note: n"
    )
    (order.home / "prices.yaml").write_text(f"- {{{price}}}\n")
    usual = server._advance

    def advance(job: dict[str, Any]) -> None:
        usual(job)
        if job["status"] == "failed":
            job["trained_tokens"] = billed

    server._advance = advance  # type: ignore[method-assign]
    server.states = ("queued", "failed")
    with pytest.raises(JobError):
        train(order)
    server.states = ("queued", "succeeded")
    if billed is None and budget < 2:
        with pytest.raises(FindingsError, match=r"earlier attempts cost \$1 \(\$2 together\), over \$1.9"):
            train(order)
        assert len(server.jobs) == 1
    else:
        assert train(order).job == "ftjob-2"


def test_who_stops_while_a_request_is_in_doubt_hears_of_it(server, ordered, monkeypatch) -> None:
    server.fault = lambda request: "drop" if request.path.endswith("/jobs") and request.body else None
    monkeypatch.setattr("finetune_pipeline.trainers.ledger.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(ordered())
    assert "may run at OpenAI" in stopped.value.__notes__[0] and "not listed there yet" in stopped.value.__notes__[0]


@pytest.mark.parametrize("when", ["bought", "followed"])
def test_who_stops_twice_hears_what_may_have_been_bought(server, order, monkeypatch, tmp_path, when) -> None:
    """The service hangs, at the purchase and when it is asked for the job."""
    service = "finetune_pipeline.trainers.openai_service.OpenAiService"
    with pytest.raises(KeyboardInterrupt) as stopped, monkeypatch.context() as patch:

        def buy(*_: object) -> None:
            patch.setattr(f"{service}.jobs_named", interrupt)
            raise KeyboardInterrupt

        if when == "bought":
            patch.setattr(f"{service}.buy", buy)
        patch.setattr(f"{service}.cancel", interrupt)
        train(replace(order, tick=interrupt))
    (note,) = stopped.value.__notes__
    (ledger_file,) = (tmp_path / "home" / "jobs").glob("*.json")
    job = json.loads(ledger_file.read_text())["attempts"][0]
    if when == "bought":
        assert f"a job of the name {job['name']} may have been bought" in note and str(ledger_file) in note
    else:
        assert note.startswith(f"the openai training {job['job']} may still run")


@pytest.mark.parametrize("when", ["followed", "asked for"])
def test_an_interrupt_cancels_the_job_and_says_the_cost(server, order, monkeypatch, when) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, monkeypatch.context() as patch:
        if when == "asked for":
            patch.setattr("finetune_pipeline.trainers.ledger.Ledger._recorded", interrupt)
        train(replace(order, tick=interrupt))
    assert server.jobs["ftjob-1"]["status"] == "cancelled"
    words = "120 tokens were billed so far" if when == "followed" else "was cancelled"
    assert words in stopped.value.__notes__[0]
    assert train(order).job == "ftjob-2", "a cancelled job is not adopted"


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "shut down": ({}, {}, "hosted.ended", "train open weights"),
    "over the budget": ({"model": "gpt-4o-mini"}, {"budget_usd": 0.0001}, "hosted.budget", "raise training.budget_usd"),
    "price unknown": (GPT, {"budget_usd": 100}, "hosted.price_unknown", "prices.yaml"),
    "invalid file": (GPT, {}, "hosted.file_row", "shorten or remove this row"),
    "not tunable": ({"model": "gpt-6-luna"}, {}, "hosted.not_tunable", "gpt-4.1-mini"),
    "not offered": ({"profile": "nebius", "model": "org/other"}, {}, "hosted.not_offered", "list of models"),
    "a rate as a factor": ({**GPT, "learning_rate_multiplier": 2e-5}, {}, "hosted.learning_rate", "factor of about"),
    "a factor as a rate": (
        {"profile": "nebius", "learning_rate_multiplier": 2.0}, {}, "hosted.learning_rate", "training.learning_rate"
    ),
    "a rate of unknown meaning": ({**GPT, "profile": "other"}, {}, "hosted.learning_rate", "factor or absolute"),
    "too few rows": (GPT, {}, "hosted.file_rows", "add rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_refused_before_any_upload(server, rows, tmp_path, name) -> None:
    section, training, rule, fix = REFUSALS[name]
    server.models |= {"gpt-4o-mini": None}
    if name == "shut down":
        section, server.models[GPT["model"]] = GPT, "2025-01-31"
    if name == "invalid file":
        rows = make_rows(tmp_path / "long", long=3)
    if name == "too few rows":
        rows = make_rows(tmp_path / "few", 9)
    order = make_order(make_task("openai", {**section, "base_url": server.url}, **training), rows, tmp_path)
    with pytest.raises(FindingsError) as refused:
        train(order)
    (finding,) = refused.value.findings
    assert finding.rule == rule and fix in finding.fix
    if name == "invalid file":
        assert finding.place == "train file, line 3 (from t.jsonl:3)"
    assert not [r for r in server.requests if r.method == "POST"]


def test_functions_count_in_the_price(server: OpenAiJobsServer, tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "tools")
    function = {
        "name": "book",
        "description": "Books a table. " * 2000,
        "parameters": {"type": "object", "properties": {}},
    }
    lines = [json.loads(line) for line in (rows / "train.jsonl").read_text().splitlines()]
    tools = [{"type": "function", "function": function}]
    (rows / "train.jsonl").write_text("".join(json.dumps({**line, "tools": tools}) + "\n" for line in lines))
    server.models |= {"gpt-4o-mini": None}
    section = {"model": "gpt-4o-mini", "base_url": server.url}
    order = make_order(make_task("openai", section, budget_usd=0.5), rows, tmp_path)
    with pytest.raises(FindingsError, match=r"estimated at \$0.7"):  # 12 rows of 10,000 tokens, 2 epochs, $3 a million
        train(order)


def test_preflight_names_every_problem_at_once_and_never_the_key(server, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    private = {"advise": {"private": True}, "base_model": "bundled/smollm2-135m-instruct"}
    spec = make_task("openai", {"base_url": "http://example.org/v1", "deployment": "x"}, private, seed=2**31)
    wrong = {f.rule.removeprefix("hosted.") for f in errors(preflight(spec, tmp_path))}
    assert wrong >= {"model", "address", "private", "key", "deployment", "limit"} and not server.requests
    (refusal,) = errors(preflight(make_task("openai", GPT, method="full"), tmp_path))
    assert refusal.fix == "set training.method: qlora or lora"

    def found(**section: Any) -> list[Finding]:
        return preflight(make_task("openai", {**GPT, "base_url": server.url, **section}), tmp_path)

    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}x")
    (finding,) = errors(found())
    assert finding.rule == "hosted.refused" and "OPENAI_API_KEY" in finding.fix and KEY not in str(finding)
    for damaged in (f"{KEY}\n", f"{KEY}ü", f"Bearer {KEY}"):
        monkeypatch.setenv("OPENAI_API_KEY", damaged)
        (finding,) = errors(found())
        assert finding.rule == "hosted.key" and "OPENAI_API_KEY" in finding.message and KEY not in str(finding)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with monkeypatch.context() as patch:
        moved = Reply(b"", 308, {"Location": "https://example.org/v1/models"})
        patch.setattr(server, "answer", lambda request: moved)
        (finding,) = errors(found())
        assert "redirects to https://example.org" in finding.message and "training.openai.base_url" in finding.fix
    (finding,) = errors(found(base_url="https://a\u200b.example/v1"))
    assert "Invalid IDNA hostname" in finding.message and "correct the address" in finding.fix
    server.models[GPT["model"]] = "soon"
    assert not errors(found()), "no date of an end"
    server.fault = lambda request: "garbage after"
    garbled, unreachable = found(), found(base_url="http://127.0.0.1:9/v1")
    assert garbled and KEY not in str(garbled + unreachable)
    assert not errors(unreachable) and "hosted.unreachable" in {f.rule for f in unreachable}


@pytest.mark.parametrize("trainer", ["openai", "together"])
def test_a_proxy_or_certificates_that_cannot_be_used_are_told(keys, tmp_path, monkeypatch, trainer) -> None:
    section = {**(GPT if trainer == "openai" else {}), "base_url": "https://127.0.0.2/v1"}
    spec = make_task(trainer, section)
    for name, value in {"ALL_PROXY": "socks5://h:1", "HTTPS_PROXY": "ftp://h", "SSL_CERT_FILE": "/none"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            (finding,) = errors(preflight(spec, tmp_path))
            assert "no connection to" in finding.message and name in finding.fix
            endpoint = Endpoint("https://127.0.0.2/v1", "m")
            with pytest.raises(EndpointError, match=f"no connection to m at 127.0.0.2 (?s:.)*fix: .*{name}"):
                models_of(endpoint)


def test_settings_that_a_service_would_not_apply_are_named(nebius: OpenAiJobsServer, tmp_path: Path) -> None:
    lora = {"r": 4, "rslora": True, "target_modules": ["q_proj"]}
    section = {"profile": "nebius", "base_url": nebius.url}
    findings = preflight(make_task("openai", section, lora=lora, over_length="drop", epochs=0.5), tmp_path)
    named = {f.place: f.severity for f in findings if f.rule.startswith("hosted.")}
    assert named == {
        "task.yaml: training.lora.rslora": "error",
        "task.yaml: training.lora.target_modules": "error",
        "task.yaml: training.over_length": "warning",
        "task.yaml: training.epochs": "note",
        "task.yaml: training.budget_usd": "warning",
    }


def test_the_end_of_a_service_warns_and_then_refuses() -> None:
    trainer, profile = TRAINERS["openai"], PROFILES["openai"]
    ends = {
        day: [(f.rule, f.severity) for f in end_findings(trainer, profile, profile.models_end, day)]  # type: ignore[arg-type]
        for day in (datetime.date(2026, 9, 1), datetime.date(2026, 12, 1), datetime.date(2027, 1, 6))
    }
    assert list(ends.values()) == [[], [("hosted.ends_soon", "warning")], [("hosted.ended", "error")]]
