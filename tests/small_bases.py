"""Image models of the small widths that `motion_files` synthesises temporal layers for."""

import json
from pathlib import Path

from tiny_models import save_tiny_model, tiny_unet
from tiny_xl import POOLED_WIDTH, SECOND_WIDTH, TIME_WIDTH, save_tiny_xl


def save_small_bases(folder: Path) -> dict[int, Path]:
    """Write one like Stable Diffusion 1.x and one like XL, without temporal layers; by number of blocks."""
    save_tiny_model(folder / "sd")
    common = {"layers_per_block": 2, "norm_num_groups": 32, "attention_head_dim": 8}
    tiny_unet("four", block_out_channels=(32, 64, 96, 96), **common).save_pretrained(folder / "sd" / "unet")
    save_tiny_xl(folder / "xl")
    tiny_unet(
        "three",
        block_out_channels=(32, 64, 96),
        cross_attention_dim=12 + SECOND_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * TIME_WIDTH,
        **common,
    ).save_pretrained(folder / "xl" / "unet")
    for name in ("sd", "xl"):
        file = folder / name / "model_index.json"
        index = json.loads(file.read_text())
        del index["motion_adapter"]
        index["_class_name"] = "StableDiffusionPipeline" if name == "sd" else "StableDiffusionXLPipeline"
        file.write_text(json.dumps(index))
    return {4: folder / "sd", 3: folder / "xl"}
