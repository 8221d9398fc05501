"""Muon and AdamW together: they move what they should, and resume exactly."""

import torch
from embedded.muon import MuonWithAdamW, trapezoid
from torch import nn


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 2), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(6 * 4, 5))


def step(model: nn.Module, optimizer: MuonWithAdamW, number: int) -> float:
    data = torch.randn(7, 3, 3, 3, generator=torch.Generator().manual_seed(number))
    loss = model(data).square().mean()
    loss.backward()
    optimizer.step(1.0)
    return loss.item()


def test_the_loss_falls_and_every_parameter_moves() -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = MuonWithAdamW([model])
    losses = [step(model, optimizer, 3) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_kernel_steps_as_torchs_own_muon_steps_the_flat_matrix() -> None:
    model = network()
    kernel = model[0].weight
    flat = nn.Parameter(kernel.detach().clone().view(6, -1))
    reference = torch.optim.Muon([flat], lr=3e-3, weight_decay=0.0)
    gradient = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    flat.grad = gradient.view(6, -1).clone()
    kernel.grad = gradient.clone()
    reference.step()
    MuonWithAdamW([model], muon_lr=3e-3).step(1.0, max_grad_norm=1e9)
    assert torch.equal(kernel.view(6, -1), flat)


def test_resuming_continues_bit_for_bit() -> None:
    model = network()
    optimizer = MuonWithAdamW([model])
    for number in range(4):
        step(model, optimizer, number)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    state = optimizer.state_tensors()
    for number in range(4, 8):
        step(model, optimizer, number)
    again = network()
    again.load_state_dict(weights)
    resumed = MuonWithAdamW([again])
    resumed.load_state_tensors(state)
    for number in range(4, 8):
        step(again, resumed, number)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    step(model, MuonWithAdamW([model]), 0)
    assert torch.equal(model[0].weight, before)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    assert trapezoid(0, 1000) == 1 / 25
    assert trapezoid(24, 1000) == trapezoid(599, 1000) == 1.0
    assert trapezoid(800, 1000) == 0.5
    assert trapezoid(1000, 1000) == 0.0
