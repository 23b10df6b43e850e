"""Training, serving and break-even by hand, from a list small enough to check."""

import datetime
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_pipeline.baseline.ladder import Answered
from finetune_pipeline.data.split.placement import expected_rows
from finetune_pipeline.planning.costs import Costs, method_settings, task_costs, training_costs
from finetune_pipeline.planning.needs import parameters_by_name, training_needs
from finetune_pipeline.planning.prices import PriceList, load_prices, newest_price
from finetune_pipeline.planning.serving_costs import (
    FULL_OPERATIONS,
    HOURS,
    LOW_RANK_OPERATIONS,
    Call,
    PassedOn,
    Traffic,
    month_by_kind,
    request_prices,
    rule_of_thumb,
)
from finetune_pipeline.report.costs_page import (
    SHOWN_APIS,
    answer_lines,
    break_even_plot,
    costs_lines,
    costs_page,
    pair_lines,
)
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.report.plots import LETTER, NARROW, WIDE
from finetune_pipeline.spec.baseline import ApiModelSpec
from finetune_pipeline.spec.evaluation import AutomationSpec
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.steps.ladder import _dollars_per_1000_calls
from finetune_pipeline.trainers.hosted_settings import budget_findings, listed_price
from finetune_pipeline.trainers.service import Estimate
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make, make_spec

TODAY = datetime.date(2026, 11, 27)
LIST = """
- {engine: box, model: 8B, unit: hour, price: 1.0, low: 0.5, high: 1.5, parameters: 8.0e+9, tokens_per_second: 1000,
   answered_per_second: 500, answered_low: 100, answered_high: 500, date: 2026-11-01, note: n}
- {engine: Shop, model: tuning, unit: million_tokens, price: 3, date: 2026-01-01, note: n}
- {engine: Shop, model: big, unit: million_served, input: 2, output: 8, date: 2026-11-01, note: n}
- {engine: Shop, model: small, unit: million_served, input: 0.05, output: 0.2, tuned: true, date: 2026-11-01, note: n}
- {engine: Shop, model: gone, unit: million_served, input: 1, output: 1, date: 2026-11-01, until: 2026-11-26, note: n}
"""
TUNED, PROMPTED = Call(200, 50), Call(1000, 50)


@pytest.fixture
def prices(tmp_path: Path) -> PriceList:
    (tmp_path / "prices.yaml").write_text(LIST)
    return load_prices(home=tmp_path)


def made(prices: PriceList, calls: int | None = 100_000, **training: object) -> Costs:
    spec = make_spec(LABELS, {"method": "lora", "epochs": 2, **training})
    return task_costs(spec, prices, Traffic(TUNED, PROMPTED, "8_shot", calls, "a test"), 1_000_000, 8e9, TODAY)


def test_an_api_takes_what_is_read_and_written(prices: PriceList) -> None:
    by_name = {of.name: of for of in made(prices).apis}
    big, small = by_name["Shop, big"], by_name["Shop, small"]
    assert big.per_call == pytest.approx((1000 * 2 + 50 * 8) / 1e6)
    assert big.month == pytest.approx(240) and big.per_million == pytest.approx(2400 / 1050)
    assert small.call == TUNED, "a fine-tuned model needs no examples"
    assert small.per_call == pytest.approx((200 * 0.05 + 50 * 0.2) / 1e6)
    assert made(prices, None).apis[0].month is None


