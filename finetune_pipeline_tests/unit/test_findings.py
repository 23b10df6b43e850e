"""Lists of findings: equal ones are one line with five places and a count, and a rule has at most five lines."""

from finetune_pipeline.findings import Finding, FindingsError, finding_lines, folded


def finding(line: int, message: str = "it is wrong", rule: str = "data.wrong") -> Finding:
    return Finding(rule, "error", f"raw/a.jsonl:{line}", message, "mend it")


def test_findings_that_differ_in_their_place_are_one_with_five_places_and_the_number_of_the_others() -> None:
    (once,) = folded(finding(i) for i in range(1, 466))
    assert once.place == "; ".join(f"raw/a.jsonl:{i}" for i in range(1, 6)) + " and 460 more"
    assert (once.rule, once.message, once.fix) == ("data.wrong", "it is wrong", "mend it")
    error = FindingsError(finding(i) for i in range(465))
    assert len(error.findings) == 465 and str(error).count("it is wrong") == 1
    assert folded([finding(1), finding(2, "it is worse")]) == [finding(1), finding(2, "it is worse")]


def test_a_rule_with_many_messages_is_folded_after_five_and_hides_no_other_rule() -> None:
    many = [finding(i, f"{i} is no label") for i in range(9)]
    lines = finding_lines([*many, finding(99, rule="data.other")])
    assert lines == [*map(str, many[:5]), str(finding(99, rule="data.other")), "and 4 more of [data.wrong]"]
    assert finding_lines(many[:5]) == [*map(str, many[:5])]
