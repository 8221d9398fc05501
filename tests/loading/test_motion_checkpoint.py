"""Every published kind of temporal layers, told by its tensors, read, and written again bit for bit."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter as DiffusersMotionAdapter
from motion_files import SHAPES, published, published_file, sinusoids, stored_bits
from safetensors.torch import load_file, save_file
from tiny_models import tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion.loading import (
    FAMILIES,
    ModelLoadError,
    detect,
    read_motion_checkpoint,
    write_original_layout,
)
from video_diffusion.models import MotionAdapter

pytestmark = pytest.mark.filterwarnings("ignore:The config attributes")


QUICK = {"animatediff-v1", "animatediff-v2", "pia", "hotshot-xl", "animatelcm"}


def fields(adapter: MotionAdapter) -> str:
    """The configuration, tuples and lists alike."""
    return json.dumps({k: v for k, v in adapter.config.items() if k[0] != "_"}, sort_keys=True)


@pytest.mark.parametrize("family", SHAPES)
def test_a_family_is_told_from_names_and_shapes(tmp_path: Path, family: str) -> None:
    found = detect(published_file(tmp_path, family))
    widths, mid, positions = SHAPES[family]
    assert found.family == family
    assert found.config["block_out_channels"] == widths
    assert found.config["use_motion_mid_block"] is mid
    assert found.config["motion_max_seq_length"] == positions
    assert found.config.get("conv_in_channels") == (9 if family == "pia" else None)
    assert found.config["resnet_norm_scope"] == ("clip" if family == "animatediff-v1" else "frame")
    assert (found.layout.num_attentions, found.config["motion_layers_per_block"]) == (2, 2)
    kind = FAMILIES[family]
    assert found.schedule["beta_end"] == (0.02 if family == "animatediff-sdxl" else 0.012)
    assert found.schedule["beta_schedule"] == ("scaled_linear" if len(widths) == 3 else "linear")
    assert found.defaults["num_inference_steps"] == kind.defaults["num_inference_steps"]


@pytest.mark.parametrize(
    "family",
    [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in SHAPES],
)
def test_round_trips_are_exact(tmp_path: Path, family: str) -> None:
    """Original -> ours -> diffusers -> ours -> original, every bit."""
    file = published_file(tmp_path, family)
    stored = load_file(file)
    adapter = read_motion_checkpoint(file)
    assert not adapter.training
    adapter.save_pretrained(tmp_path / "diffusers")
    reference = DiffusersMotionAdapter.from_pretrained(tmp_path / "diffusers")
    assert stored_bits(reference) == stored_bits(adapter)
    again = read_motion_checkpoint(tmp_path / "diffusers")
    assert stored_bits(again) == stored_bits(adapter)
    assert again.config.family == adapter.config.family == family
    write_original_layout(again, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    hotshot = {k.replace("temporal_attentions.", "motion_modules."): v for k, v in stored.items()}
    for name, tensor in stored.items() if family != "hotshot-xl" else hotshot.items():
        written = re.sub(r"(motion_modules\.\d\.)(?!temporal_t)", r"\1temporal_transformer.", name)
        assert torch.equal(back[written.replace("positional_encoding", "pe")], tensor), name
    assert set(back) - set(stored) <= {n for n in back if family == "hotshot-xl" or "pos_encoder.pe" in n}
    last = read_motion_checkpoint(tmp_path / "back.safetensors")
    assert stored_bits(last) == stored_bits(adapter)
    assert fields(last) == fields(adapter) == fields(again)


def test_the_stored_precision_is_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    dtype = torch.bfloat16
    file = tmp_path / "half.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in published("animatediff-v3").items()}, file)
    assert {p.dtype for p in read_motion_checkpoint(file).parameters()} == {dtype}
    assert {p.dtype for p in read_motion_checkpoint(file, torch.float32).parameters()} == {torch.float32}
    read_motion_checkpoint(file).save_pretrained(tmp_path / "folder")
    assert {p.dtype for p in read_motion_checkpoint(tmp_path / "folder").parameters()} == {dtype}


def test_positions_that_a_file_lacks_are_computed(tmp_path: Path) -> None:
    adapter = read_motion_checkpoint(published_file(tmp_path, "animatelcm"))
    table = adapter.state_dict()["down_blocks.1.motion_modules.0.transformer_blocks.0.pos_embed.pe"]
    assert torch.allclose(table, sinusoids(64, 64), atol=1e-5)
    assert adapter.max_num_frames == 64


def test_diffusers_own_file_without_a_configuration_is_read(tmp_path: Path) -> None:
    """As AnimateDiff-Lightning is published."""
    torch.manual_seed(2)
    reference = DiffusersMotionAdapter(block_out_channels=(32, 64, 96, 96))
    save_file(reference.state_dict(), tmp_path / "animatediff_lightning_8step_diffusers.safetensors")
    file = tmp_path / "animatediff_lightning_8step_diffusers.safetensors"
    found = detect(file)
    assert (found.layout.layout, found.family) == ("diffusers", "animatediff-lightning")
    assert found.defaults["num_inference_steps"] == 8
    assert stored_bits(read_motion_checkpoint(file)) == stored_bits(reference)


def test_animatelcm_from_the_hub_is_told_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "models--wangfuyun--AnimateLCM" / "snapshots" / "abc"
    DiffusersMotionAdapter(block_out_channels=(32, 64, 96, 96)).save_pretrained(folder)
    assert detect(folder).defaults["scheduler"] == "lcm"
    assert detect(folder.rename(tmp_path / "elsewhere")).family == "animatediff-v2"


def test_a_foreign_folder_is_told_by_shapes_and_ours_by_its_word(tmp_path: Path) -> None:
    DiffusersMotionAdapter(block_out_channels=(32, 64, 96, 96), use_motion_mid_block=False).save_pretrained(
        tmp_path / "theirs"
    )
    found = detect(tmp_path / "theirs")
    assert (found.family, found.config["norm_scope"]) == ("animatediff-v3", "frame")
    assert read_motion_checkpoint(tmp_path / "theirs").config.family == "animatediff-v3"
    MotionAdapter(block_out_channels=(32, 64, 96, 96), norm_scope="clip").save_pretrained(tmp_path / "ours")
    found = detect(tmp_path / "ours")
    assert (found.family, found.config["norm_scope"], found.defaults) == (None, "clip", {})


def test_what_shapes_cannot_tell_survives_in_the_original_layout(tmp_path: Path) -> None:
    adapter = tiny_adapter(tiny_unet("three"), num_transformer_layers=2, norm_scope="clip")
    write_original_layout(adapter, tmp_path / "tiny.safetensors")
    again = read_motion_checkpoint(tmp_path / "tiny.safetensors")
    assert fields(again) == fields(adapter)
    assert stored_bits(again) == stored_bits(adapter)


def test_checkpoints_of_a_parallel_training_run_lose_their_prefix(tmp_path: Path) -> None:
    file = tmp_path / "trained.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in published("animatediff-v3").items()}, file)
    assert detect(file).family == "animatediff-v3"
    assert stored_bits(read_motion_checkpoint(file))


QUERY = (
    "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight"
)
TABLE = QUERY.replace("to_q.weight", "pos_encoder.pe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QUERY), r"attn1.to_q.weight\) are missing"),
        (lambda t: t.update(surplus=torch.zeros(3)), r"1 tensors \(surplus\) are not part of the model"),
        (lambda t: t.update({QUERY: torch.zeros(32, 31)}), r"\(32, 32\) .*, but is stored with \(32, 31\)"),
        (lambda t: t[QUERY].fill_(torch.nan), "attention_blocks.0.to_q.weight holds NaN"),
        (lambda t: t.update({QUERY: t[QUERY].int()}), "must be floating point, but is stored as I32"),
        (lambda t: t[TABLE].mul_(2), "differ, but the attentions of a layer share one table"),
        (lambda t: t.update({TABLE: t[TABLE][:, :7]}), r"pos_embed.pe must have the shape"),
        (
            lambda t: [t.pop(k) for k in list(t) if "down_blocks.1" in k],
            "down_blocks.1.motion_modules.0 is not",
        ),
        (lambda t: [t.pop(k) for k in list(t) if "up_blocks.2" in k], "tensors .*up_blocks.2.* are missing"),
        (lambda t: [t.pop(k) for k in list(t)[:-1]], "holds no|is not whole|lacks the temporal layers"),
        (
            lambda t: [t.pop(k) for k in list(t) if "attention_blocks.1" in k or "norms.1" in k],
            "1 attentions",
        ),
    ],
    ids=[
        "missing",
        "surplus",
        "shape",
        "nan",
        "integer",
        "tables",
        "table",
        "hole",
        "block",
        "one",
        "single",
    ],
)
def test_wrong_tensors_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = published("animatediff-v3")
    change(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelLoadError, match=message) as caught:
        read_motion_checkpoint(tmp_path / "wrong.safetensors")
    assert str(caught.value).startswith(str(tmp_path / "wrong.safetensors"))
    assert "\n" not in str(caught.value)


def test_surplus_tensors_can_be_allowed(tmp_path: Path) -> None:
    save_file(published("animatediff-v3") | {"conv_out.bias": torch.zeros(4)}, tmp_path / "more.safetensors")
    assert read_motion_checkpoint(tmp_path / "more.safetensors", allow_extra=True).max_num_frames == 32


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["down_blocks.0.motion_modules.0.x.to_q_lora.down.weight"], "a motion LoRA, not a whole"),
        (["controlnet_cond_embedding.conv_in.weight"], "a SparseCtrl encoder"),
        (["img_encoder.conv.weight"], "AnimateLCM's image-to-video module"),
        (["model.diffusion_model.out.weight"], "holds no temporal layers .*model.diffusion_model.out.weight"),
    ],
)
def test_other_weights_are_called_what_they_are(tmp_path: Path, names: list[str], message: str) -> None:
    save_file({name: torch.zeros(2) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(ModelLoadError, match=message):
        detect(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "motion_adapter_config is damaged"),
        ("[1]", "motion_adapter_config is damaged"),
        (
            json.dumps({"family": "animatediff-v9"}),
            "family must be one of animatediff-v1, .* 'animatediff-v9'",
        ),
        (json.dumps({"family": ["x"]}), "family must be one of"),
        (json.dumps({"norm_scope": "video"}), "norm_scope must be 'frame' or 'clip'"),
        (json.dumps({"norm_scope": "frame", "nonsense": 1}), "cannot be built from what it says"),
        (json.dumps({"norm_scope": "frame", "block_out_channels": [3200] * 4}), "must have the shape"),
        (json.dumps({"norm_scope": "frame", "motion_num_attention_heads": 0}), "cannot be built"),
    ],
)
def test_what_a_file_says_of_itself_is_checked(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "odd.safetensors"
    save_file(published("animatediff-v3"), file, {"motion_adapter_config": text})
    with pytest.raises(ModelLoadError, match=message) as caught:
        read_motion_checkpoint(file)
    assert "\n" not in str(caught.value)


class Canary:
    """Leaves a file behind when a pickle runs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.path),)