def test_a_pair_costs_the_champion_and_the_apis_share_and_is_compared_with_either_alone(prices: PriceList) -> None:
    spec = make_spec(LABELS, {"method": "lora", "epochs": 2})
    endpoint = ApiModelSpec(url="https://api.example/v1", model="big")
    spec = spec.model_copy(update={"baseline": spec.baseline.model_copy(update={"endpoint": endpoint})})
    measured = [
        PassedOn("tuned", 0.25, "measured on 200 rows of the sealed test"),
        PassedOn("tuned", 0.3, "measured in service on 900 calls of version 3"),
        PassedOn("simple", None, "measured on 200 rows of the sealed test"),
    ]
    traffic = Traffic(TUNED, PROMPTED, "8_shot", 100_000, "a test", passed_on=measured)
    assert not task_costs(spec, prices, traffic, 1_000_000, 8e9, TODAY).pairs, "nothing is passed on without a promise"
    spec = spec.model_copy(update={"automation": AutomationSpec(max_error=0.05)})
    costs = task_costs(spec, prices, traffic, 1_000_000, 8e9, TODAY)
    sealed, served = costs.pairs
    assert (sealed.own, sealed.api_alone, sealed.pair) == pytest.approx((730, 240, 730 + 60))
    assert served.pair == pytest.approx(730 + 72)
    lines = list(pair_lines(costs))
    assert "$240 for 100,000 calls" in lines[0]
    assert "answers 75.0%, Shop, big 25.0% (measured on 200 rows of the sealed test): $790 a month" in lines[1]
    assert "($730 here, $60.00 there); the API alone costs less" in lines[1]
    assert "answers 70.0%, Shop, big 30.0% (measured in service on 900 calls of version 3): $802 a month" in lines[2]
    assert "A simple model where your service runs: no error could be promised" in lines[3]
    partly = task_costs(spec, prices, replace(traffic, passed_on=measured[:1]), 1_000_000, 8e9, TODAY)
    assert [(pair.kind, pair.passed_on) for pair in partly.pairs] == [
        ("tuned", 0.25),
        *(("simple", share) for share in (0.05, 0.2, 0.5)),
    ]
    assert partly.pairs[1].pair == pytest.approx(12), "the service runs anyway"
    lines = list(pair_lines(partly))
    assert "(assumed, until an evaluation has measured it): $12.00 a month" in lines[2]
    assert "the pair costs less" in lines[2]


def test_a_month_of_each_kind_is_the_rent_of_the_machines_it_needs(prices: PriceList) -> None:
    """At 100 tokens a second a call takes 0.6 s with the fine-tuned model and 1 s with the prompt."""
    assert month_by_kind(prices, 10, TUNED, PROMPTED) == {"tuned": HOURS, "prompt": HOURS, "simple": 0.0}
    busy = month_by_kind(prices, 10_000_000, TUNED, PROMPTED)
    assert busy == {"tuned": 3 * HOURS, "prompt": 4 * HOURS, "simple": 0.0}, "4.38 and 2.63 million calls a machine"
    assert month_by_kind(prices, None, TUNED, PROMPTED) == {}
    assert month_by_kind(replace(prices, training=[]), 10, TUNED, PROMPTED) == {}, "no machine is listed"


def test_a_machine_costs_its_rent_and_at_the_break_even_both_bills_are_equal(prices: PriceList) -> None:
    result = made(prices)
    (box,) = result.machines
    assert box.month == (365, 730, 1095)
    seconds = 200 / 2000 + 50 / 500  # it reads twice as fast as it trains
    assert box.calls[1] == pytest.approx(HOURS * 3600 / seconds)
    assert box.calls[0] == pytest.approx(HOURS * 3600 / (200 / 2000 + 50 / 100))
    assert box.per_million["100%"] == pytest.approx(730 / (box.calls[1] * 250) * 1e6)
    assert box.per_million["5%"] == pytest.approx(20 * box.per_million["100%"])
    assert box.utilisation == pytest.approx(100_000 / box.calls[1])
    even = {of.api: of for of in result.break_even}
    assert set(even) == {"Shop, big", "Shop, small"}, "what is not offered any more is nothing to compare with"
    for api in result.apis:
        if api.name in even:
            assert even[api.name].calls[1] * api.per_call == pytest.approx(730)
            assert even[api.name].millions[0] == pytest.approx(even[api.name].calls[0] * 250 / 1e6)
    free = prices.apis[0].model_copy(update={"model": "gpt-4o-mini", "input": 0.0, "output": 0.0})
    rented = prices.machines[0].model_copy(update={"engine": "rented A10G"})
    without = made(replace(prices, training=[rented], apis=[free]))
    assert without.apis[0].month == 0 and without.break_even == [], "nothing is cheaper than what costs nothing"
    assert without.rule_of_thumb[0].startswith("a price of gpt-4o-mini is not in prices.yaml")
    assert even["Shop, small"].calls == pytest.approx([rent / (20 / 1e6) for rent in (365, 730, 1095)])
    steady = prices.machines[0].model_copy(update={"answered_low": None, "answered_high": None})
    (constant,) = made(replace(prices, training=[steady])).machines
    assert constant.calls[0] == constant.calls[1] == box.calls[1]
    assert even["Shop, big"].utilisation < 1 < even["Shop, small"].utilisation, "it would take several machines"


