"""Small image models written in Stable Diffusion's original layout, name by name from its own code.

Sources: CompVis' `openaimodel.py` and `model.py` (autoencoder), OpenCLIP's `transformer.py`.
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tiny_models import randomised, tiny_tokenizer, tiny_unet, tiny_vae
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip


OPEN_CLIP = {
    "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def small_unet(kind: str) -> UNet2DConditionModel:
    """The real number of blocks and layers, the real width of text, few channels."""
    cross, plain, up, plain_up = (
        "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D",
    )  # fmt: skip
    common = {"layers_per_block": 2, "norm_num_groups": 32}
    if kind == "sdxl":
        return tiny_unet(
            "three",
            down_block_types=(plain, cross, cross), up_block_types=(up, up, plain_up),
            block_out_channels=(32, 64, 96), cross_attention_dim=2048, attention_head_dim=(1, 1, 1),
            transformer_layers_per_block=(1, 2, 3), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=40 + 6 * 8, sample_size=128, **common,
        )  # fmt: skip
    return tiny_unet(
        "four",
        block_out_channels=(32, 64, 96, 96), cross_attention_dim={"sd1": 768, "sd2": 1024}[kind],
        attention_head_dim=8 if kind == "sd1" else (1, 1, 1, 1), use_linear_projection=kind == "sd2",
        sample_size=64 if kind == "sd1" else 96, **common,
    )  # fmt: skip


def small_vae(kind: str) -> AutoencoderKL:
    """Two levels of the real four."""
    scaling = 0.13025 if kind == "sdxl" else 0.18215
    size = {"sd1": 512, "sd2": 768, "sdxl": 1024}[kind]
    return tiny_vae(
        block_out_channels=(32, 64), layers_per_block=2, norm_num_groups=32, scaling_factor=scaling,
        sample_size=size,
    )  # fmt: skip


def small_text_encoder(width: int, layers: int, projection: int | None, gelu: str) -> CLIPTextModel:
    """The real width, few layers and words."""
    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=24, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=16, projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=1,
        hidden_act=gelu,
    )  # fmt: skip
    torch.manual_seed(6)
    return randomised((CLIPTextModelWithProjection if projection else CLIPTextModel)(config)).eval()


def unet_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """Every module of the U-Net, and what the original calls it."""
    levels = len(unet.config.block_out_channels)
    names = {
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    for level in range(levels):
        for layer in range(2):
            names[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{3 * level + layer + 1}.0"
            names[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{3 * level + layer + 1}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{3 * level + 3}.0.op"
        for layer in range(3):
            names[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{3 * level + layer}.0"
            names[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{3 * level + layer}.1"
        place = 2 if "CrossAttn" in unet.config.up_block_types[level] else 1
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{3 * level + 2}.{place}.conv"
    return names


def vae_names(levels: int) -> dict[str, str]:
    names = {}
    for side in ("encoder", "decoder"):
        names |= {
            f"{side}.conv_norm_out": f"{side}.norm_out", f"{side}.mid_block.resnets.0": f"{side}.mid.block_1",
            f"{side}.mid_block.resnets.1": f"{side}.mid.block_2",
            f"{side}.mid_block.attentions.0": f"{side}.mid.attn_1",
        }  # fmt: skip
    for level in range(levels):
        for layer in range(3):
            down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
            names[f"{down}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
            names[f"{up}.resnets.{layer}"] = f"decoder.up.{levels - 1 - level}.block.{layer}"
        names[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        names[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = (
            f"decoder.up.{levels - 1 - level}.upsample.conv"
        )
    return names


def original(
    state: dict[str, Tensor], names: dict[str, str], prefix: str, inner: dict[str, str]
) -> dict[str, Tensor]:
    """Rename a state dict: the longest module name that fits, then names inside of it."""
    written = {}
    for name, tensor in state.items():
        fitting = max((place for place in names if name.startswith(f"{place}.")), key=len, default="")
        rest = name[len(fitting) :].lstrip(".")
        head, _, tail = rest.partition(".")
        renamed = f"{inner.get(head, head)}.{tail}" if tail else rest
        is_attention = fitting.endswith(("attentions.0", "attentions.1", "attentions.2"))
        use = rest if is_attention and inner is RESNET else renamed
        written[prefix + ".".join(filter(None, (names.get(fitting, ""), use)))] = tensor
    return written


def original_vae(vae: AutoencoderKL) -> dict[str, Tensor]:
    inner = {
        "conv_shortcut": "nin_shortcut",
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out": "proj_out",
    }
    state = {name.replace("to_out.0.", "to_out."): tensor for name, tensor in vae.state_dict().items()}
    written = original(state, vae_names(len(vae.config.block_out_channels)), "first_stage_model.", inner)
    is_linear = (".attn_1.q.", ".attn_1.k.", ".attn_1.v.", ".attn_1.proj_out.")
    return {
        name: tensor[:, :, None, None] if tensor.ndim == 2 and any(p in name for p in is_linear) else tensor
        for name, tensor in written.items()
    }


def original_clip(encoder: CLIPTextModel, prefix: str) -> dict[str, Tensor]:
    state = {
        f"{prefix}text_model.{k.removeprefix('text_model.')}": v for k, v in encoder.state_dict().items()
    }
    return state | {f"{prefix}text_model.embeddings.position_ids": torch.arange(16)[None]}


def original_open_clip(encoder: CLIPTextModel, prefix: str, spare_layers: int) -> dict[str, Tensor]:
    """OpenCLIP keeps queries, keys and values in one matrix, and its projection the other way around."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    width = encoder.config.hidden_size
    written = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "text_projection": state["text_projection.weight"].T
        if "text_projection.weight" in state
        else torch.eye(width),
        "logit_scale": torch.tensor(4.6),
    }
    for part in ("weight", "bias"):
        written[f"ln_final.{part}"] = state[f"final_layer_norm.{part}"]
    for layer in range(encoder.config.num_hidden_layers + spare_layers):
        theirs, block = (
            f"encoder.layers.{min(layer, encoder.config.num_hidden_layers - 1)}",
            f"transformer.resblocks.{layer}",
        )
        for part in ("weight", "bias"):
            attention = [state[f"{theirs}.self_attn.{name}_proj.{part}"] for name in "qkv"]
            written[f"{block}.attn.in_proj_{part}"] = torch.cat(attention)
            for ours, name in OPEN_CLIP.items():
                written[f"{block}.{ours}.{part}"] = state[f"{theirs}.{name}.{part}"]
    return {prefix + name: tensor for name, tensor in written.items()}


def original_unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return original(unet.state_dict(), unet_names(unet), "model.diffusion_model.", RESNET)
