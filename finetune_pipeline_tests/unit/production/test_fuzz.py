"""Hostile lines through every way in."""

from finetune_pipeline_tests.unit.production.hostile_lines import fuzz


def test_no_hostile_line_crashes_or_is_lost_and_sound_ones_are_kept() -> None:
    for way, tally in fuzz(lines=2000, seed=1, file_lines=1000).items():
        assert tally.good, f"{way}: {tally}"
        assert tally.kept > 200 and tally.refused > 200, "or the test shows little"