def test_a_machine_serves_a_smaller_model_faster_and_what_was_measured_comes_first(prices: PriceList) -> None:
    spec, traffic = make_spec(LABELS, {"method": "lora"}), Traffic(TUNED, PROMPTED, "8_shot", 100_000, "a test")
    own = prices.machines[0].model_copy(update={"engine": "own", "measured": True, "parameters": 1e9})
    both = replace(prices, training=[*prices.training, own])
    machines = task_costs(spec, both, traffic, 1_000_000, 1e9, TODAY).machines
    assert [machine.name for machine in machines] == ["own", "box"]
    measured, listed = (machine.calls for machine in machines)
    assert listed == pytest.approx([8 * calls for calls in measured]), "the list's speeds are of a model of 8 billion"


def test_the_shipped_list_knows_open_weights_by_the_token_and_no_card_as_fast_as_a_faster_one() -> None:
    shipped = load_prices()
    speeds = {m.engine: (m.answered_low, m.answered_per_second) for m in shipped.machines}
    slow, fast = speeds["rented A10G, 24 GB"], speeds["rented A100, 80 GB"]
    # as their memory bandwidths, 600 and 1555 GB a second
    assert [round(speed * 600 / 1555) for speed in fast if speed] == list(slow)
    open_weights = [price for price in shipped.apis if "open weights" in price.note]
    assert {price.engine for price in open_weights} >= {"Together", "Nebius"} and not any(p.tuned for p in open_weights)
    assert all("https://" in price.note for price in open_weights)


def test_training_by_trainer_and_method(prices: PriceList) -> None:
    costs = {(cost.where, cost.methods): cost for cost in made(prices, unquantized_epochs=0).training}
    shop = costs["Shop, tuning", "the service's own"]
    assert shop.low == shop.high == 6.0 and shop.tokens == 2_000_000
    low_rank = next(cost for (place, names), cost in costs.items() if place == "box, 8B" and "lora" in names)
    full = costs["box, 8B", "full"]
    assert full.hours[0] == pytest.approx(1.5 * low_rank.hours[0], rel=0.01), "every weight is trained"
    assert low_rank.hours[0] < 2e6 / 1000 / 3600 < low_rank.hours[1]


@pytest.mark.parametrize(("epochs", "billed"), [(0.3, 1), (1.0, 1), (1.3, 2), (2.0, 2)])
def test_a_service_is_priced_by_what_it_bills_in_costs_and_in_the_budget(prices, tmp_path, epochs, billed) -> None:
    training = {"epochs": epochs, "unquantized_epochs": 0}
    (shop,) = (cost for cost in made(prices, **training).training if cost.where == "Shop, tuning")
    assert (shop.high, shop.tokens) == (3.0 * billed, 1_000_000 * billed)
    settings = make_spec(LABELS, {"method": "lora", **training}).training
    service: Any = SimpleNamespace(label="Shop", model="tuning", epochs=billed, training=settings)
    assert listed_price(service, 1_000_000, tmp_path, None).dollars == shop.high


