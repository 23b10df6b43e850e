"""Price lists by hand: speeds, ages, hours of training and the price of a request."""

import datetime
from pathlib import Path

import pytest

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.planning.prices import STALE_DAYS, PriceList, load_prices
from finetune_pipeline.planning.serving_costs import UTILISATIONS, call_on_machine, request_prices
from finetune_pipeline_tests.unit.planning.test_costs import PROMPTED, TUNED, prices

__all__ = ["prices"]


def test_a_list_says_no_speed_that_contradicts_another(tmp_path: Path) -> None:
    box = "- {engine: box, model: 8B, unit: hour, price: 1, tokens_per_second: 9, date: 2026-11-01, note: n%s}"
    for speeds, allowed in (
        ("answered_per_second: 5", True),
        ("answered_per_second: 5, answered_low: 5, answered_high: 5", True),
        ("answered_low: 5", False),
        ("answered_per_second: 5, answered_low: 6", False),
        ("answered_per_second: 5, answered_high: 4", False),
    ):
        (tmp_path / "prices.yaml").write_text(box % f", {speeds}")
        if allowed:
            load_prices(home=tmp_path)
            continue
        with pytest.raises(FindingsError, match="answered_low <= answered_per_second <= answered_high"):
            load_prices(home=tmp_path)


def test_a_machine_trains_a_smaller_model_faster_and_one_of_unknown_size_as_listed(prices: PriceList) -> None:
    """3.6 million tokens take an hour at 1,000 in a second."""
    (box,) = (price for price in prices.training if price.engine == "box")
    for parameters, expected in ((8e9, 1.0), (4e9, 0.5), (16e9, 2.0), (None, 1.0)):
        (low, high), hours = box.of_training(3_600_000, parameters)
        assert hours == pytest.approx((0.63 * expected, 2.5 * expected)), parameters
        assert (low, high) == pytest.approx((0.5 * 0.63 * expected, 1.5 * 2.5 * expected))
    unsized = box.model_copy(update={"parameters": None})
    assert unsized.of_training(3_600_000, 4e9)[1] == pytest.approx((0.63, 2.5))


def test_a_price_is_old_after_its_days_and_not_on_the_last_of_them(prices: PriceList) -> None:
    line = prices.training[0]
    last = line.date + datetime.timedelta(days=STALE_DAYS)
    assert line.warnings(last) == []
    assert line.warnings(last + datetime.timedelta(days=1)) == [f"{STALE_DAYS + 1} days old: confirm it"]


def test_a_thousand_requests_by_hand(prices: PriceList) -> None:
    """The small API reads 200 and writes 50 tokens for $0.00002; an unused half of the box's time is paid too."""
    offers = request_prices(prices, TUNED, PROMPTED)
    (small,) = (offer for offer in offers if offer.where == "Shop, small")
    assert small.dollars == pytest.approx(200 * 0.05e-3 + 50 * 0.2e-3) and small.how == "fine-tuned"
    box = {offer.how: offer.dollars for offer in offers if offer.where == "box"}
    full = box["fine-tuned, always on, 100% in use"]
    assert full == pytest.approx(1000 * call_on_machine(prices.machines[0], TUNED))
    assert sorted(round(full / dollars, 6) for dollars in box.values()) == sorted(UTILISATIONS)
