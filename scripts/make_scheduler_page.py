"""Write `docs/schedulers.md`: which scheduler is right after how many steps on the model that ships.

`python scripts/make_scheduler_page.py` makes four clips of each scheduler and number of steps and reads back
what they show. It goes on from where it was stopped: cells stand in `docs/images/schedulers.json`; delete it
to measure anew (about ten minutes of one core).
"""

import json
import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

sys.path.insert(0, str(Path(__file__).parent))

from embedded.evaluate import sample_scenes
from embedded.prompt_following import judge
from embedded.trainer import EmbeddedSettings

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.procedural import World, caption
from video_diffusion.sampling import SCHEDULERS

DOCS = Path(__file__).resolve().parents[1] / "docs"
CELLS = DOCS / "images" / "schedulers.json"
STEPS = (4, 8, 12, 25)
NUM_CLIPS = 4
REFERENCE = ("ddim", 100)
HEAD = """\
# Schedulers and steps

Made by `python scripts/make_scheduler_page.py` on the model that ships. In each cell: of {num} clips those
that show what was asked for in everything (motion, colour, background, shape and size, by the scene
reader), and how far their pixels are, root mean square in levels of 255, from those of {steps} steps of
DDIM from the same noise. Schedulers that add noise (ddpm, euler_a, dpmpp_sde, lcm) end at other clips of
the same prompt: their distance does not fall to 0.

| scheduler | {columns} |
|---|{rules}|
"""
FOOT = """
The model was trained down to no signal at all (zero terminal SNR, Lin et al. 2023), so its first noise
level is infinite; diffusers writes 4096. Two schedulers take that number at its word: Heun's second-order
correction of a step of 4096 multiplies errors by hundreds, and Karras' spacing spends its few steps where
nothing is to be seen. Here Heun averages the guesses of the clean latents instead of the slopes wherever a
step begins above a level of 80, and Karras' levels begin at 80 (`sampling/from_noise.py`). For models whose
last timestep keeps some signal (Stable Diffusion's ends at 14.6) both are diffusers' own, bit for bit.

Karras' spacing leaves much to each of fewer than {fewest} steps: of 12 other clips 11 were right after 4, 7
after 5, 10 after 6 and 12 after 7 (ddim: 10 after 4, 11 after 5). `generate` warns below {fewest}.
"""


def clips(
    pipeline: TextToVideoPipeline, prompts: list[str], scheduler: str, steps: int
) -> list[UInt8[np.ndarray, "f h w 3"]]:
    """One clip of every prompt, the same noise for every scheduler."""
    asked = [
        GenerationSettings.from_values(
            {"prompt": prompt, "seed": 1000 + i, "scheduler": scheduler, "num_inference_steps": steps}
        )
        for i, prompt in enumerate(prompts)
    ]
    return [decoded.frames for decoded in pipeline.generate_frames(asked)]


def measured() -> dict[str, dict[str, float]]:
    """Every cell, by "scheduler steps"; what is known already is not measured again."""
    cells: dict[str, dict[str, float]] = json.loads(CELLS.read_text()) if CELLS.exists() else {}
    wanted = [(name, steps) for name in SCHEDULERS for steps in STEPS if f"{name} {steps}" not in cells]
    if not wanted:
        return cells
    pipeline, own = (
        TextToVideoPipeline.from_pretrained("embedded", "teacher", device="cpu"),
        EmbeddedSettings(),
    )
    world = World(shapes=tuple(own.shapes), motions=tuple(own.motions))
    scenes, rng = sample_scenes(world, NUM_CLIPS, 32), np.random.default_rng(99)
    prompts = [caption(scene, rng) for scene in scenes]
    truth = np.stack(clips(pipeline, prompts, *REFERENCE)).astype(float)
    for name, steps in wanted:
        frames = clips(pipeline, prompts, name, steps)
        right = sum(judge(scene, clip).joint for scene, clip in zip(scenes, frames, strict=True))
        distance = float(np.sqrt(np.mean((np.stack(frames) - truth) ** 2)))
        cells[f"{name} {steps}"] = {"right": right, "of": NUM_CLIPS, "distance": round(distance, 1)}
        CELLS.write_text(json.dumps(cells, indent=1) + "\n")
        print(f"{name}, {steps} steps: {right} of {NUM_CLIPS} right, {distance:.1f} levels")
    return cells


def page(cells: dict[str, dict[str, float]]) -> str:
    """The whole page."""
    rows = []
    for name in SCHEDULERS:
        found = [cells[f"{name} {steps}"] for steps in STEPS]
        values = [f"{cell['right']} of {cell['of']} · {cell['distance']}" for cell in found]
        rows.append(f"| `{name}` | {' | '.join(values)} |")
    columns = " | ".join(f"{steps} steps" for steps in STEPS)
    head = HEAD.format(
        num=NUM_CLIPS, steps=REFERENCE[1], columns=columns, rules="|".join("---" for _ in STEPS)
    )
    return head + "\n".join(rows) + "\n" + FOOT.format(fewest=SCHEDULERS["dpmpp_2m_karras"].fewest_steps)


if __name__ == "__main__":
    (DOCS / "schedulers.md").write_text(page(measured()))
