"""Logarithms and powers of two in integers: their tables, errors and order."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardmask.kernels.fixed_point import (
    exp2,
    exp2_table,
    log2,
    log2_of_float32,
    log2_sum,
    log2_table,
    normalised,
    powers,
    scaled,
)

CPU = torch.device("cpu")
ONE = 1 << 36


def real(fixed):
    return fixed.double() / ONE


def test_tables_are_rounded_from_forty_digits():
    with localcontext() as context:
        context.prec = 40
        two = Decimal(2).ln()
        logarithms = [int((((Decimal(4096 + i) / 4096).ln() / two) * ONE).to_integral_value()) for i in range(4097)]
        exponentials = [int(((two * i / 4096).exp() * 2**40).to_integral_value()) for i in range(4097)]
    assert log2_table(CPU)[0].tolist() == logarithms
    assert exp2_table(CPU)[0].tolist() == exponentials


def test_log2_error_and_order():
    small = torch.arange(1, 100_000)
    large = torch.logspace(5, 15.9, 200_000, dtype=torch.float64).long().unique()
    value = torch.cat([small, large, torch.tensor([2**53 - 1])])
    found = log2(value)
    assert (real(found) - torch.log2(value.double())).abs().max() < 1.1e-8
    assert (found.diff() >= 0).all()
    assert torch.equal(log2(2 ** torch.arange(53)), torch.arange(53) << 36)


def test_log2_of_float32():
    value = torch.cat([torch.logspace(0, 38.5, 100_000), torch.tensor([3.4028235e38])])
    assert (real(log2_of_float32(value)) - torch.log2(value.double())).abs().max() < 1.1e-8
    assert not log2_of_float32(torch.tensor([0.0, 0.99, 1e-45])).any()


def test_exp2_error_and_order():
    exponent = torch.linspace(0, 40, 300_001, dtype=torch.float64).mul(ONE).long()
    found, exact = exp2(exponent).double(), torch.exp2(real(exponent))
    assert ((found - exact).abs() <= 4e-9 * exact + 1).all()
    assert (exp2(exponent).diff() >= 0).all()
    assert exp2(torch.tensor([40, 1, 0, -1, -63, -(2**20)]) << 36).tolist() == [2**40, 2, 1, 0, 0, 0]


@given(st.integers(0, 2**45), st.integers(0, 2**45))
def test_sums_of_powers(one, other):
    x, y = torch.tensor([one]), torch.tensor([other])
    assert abs(float(real(log2_sum(x, y)) - torch.logaddexp2(real(x), real(y)))) < 2e-8
    assert torch.equal(log2_sum(x, y), log2_sum(y, x))


@pytest.mark.parametrize("factor", [-8.0, -0.5, 0.0, 0.25, 1.0, 3.0])
def test_products(factor):
    value = torch.tensor([0, 1, ONE, 1000 * ONE, (2**20 - 1) * ONE])
    assert ((real(scaled(value, factor)) - factor * real(value)).abs() <= 2**-24 * max(1, abs(factor))).all()
    assert scaled(value, 8.0).max() > 0, "no overflow"


@pytest.mark.parametrize("factor", [8.1, float("nan"), float("inf")])
def test_factors_out_of_range(factor):
    with pytest.raises(ValueError, match="-8 to 8"):
        scaled(torch.tensor([0]), factor)


def test_normalised_rows():
    value = torch.tensor([[0, 0, 0], [1, 2, 3], [0, 5, 2**52], [2**37, 2**38 - 1, 0]])
    expected = torch.tensor([[0, 0, 0], [2**36, 2**37, 3 * 2**36], [0, 0, 2**37], [2**37, 2**38 - 1, 0]])
    assert torch.equal(normalised(value, 38), expected)
    assert normalised(torch.zeros(2, 0, dtype=torch.int64), 38).shape == (2, 0)


def test_powers_of_a_row():
    logarithm = torch.tensor([[0, 1, 3, 9], [-5, -5, -6, 100]]) * ONE
    within = torch.tensor([[True, True, True, False]]).expand(2, 4)
    assert powers(logarithm, within, 38).tolist() == [[2**34, 2**35, 2**37, 0], [2**37, 2**37, 2**36, 0]]
    assert not powers(logarithm, within & False, 38).any()
    assert powers(logarithm[:, :0], within[:, :0], 38).shape == (2, 0)