def test_a_job_is_priced_by_its_own_services_price_of_tokens(tmp_path: Path) -> None:
    """Neither by another service's price of the same model, nor by the rent of that service's machines."""
    line = "- {{engine: {}, model: tuning, unit: {}, price: {}, date: {}, note: n{}}}\n"
    lines = [("Shop", "million_tokens", 3, "2026-01-01", ""), ("Else", "million_tokens", 1, "2026-11-01", "")]
    lines.append(("Shop", "hour", 2, "2026-11-02", ", tokens_per_second: 100"))
    (tmp_path / "prices.yaml").write_text("".join(line.format(*values) for values in lines))
    training = make_spec(LABELS, {"method": "lora", "epochs": 1, "unquantized_epochs": 0}).training
    service: Any = SimpleNamespace(label="Shop", model="tuning", epochs=1, training=training)
    assert listed_price(service, 1_000_000, tmp_path, None).dollars == 3
    service.label = "Nobody"
    assert listed_price(service, 1_000_000, tmp_path, None).dollars is None


def test_a_job_is_priced_to_the_last_day_of_an_offer(tmp_path: Path) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    training = make_spec(LABELS, {"method": "lora", "epochs": 1, "unquantized_epochs": 0}).training
    service: Any = SimpleNamespace(label="Shop", model="tuning", epochs=1, training=training)
    estimates = []
    for until in (today - datetime.timedelta(1), today + datetime.timedelta(1)):
        line = (
            "- {{engine: Shop, model: tuning, unit: million_tokens, price: 3, date: 2026-01-01, until: {}, note: n}}\n"
        )
        (tmp_path / "prices.yaml").write_text(line.format(until))
        estimates.append(listed_price(service, 1_000_000, tmp_path, None))
    assert [estimate.dollars for estimate in estimates] == [None, 3]
    assert "was valid until" in estimates[0].source


@pytest.mark.parametrize(("budget", "rule"), [(2.5, None), (2.4, "hosted.budget"), (None, None)])
def test_a_budget_covers_job_endpoint_and_earlier_attempts_to_the_cent(tmp_path: Path, budget, rule) -> None:
    findings = budget_findings(budget, Estimate(1.0, "list"), Estimate(1.0, "an hour"), 0.5, tmp_path)
    assert [finding.rule for finding in findings] == ([rule] if rule else [])
    if rule:
        assert (
            "$1, its endpoint at $1 (an hour), earlier attempts cost $0.5 ($2.5 together), over $2.4"
            in findings[0].message
        )


def test_a_price_below_an_older_one_is_the_one_that_counts(tmp_path: Path) -> None:
    line = "- {{engine: Shop, model: {}, unit: million_served, input: {}, output: 1, date: {}, note: n}}\n"
    lines = ("big", 1, "2026-01-01"), ("big", 2, "2026-11-01"), ("big-2026-02-03", 9, "2025-01-01")
    (tmp_path / "prices.yaml").write_text("".join(line.format(*values) for values in lines))
    prices = load_prices(home=tmp_path)
    apis = prices.apis
    names = ("big", "big-2026-05-05", "big-2026-02-03", "bigger")
    assert [price and price.input for price in (newest_price(apis, name) for name in names)] == [2, 2, 9, None]
    endpoint = ApiModelSpec(url="http://localhost/v1", model="big-2026-05-05")
    spec = make_spec(LABELS, {})
    spec = spec.model_copy(update={"baseline": spec.baseline.model_copy(update={"endpoint": endpoint})})
    rung = Answered("api", "api", "The API model", [], PROMPTED)
    assert _dollars_per_1000_calls(spec, prices, rung, None) == pytest.approx(2 + 0.05), (
        "as in the report and in versus"
    )
    offers = request_prices(prices, TUNED, PROMPTED, endpoint.model)
    assert [offer.dollars for offer in offers if offer.evaluated] == [pytest.approx(2 + 0.05)]
    with_box = request_prices(replace(prices, training=load_prices().machines), TUNED, PROMPTED, endpoint.model)
    assert len(with_box) > len(offers) and [o.where for o in with_box if o.evaluated] == ["Shop, big"]


