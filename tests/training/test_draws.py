"""Every draw is a pure function of (seed, step, item), and distributed as the settings say."""

import numpy as np
import pytest

from video_diffusion.settings.training import LossSettings
from video_diffusion.training.objective import draw_step, shifted_level


def test_a_step_can_be_drawn_again_and_no_other_is_like_it() -> None:
    loss = LossSettings()
    again = draw_step(3, 70, 8, loss)
    np.random.seed(1)  # noqa: NPY002  the global state has nothing to say
    assert draw_step(3, 70, 8, loss) == again
    others = [draw_step(3, 71, 8, loss), draw_step(4, 70, 8, loss)]
    seeds = {draw.noise_seed for step in (again, *others) for draw in step}
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_one_noise_level_falls_into_each_part_of_the_schedule() -> None:
    levels = [draw.level for draw in draw_step(0, 5, 20, LossSettings())]
    assert sorted(int(level * 20) for level in levels) == list(range(20))
    assert levels != sorted(levels)


def test_captions_are_dropped_as_often_as_asked() -> None:
    def share(chance: float) -> float:
        draws = [
            d for step in range(50) for d in draw_step(1, step, 40, LossSettings(caption_dropout=chance))
        ]
        return float(np.mean([draw.without_caption for draw in draws]))

    assert share(0.0) == 0 and share(1.0) == 1
    assert share(0.25) == pytest.approx(0.25, abs=0.03)  # 2000 draws: three standard errors


def test_a_shift_favours_high_noise_and_keeps_the_ends() -> None:
    loss = LossSettings(timestep_shift=3.0)
    assert shifted_level(0.0, loss) == 0
    assert shifted_level(0.5, loss) == pytest.approx(0.75)
    assert shifted_level(0.999999999999, loss) < 1
    assert shifted_level(0.3, LossSettings()) == 0.3


def test_the_logit_normal_prefers_the_middle() -> None:
    loss = LossSettings(timestep_sampling="logit_normal")
    levels = [shifted_level((i + 0.5) / 1000, loss) for i in range(1000)]
    assert levels == sorted(levels)
    assert np.mean([0.27 < level < 0.73 for level in levels]) == pytest.approx(0.68, abs=0.01)
    assert 0 < shifted_level(0.0, loss) < shifted_level(1 - 1e-12, loss) < 1
