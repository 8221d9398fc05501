import pytest
import torch
from torch import Tensor

from video_diffusion import GenerationSettings
from video_diffusion.sampling import GuidedWithin


def test_guidance_is_at_work_between_its_ends_alone() -> None:
    def guided(latents: Tensor, timestep: Tensor) -> Tensor:
        return latents + 1

    def prompted(latents: Tensor, timestep: Tensor) -> Tensor:
        return latents

    within = GuidedWithin(guided, prompted, (0.25, 0.75), 400)
    latents = torch.zeros(1, 2, 3, 4, 5)
    found = [float(within(latents, torch.tensor(t)).mean()) for t in (399, 301, 300, 200, 100, 99, 0)]
    assert found == [0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("given", ["0.2-0.8", [0.2, 0.8], (0.2, 0.8)])
def test_an_interval_is_text_or_two_numbers(given: object) -> None:
    settings = GenerationSettings.from_values({"prompt": "a", "guidance_interval": given})
    assert settings.guidance_interval == (0.2, 0.8)
    again = GenerationSettings.from_values(settings.model_dump(mode="json"))
    assert again == settings


@pytest.mark.parametrize("given", ["0.8-0.2", "0.2", [0.2], [0, 2], [True, 1], "a-b", 3, [None, 1]])
def test_anything_else_is_refused_with_the_rule(given: object) -> None:
    with pytest.raises(ValueError, match="two shares from 0 to 1, the lower first"):
        GenerationSettings.from_values({"prompt": "a", "guidance_interval": given})
