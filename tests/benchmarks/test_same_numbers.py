"""Losses and pixels of the main commands are those in benchmarks/results/same_numbers.json."""

import json

import pytest

from benchmarks import same_numbers


@pytest.mark.proof  # trains 400 steps and samples 15 times
def test_losses_and_pixels_are_those_recorded(tmp_path):
    now = same_numbers.measure(tmp_path)
    found = same_numbers.differences(json.loads(same_numbers.RECORD.read_text()), now)
    assert len(found) == 18
    assert {name: apart for name, (_, apart, tolerance) in found.items() if apart > tolerance} == {}
