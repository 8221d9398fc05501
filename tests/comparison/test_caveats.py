"""What a reader must know, said once however many settings it is about."""

from video_diffusion.comparison.summary import Arm
from video_diffusion.comparison.verdict import named, warnings


def arm(label, paired, num_failed=0):
    return Arm(label, label == "base", {}, (), {}, paired, 3, num_failed)


def test_settings_without_the_baselines_noise_share_one_warning():
    arms = [arm("base", True), *(arm(f"noise {i}", False) for i in range(5)), arm("euler", True, 1)]
    told = warnings(arms, (), 20, 0.05)
    assert told[0].startswith(
        "B (noise 0), C (noise 1), D (noise 2) and 2 more are unpaired: their clips start from"
    )
    assert told[1:] == ["G (euler): 1 clip failed, and left out"]
    assert warnings(arms[:2], (), 20, 0.05)[0].startswith("B (noise 0) is unpaired: its clips start from")
    assert warnings([arm("base", True), arm("foreign", None)], (), 20, 0.05) == []


def test_too_few_prompts_are_told_with_how_many_are_enough():
    arms = [arm("base", True), arm("b", True)]
    assert warnings(arms, (), 5, 0.05) == [
        "5 prompts cannot reach 0.05, whatever is seen: add prompts (6 can). 0.05 is how often a difference "
        "may be found where none is"
    ]  # 2/2**5 = 0.0625
    assert warnings(arms, (), 6, 0.05) == []
    assert "1 prompt cannot reach" in warnings(arms, (), 1, 0.05)[0]
    ten = [arms[0], *(arm(str(i), True) for i in range(10))]
    assert "add prompts (9 can)" in warnings(ten, (), 8, 0.05)[0]  # Holm: 10 * 2/2**9 = 0.039


def test_labels_that_hold_commas_are_joined_by_words():
    assert named(["a=1, b=2", "a=1, b=3"]) == "a=1, b=2 and a=1, b=3"