@pytest.mark.full
@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_a_pickle_is_read_only_where_it_is_allowed(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"mm_sd_v15{suffix}"
    tensors = published("animatediff-v1")
    torch.save({"state_dict": tensors, "epoch": 3}, file)
    with pytest.raises(ModelLoadError, match=r"convert .*mm_sd_v15.* mm_sd_v15.safetensors --allow-pickle"):
        detect(file)
    assert detect(file, allow_pickle=True).family == "animatediff-v1"
    save_file(tensors, tmp_path / "same.safetensors")
    adapter = read_motion_checkpoint(file, allow_pickle=True)
    assert stored_bits(adapter) == stored_bits(read_motion_checkpoint(tmp_path / "same.safetensors"))


def test_a_pickle_never_runs(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": Canary(tmp_path / "ran")}, tmp_path / "mm.ckpt")
    with pytest.raises(ModelLoadError, match="holds more than tensors"):
        detect(tmp_path / "mm.ckpt", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", SHAPES)
def test_the_real_size_has_the_published_parameters(tmp_path: Path, family: str) -> None:
    """Real widths, every name and shape, without numbers: on the meta device."""
    from video_diffusion.loading.motion import describe_layout, original_names
    from video_diffusion.loading.weights import StoredTensor

    widths = (320, 640, 1280, 1280)[: len(SHAPES[family][0])]
    tensors = published(family, widths=widths, device="meta")
    layout = describe_layout({k: StoredTensor("F32", tuple(v.shape)) for k, v in tensors.items()}, "file")
    with torch.device("meta"):
        adapter = MotionAdapter(**layout.config)
    count = sum(p.numel() for n, p in adapter.named_parameters() if not n.startswith("conv_in"))
    expected = {4: {True: 453, False: 417}, 3: {False: 237}}[len(widths)][SHAPES[family][1]]
    assert round(count / 1e6) == expected
    written = {stored for name in adapter.state_dict() for stored in original_names(name)}
    if family not in {"hotshot-xl", "animatelcm"}:
        assert written == set(tensors)
