"""Acceleration comes off without a trace."""

import torch
from small_passes import video_unet
from torch import nn

from video_diffusion.acceleration import accelerate_unet


def test_detaching_leaves_every_module_as_it_was_found() -> None:
    model = video_unet(torch.float32)
    before = [dict(vars(module)) for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    keys = list(model.state_dict())
    acceleration = accelerate_unet(model)
    assert [dict(vars(module)) for module in model.modules()] != before
    assert list(model.state_dict()) == keys
    assert acceleration.detach() is model
    after = [dict(vars(module)) for module in model.modules()]
    assert [set(each) for each in after] == [set(each) for each in before]
    assert all(
        new["processor"] is old["processor"]
        for new, old in zip(after, before, strict=True)
        if "processor" in old
    )
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks


def test_a_module_that_runs_another_forward_keeps_it() -> None:
    model = video_unet(torch.float32)
    layer = next(module for module in model.modules() if type(module) is nn.Linear)
    own = layer.forward = lambda hidden_states: hidden_states  # as accelerate's offloading does
    accelerate_unet(model).detach()
    assert layer.forward is own
