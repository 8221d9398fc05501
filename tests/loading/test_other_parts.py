"""Another autoencoder or text encoder than the model's: folders, files, whole models."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from motion_files import stored_bits
from original_layout import original_unet, original_vae, small_unet, small_vae
from safetensors.torch import save_file
from tiny_models import randomised, relative_error, save_tiny_model, tiny_text_encoder, tiny_vae

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.cli.main import main
from video_diffusion.jobs import model_facts
from video_diffusion.jobs.job import make_job
from video_diffusion.loading import ModelLoadError, load_model
from video_diffusion.loading.model import load_vae
from video_diffusion.loading.sources import find_model
from video_diffusion.models import decode_latents

DEFAULTS: dict[str, Any] = {
    "num_frames": 4, "height": 16, "width": 24, "fps": "8", "num_inference_steps": 2, "guidance_scale": 2.5,
    "scheduler": "ddim",
}  # fmt: skip


def temporal_vae(seed: int = 7) -> AutoencoderKLTemporalDecoder:
    """SVD's kind in small, every weight random: halves each side, four latent channels."""
    torch.manual_seed(seed)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        latent_channels=4,
    )  # fmt: skip
    return randomised(vae).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same without two parts, and other parts."""
    folder = tmp_path_factory.mktemp("parts")
    save_tiny_model(folder / "model", **DEFAULTS)
    for part in ("vae", "text_encoder"):
        shutil.copytree(folder / "model", folder / f"no_{part}")
        shutil.rmtree(folder / f"no_{part}" / part)
    tiny_vae(seed=9).save_pretrained(folder / "vae")
    save_tiny_model(folder / "other")
    tiny_text_encoder(seed=8).save_pretrained(folder / "other" / "text_encoder")
    tiny_vae(seed=9).save_pretrained(folder / "other" / "vae")
    temporal_vae().save_pretrained(folder / "temporal")
    return folder


def test_parts_come_from_where_they_are_said_to_be(folder: Path) -> None:
    expected = stored_bits(tiny_vae(seed=9))
    for model, vae in (("model", "vae"), ("no_vae", "vae"), ("model", "other")):
        parts = load_model(str(folder / model), vae=str(folder / vae))
        assert stored_bits(parts.vae) == expected
        assert stored_bits(parts.text_encoder) == stored_bits(tiny_text_encoder())
    for model in ("model", "no_text_encoder"):
        parts = load_model(str(folder / model), text_encoder=str(folder / "other"))
        assert stored_bits(parts.text_encoder) == stored_bits(tiny_text_encoder(seed=8))
        assert stored_bits(parts.vae) == stored_bits(tiny_vae())


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("no_vae", {}, r"no_vae: holds no autoencoder; give one with --vae \(vae\), a folder or file"),
        ("no_text_encoder", {}, r"holds no text_encoder; give one with --text-encoder \(text_encoder\)"),
        ("model", {"text_encoder": "vae"}, r"vae/model_index.json: no such file"),
        ("model", {"text_encoder": "no_text_encoder"}, "holds no text_encoder; give one with"),
        ("model", {"vae": "model/unet"}, "must be a AutoencoderKL or .* names 'UNet2DConditionModel'"),
        ("model", {"vae": "nowhere"}, "no such file or folder"),
        ("model", {"vae": "model/unet/diffusion_pytorch_model.safetensors"}, "holds no autoencoder"),
    ],
)  # fmt: skip
def test_what_lacks_names_its_flag(folder: Path, model: str, words: dict[str, str], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_model(str(folder / model), **{name: str(folder / place) for name, place in words.items()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_autoencoder_in_one_file_alone_or_within_a_model(tmp_path: Path, kind: str, prefix: str) -> None:
    """A file does not say how latents are scaled; that follows from the image model."""
    vae = small_vae(kind)
    tensors = {
        f"{prefix}{name.removeprefix('first_stage_model.')}": tensor
        for name, tensor in original_vae(vae).items()
    }
    if prefix:
        tensors |= original_unet(small_unet(kind))
    else:
        tensors["loss.logvar"] = torch.zeros(1)  # as in files of training runs
    save_file(tensors, tmp_path / "vae.safetensors")
    found = load_vae(find_model(str(tmp_path / "vae.safetensors")), small_unet(kind), torch.float32)
    assert stored_bits(found) == stored_bits(vae)
    assert found.config.scaling_factor == {"sd1": 0.18215, "sdxl": 0.13025}[kind]


@pytest.mark.filterwarnings("ignore:.*is an image model without temporal layers")
def test_a_file_without_parts_takes_them_from_elsewhere_or_names_the_flags(tmp_path: Path) -> None:
    save_file(original_unet(small_unet("sd1")), tmp_path / "unet.safetensors")
    with pytest.raises(
        ModelLoadError, match=r"holds no autoencoder .* and no text encoder .*--vae.*--text-e"
    ):
        load_model(str(tmp_path / "unet.safetensors"))
    vae = tiny_vae(seed=9)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(
        ModelLoadError, match=r"holds no text encoder .*; give a text encoder with --text-enc"
    ):
        load_model(str(tmp_path / "unet.safetensors"), vae=str(tmp_path / "vae"))
    facts = json.loads(CliRunner().invoke(main, ["inspect", f"{tmp_path}/unet.safetensors", "--json"]).stdout)
    assert facts["use"].endswith("--motion-adapter ADAPTER --vae PATH --text-encoder PATH")
    assert "AnimateDiff v3" in facts["fitting_motion_modules"] and facts["temporal_layers"] == "none"


def test_another_autoencoder_is_in_the_id_the_record_and_the_clip(folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    common = ["a red ball", "--model", str(folder / "model"), "-q"]
    hashes, ids = set(), set()
    for name, flags in {
        "own": [],
        "vae": ["--vae", str(folder / "vae")],
        "text": ["--text-encoder", str(folder / "other")],
        "temporal": ["--vae", str(folder / "temporal")],
    }.items():
        clip = str(tmp_path / f"{name}.mp4")
        made = runner.invoke(main, ["generate", *common, *flags, "-o", clip])
        assert made.exit_code == 0, made.stderr
        record = json.loads((tmp_path / f"{name}.json").read_text())
        settings = GenerationSettings.from_values(record["settings"])
        assert make_job(settings, model_facts, "here").job_id == record["job_id"]
        hashes.add(record["frames_sha256"])
        ids.add(record["job_id"])
        assert runner.invoke(main, ["rerun", clip, "-q"]).stdout == "identical\n"
    assert len(hashes) == len(ids) == 4
    shutil.copytree(folder / "vae", tmp_path / "moved")
    moved = GenerationSettings(prompt="a", vae=str(tmp_path / "moved"))
    assert moved.job_id() == GenerationSettings(prompt="a", vae=str(folder / "vae")).job_id()
    whole = GenerationSettings(prompt="a", vae=str(folder / "other"))
    assert whole.job_id() == moved.job_id()
    with pytest.raises(ValueError, match=r"vae is .* but this pipeline was loaded with None; leave it out"):
        TextToVideoPipeline.from_pretrained(str(folder / "model"), device="cpu").resolve(moved)


@pytest.mark.parametrize("chunk_size", [1, 8, 12, 16])
def test_no_joint_shows_where_a_temporal_decoder_works_in_chunks(chunk_size: int) -> None:
    """At no step from frame to frame do chunks differ by a level from decoding at once; bare ones by 15."""
    vae = temporal_vae()
    ends = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    way = torch.linspace(0, 1, 40)[:, None, None, None]
    latents = 0.18 * ((1 - way) * ends[0] + way * ends[1]).transpose(0, 1)[None]

    def steps(frames: torch.Tensor) -> torch.Tensor:
        return 255 * frames.diff(dim=0)

    with torch.no_grad():
        scaled = latents[0].transpose(0, 1) / vae.config.scaling_factor
        whole = (vae.decode(scaled, num_frames=40).sample / 2 + 0.5).clamp(0, 1)
        bare = torch.cat([vae.decode(part, num_frames=len(part)).sample for part in scaled.split(16)])
    assert relative_error(torch.cat(list(decode_latents(vae, latents, 40))), whole) <= 1e-6
    chunks = list(decode_latents(vae, latents, chunk_size))
    assert max(map(len, chunks)) <= max(chunk_size, 8)
    found = torch.cat(chunks)
    assert found.shape == whole.shape
    assert float((steps(found) - steps(whole)).abs().mean((1, 2, 3)).max()) <= 1
    bare = (bare / 2 + 0.5).clamp(0, 1)
    assert float((steps(bare) - steps(whole)).abs().mean((1, 2, 3)).max()) > 15


def test_a_temporal_decoder_sees_each_video_alone() -> None:
    vae = temporal_vae()
    latents = torch.randn(2, 4, 5, 8, 12, generator=torch.Generator().manual_seed(1))
    both = torch.cat(list(decode_latents(vae, latents, 16)))
    assert relative_error(both[5:], torch.cat(list(decode_latents(vae, latents[1:], 16)))) <= 1e-6


def test_a_temporal_decoder_works_in_little_memory(folder: Path) -> None:
    """It knows no tiles, and 4 frames are one chunk in both."""
    clips = [
        TextToVideoPipeline.from_pretrained(
            str(folder / "model"), device="cpu", vae=str(folder / "temporal"), low_memory=low_memory
        )("a red ball")
        for low_memory in (False, True)
    ]
    assert np.abs(clips[0].frames.astype(int) - clips[1].frames).max() <= 1


def test_bytes_are_told_while_a_model_loads(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    load_model(str(folder / "model"), vae=str(folder / "vae"), on_bytes=lambda *each: told.append(each))
    done, totals = np.array(told).T
    assert (np.diff(done) > 0).all() and len(set(totals)) == 1
    assert 0.8 < done[-1] / totals[-1] <= 1  # the rest is headers


@pytest.mark.parametrize(
    ("changes", "base", "fits"),
    [
        ({"cross_attention_dim": 768}, "Stable Diffusion 1.x", "AnimateDiff v3"),
        ({"cross_attention_dim": 1024}, "Stable Diffusion 2.x", "none"),
        ({"cross_attention_dim": 768, "in_channels": 9}, "none of the published", None),
    ],
)
def test_inspect_says_which_base_a_folder_is_and_which_motion_modules_fit(
    folder: Path, tmp_path: Path, changes: dict[str, Any], base: str, fits: str | None
) -> None:
    shutil.copytree(folder / "no_vae", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "motion_adapter")
    config = json.loads((tmp_path / "model" / "unet" / "config.json").read_text())
    widths = {"block_out_channels": [320, 640, 1280, 1280]}
    (tmp_path / "model" / "unet" / "config.json").write_text(json.dumps(config | changes | widths))
    facts = json.loads(CliRunner().invoke(main, ["inspect", str(tmp_path / "model"), "--json"]).stdout)
    assert (facts["base"], facts["temporal_layers"], facts["lacks"]) == (base, "none", ["vae"])
    assert (
        facts["fitting_motion_modules"] is None if fits is None else fits in facts["fitting_motion_modules"]
    )
    assert facts["use"].endswith(f"--model {tmp_path / 'model'} --motion-adapter ADAPTER --vae PATH")
    own = json.loads(CliRunner().invoke(main, ["inspect", "embedded", "--json"]).stdout)
    assert own["temporal_layers"] == "its own" and "fitting_motion_modules" not in own
