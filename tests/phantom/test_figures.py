"""Means and their errors by hand."""

import dataclasses

import pytest

from hierasurg_core.phantom.figures import Mean, mean_of, means_of


def test_undefined_values_do_not_count():
    assert mean_of([]) == mean_of([None]) == Mean(None, None, 0)
    assert mean_of([None, 2.0]) == Mean(2.0, None, 1)
    found = mean_of([1.0, None, 3.0])
    assert (found.value, found.count) == (2.0, 2)
    assert found.error == pytest.approx(1.0)  # standard deviation 2 ** .5, over 2 ** .5


def test_each_field_has_its_mean():
    @dataclasses.dataclass(frozen=True)
    class Row:
        a: float
        b: float | None

    found = means_of([Row(1.0, None), Row(2.0, 5.0)])
    assert (found["a"].value, found["b"].value, found["b"].count) == (1.5, 5.0, 1)