def test_old_missing_and_ended_prices_are_named(prices: PriceList) -> None:
    warnings = made(prices, None, trainer="ray").warnings
    for line in (
        "Shop, tuning: 330 days old: confirm it",
        "Shop, gone: no longer offered since 2026-11-26",
        "prices.yaml has no price for the trainer ray",
    ):
        assert line in warnings
    assert not any("trainer shop" in line for line in made(prices, trainer="shop").warnings)
    assert rule_of_thumb(prices) == ["rented A10G is not in prices.yaml, so the rule of thumb cannot be checked."]
    shipped = " ".join(rule_of_thumb(load_prices()))
    for part in ("$3.75", "$365 to $1,095", "93 to 278 tokens in every paid second"):
        assert part in shipped
    assert "973 million tokens per month, up to 2,920 million: 97 to 584 times" in shipped


def test_the_page_shows_all_of_it(prices: PriceList) -> None:
    for calls in (None, 100_000):
        result = made(prices, calls)
        html, markdown = page_html(costs_page(result)), page_markdown(costs_page(result))
        assert "<svg" in html and "million tokens a month" in html
        for text in ("Shop, big", "Shop, small", "always on", "the service's own", "330 days old"):
            assert text in markdown and text in "\n".join(costs_lines(result))
        assert ("$240" in markdown) is (calls is not None)
        assert ("set advise.calls_per_month or pass --calls-per-month" in html) is (calls is None)
    own = prices.machines[0].model_copy(update={"engine": "mine", "price": 0.0, "low": 0.0, "high": 0.0})
    html = page_html(costs_page(made(replace(prices, training=[own, *prices.training]))))
    assert "a box that is always on" in html, "the plot is of the first machine that costs something"


def test_the_page_begins_with_what_the_traffic_costs_and_which_offer_is_cheapest(prices: PriceList) -> None:
    """100,000 calls of 200 tokens read and 50 written: $2 by the small API, and a month of the box."""
    first, second, *_ = answer_lines(made(prices))
    assert first == "For 100,000 calls a month: $2.00 by Shop, small or $730 on a box, always on."
    assert second.startswith("The cheaper one is by Shop, small.")
    assert next(answer_lines(made(prices, None))).startswith("For 100,000 calls a month"), (
        "where the traffic is unknown"
    )
    many = next(answer_lines(made(prices, 3_000_000_000)))
    boxes = math.ceil(3e9 / made(prices).machines[0].calls[0])
    assert f"${730 * boxes:,.0f} on a box" in many and many.index("by Shop, small") < many.index("on a box")
    assert [api.name for api in made(prices).apis][-1] == "Shop, gone", "what is no longer offered comes last"
    lines, page = costs_lines(made(prices)), page_markdown(costs_page(made(prices)))
    assert lines[0] == first and page.index(first.replace("$", "")[:20]) < page.index("Machine or API")
    nothing = replace(made(prices), machines=[], apis=[])
    assert list(answer_lines(nothing)) == ["The price list has neither an API nor a machine to serve the model."]


def test_the_names_of_the_curves_fit_into_the_plot() -> None:
    traffic = Traffic(TUNED, PROMPTED, "8_shot", None, "a test")
    plot = break_even_plot(task_costs(make_spec(LABELS, {}), load_prices(), traffic, 1_000_000, 1e8, TODAY))
    assert plot is not None
    for svg, width in ((plot.wide, WIDE), (plot.narrow, NARROW)):
        names = re.findall(r'<text [^>]*? x="([\d.]+)"[^>]*>([^<]+)</text>', svg)
        assert len(names) > 10 and all(float(x) + 0.9 * LETTER * len(name) < width for x, name in names[-SHOWN_APIS:])
    assert "DeepInfra, Meta-Llama-3.1-8B-Instruct-Turbo" in plot.wide and "Meta-Llama-3.1-8B-I…" in plot.narrow
    assert "1,000,000" in plot.wide and "1e+06" not in plot.wide


