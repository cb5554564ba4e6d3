"""The one step through time, against the plainest loop there is."""

import numpy as np
import pytest
import torch

from chopmark.sequence.products import Linear
from chopmark.sequence.scan import _by_places, scan


def made(lengths, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    a = torch.rand(n, width, generator=generator, dtype=torch.float32)
    x = torch.randn(n, width, generator=generator, dtype=torch.float32)
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)
    return a, x, offsets


def plainly(a, x, offsets):
    rows = []
    for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        h = torch.zeros(a.shape[1])
        for i in range(first, last):
            h = a[i] * h + x[i]
            rows.append(h)
    return torch.stack(rows) if rows else x


@pytest.mark.parametrize("lengths", [[5], [1, 1, 4], [0, 3, 0, 2, 0], [7, 2, 9, 1]])
@pytest.mark.parametrize("way", [scan, _by_places])
def test_states_and_gradients_are_those_of_a_loop(lengths, way):
    a, x, offsets = made(lengths)
    ours = [a.clone().requires_grad_(), x.clone().requires_grad_()]
    theirs = [a.clone().requires_grad_(), x.clone().requires_grad_()]
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    found, expected = way(*ours, offsets), plainly(*theirs, offsets)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        wanted = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(mine.grad, wanted)


def test_no_events_at_all_have_no_states():
    a, x, offsets = made([0, 0])
    assert scan(a, x, offsets).shape == (0, 3)
    assert _by_places(a, x, offsets).shape == (0, 3)


@pytest.mark.parametrize("rows", [3, 600])
def test_products_and_their_gradients_are_those_of_torch(rows):
    generator = torch.Generator().manual_seed(0)
    layer = Linear(24, 40, generator)
    other = torch.nn.Linear(24, 40)
    with torch.no_grad():
        layer.bias.normal_(generator=generator)
        other.weight.copy_(layer.weight), other.bias.copy_(layer.bias)
    x = torch.randn(rows, 24, generator=generator)
    weights = torch.randn(rows, 40, generator=generator)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    (layer(ours).tanh() * weights).sum().backward()
    (other(theirs).tanh() * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.bias.grad, other.bias.grad, rtol=1e-4, atol=1e-4)
