"""Numbers as people read them."""

import math

from finetune_pipeline.evaluation import wording


def test_numbers_read_as_people_write_them() -> None:
    expected = {
        wording.percent: {0.8125: "81.2%", 1: "100%", 0.9999: "99.9%", 0: "0.0%", None: "n/a", math.nan: "n/a"},
        wording.points: {0.123: "+12.3", -0.05: "-5.0", 0.0: "0.0", -0.0001: "0.0", None: "n/a"},
        wording.p_value: {0.034: "0.034", 0.0004: "0.0004", 1e-25: "<0.0001", 1.0: "1.000", None: "n/a"},
        wording.duration: {3.21: "3.2 s", 75.2: "1 min 15 s", 59.7: "1 min 0 s", 7320: "2 h 2 min", None: "n/a"},
        wording.number: {1234567: "1,234,567", 0.5: "0.500", None: "n/a", False: "no", math.inf: "n/a", "x": "x"},
    }
    for write, texts in expected.items():
        assert {value: write(value) for value in texts} == texts, write
    assert wording.percent(True) == wording.percent_range(None) == "n/a"
    assert wording.points_range([-0.08, 0.167]) == "-8.0 to +16.7"
    assert [wording.cut("abcdef", 4), wording.cut("abcd", 4)] == ["abcd […2 more characters]", "abcd"]
    names = ("8_shot", "zero_shot", "3_nearest", "1_nearest", "prompt_2_8_shot", None)
    spoken = ["8-shot", "zero-shot", "3 nearest examples", "nearest example", "prompt 2, 8-shot", "unknown"]
    assert [wording.prompt_name(name) for name in names] == spoken