def test_another_method_keeps_what_the_task_sets_and_takes_its_own_defaults() -> None:
    chosen = make_spec(LABELS, {"method": "lora", "epochs": 3, "batch_size": 4, "learning_rate": 0.003})
    assert method_settings(chosen, "lora") is chosen.training
    full = method_settings(chosen, "full")
    assert (full.method, full.epochs, full.batch_size) == ("full", 3, 4)
    assert full.learning_rate == METHODS["full"].defaults["learning_rate"].value
    checkpointed = make_spec(LABELS, {"method": "lora", "gradient_checkpointing": True})
    assert method_settings(checkpointed, "full").gradient_checkpointing is True
    assert method_settings(checkpointed, "prefix").gradient_checkpointing is not True, "it allows none"


def test_both_phases_are_paid(prices: PriceList) -> None:
    """A million tokens an epoch, in 2 epochs and one unquantized; a full training computes half as much again as LoRA."""
    two = make_spec(LABELS, {"method": "qlora", "epochs": 2, "unquantized_epochs": 1})
    costs = training_costs(two, prices, 1_000_000, 8e9, TODAY, ["qlora", "full"])
    on_box = {cost.methods: cost for cost in costs if cost.where.startswith("box")}
    assert {name: cost.tokens for name, cost in on_box.items()} == {"qlora": 3_000_000, "full": 2_000_000}
    per_token = {name: cost.high / cost.tokens for name, cost in on_box.items()}
    assert per_token["full"] == pytest.approx(per_token["qlora"] * FULL_OPERATIONS / LOW_RANK_OPERATIONS, rel=1e-3)
    (service,) = [cost for cost in costs if cost.where.startswith("Shop")]
    assert (service.low, service.high) == (9.0, 9.0), "three epochs of a million tokens for 3 dollars"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bundled/smollm2-135m-instruct", 135e6),
        ("Qwen/Qwen2.5-7B-Instruct", 7e9),
        ("HuggingFaceTB/SmolLM2-1.7B", 1.7e9),
        ("meta/Llama-3.2-1b", 1e9),
        ("models/mine", 0.0),
        ("v100min", 0.0),
    ],
)
def test_a_models_size_is_read_from_its_name(name: str, parameters: float) -> None:
    assert parameters_by_name(name) == parameters


def test_needs_are_those_of_the_training_rows_alone(tmp_path: Path) -> None:
    rows = [make("abcd" * 10, "ef" * 2, line) for line in range(1, 101)]
    spec = make_spec(LABELS, {"method": "lora", "epochs": 2}, min_examples=120)
    (tmp_path / "prices.yaml").write_text(LIST)
    needs = training_needs(spec, rows, tmp_path)
    held_out = sum(expected_rows(spec, rows))
    assert 0 < held_out < 50 and (needs.rows, needs.train_rows) == (100, 100 - held_out)
    assert needs.tokens == pytest.approx(2 * (100 - held_out) * (1 + 40 + 4) / 4, abs=1), (
        "the system prompt has a character"
    )
    first, money = needs.lines()
    assert "20 more are needed to start" in first and f"about {needs.tokens:,} tokens with lora" in first
    assert money.startswith("money: nothing but time here, Shop under $0.01 at most"), "the box takes less than a cent"
    enough = training_needs(make_spec(LABELS, {"method": "lora"}, min_examples=100), rows, tmp_path)
    assert "more are needed" not in enough.lines()[0]
