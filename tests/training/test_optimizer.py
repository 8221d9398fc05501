"""Optimizers by name: those that can be resumed to the last bit, and one line for the others."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from video_diffusion.settings.training import OptimizerSettings
from video_diffusion.training.optimizer import make_optimizer, optimizer_state, restore_optimizer


def parameters() -> list[nn.Parameter]:
    values = torch.linspace(-1, 1, 32).reshape(4, 8)
    return [nn.Parameter(values.clone()), nn.Parameter(values[0].clone())]


def step(trained: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for parameter in trained:
        parameter.grad = parameter.detach().sin()
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "muon", "prodigy", "lion", "adafactor", "came", "shampoo"])
def test_an_optimizer_goes_on_where_it_was(name: str) -> None:
    settings = OptimizerSettings(name=name, learning_rate=0.01)
    whole = parameters()
    one = make_optimizer(whole, settings)
    for _ in range(7):
        step(whole, one)
    resumed = [nn.Parameter(parameter.detach().clone()) for parameter in whole]
    other = make_optimizer(resumed, settings)
    restore_optimizer(other, *optimizer_state(one))
    for trained, optimizer in ((whole, one), (resumed, other)):
        step(trained, optimizer)
        step(trained, optimizer)
    assert not torch.equal(whole[0], parameters()[0])
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_muon_turns_matrices_and_leaves_the_rest_to_adamw() -> None:
    trained, rest = parameters(), parameters()
    muon = make_optimizer(trained, OptimizerSettings(name="muon", learning_rate=0.01, weight_decay=0.0))
    adamw = make_optimizer(rest, OptimizerSettings(learning_rate=0.01, weight_decay=0.0))
    before = trained[0].detach().clone()
    step(trained, muon)
    step(rest, adamw)
    turn = torch.linalg.svdvals((trained[0].detach() - before) / 0.01)
    assert 0.5 < float(turn[0]) < 1.3  # orthogonalised: of the matrix's rank one, a singular value near 1
    torch.testing.assert_close(trained[1], rest[1])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("moun", "not 'moun'; muon"),
        ("schedulefreeadamw", "keeps two sets of weights"),
        ("lbfgs", "of gradients and a saved state alone it cannot go on"),
        ("stablespam", "a resumed run would not be the unbroken one"),
        ("adammini", "cannot be used here"),
    ],
)
def test_what_cannot_be_resumed_is_refused_in_one_line(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        make_optimizer(parameters(), OptimizerSettings(name=name))
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_most_of_the_library_can_be_resumed() -> None:
    library = pytest.importorskip("pytorch_optimizer")
    usable = 0
    for name in library.get_supported_optimizers():
        with suppress(ValueError):
            make_optimizer(parameters(), OptimizerSettings(name=name))
            usable += 1
    assert usable >= 80
