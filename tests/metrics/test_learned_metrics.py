"""Metrics with weights, on tiny real models of the same classes: formulas, refusals, reports."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic_clips import clean_clip
from tiny_models import tiny_tokenizer
from transformers.models.clip.configuration_clip import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.vit.configuration_vit import ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.vit.modeling_vit import ViTModel

from video_diffusion.cli.main import main
from video_diffusion.metrics import ALL_METRICS, measure
from video_diffusion.metrics.learned import clip_metrics, dino_metrics, lpips_metrics
from video_diffusion.metrics.learned.along_flow import RaftFlow
from video_diffusion.metrics.learned.encoders import load_clip, load_dino
from video_diffusion.metrics.learned.weights import MetricWeightsError, load_published, optional_package
from video_diffusion.video import weights_sha256

FRAMES = clean_clip("pebbles", "pan", 4, 6, 40, 56).frames
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def trained(model, seed=0):
    """As if trained: every weight moved off its starting point."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def tiny_clip(folder, finish=trained):
    tokenizer = tiny_tokenizer()
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=SIZES | text | marks, vision_config=SIZES | vision, projection_dim=8)
    torch.manual_seed(0)
    finish(CLIPModel(config)).save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_dino(folder, version=1):
    torch.manual_seed(0)
    sizes = SIZES | {"image_size": 32, "patch_size": 8}
    model = (
        ViTModel(ViTConfig(**sizes), add_pooling_layer=False)
        if version == 1
        else Dinov2Model(Dinov2Config(**sizes))
    )
    trained(model).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    return tiny_dino(tmp_path_factory.mktemp("dino"))


def vectors(folder, model_class, processor_class, pick):
    """Unit vectors of all frames at once, straight from transformers."""
    model = model_class.from_pretrained(folder).eval()
    with torch.inference_mode():
        pixels = processor_class.from_pretrained(folder)(images=list(FRAMES), return_tensors="pt")[
            "pixel_values"
        ]
        found = pick(model, pixels)
    return torch.nn.functional.normalize(found.double(), dim=-1).numpy()


def test_clip_cosines_of_neighbours_and_of_all_pairs(clip_folder):
    unit = vectors(
        clip_folder,
        CLIPModel,
        CLIPImageProcessorPil,
        lambda model, pixels: model.get_image_features(pixel_values=pixels).pooler_output,
    )
    report = measure(FRAMES, 8, metrics=clip_metrics(clip_folder))
    cosines = unit @ unit.T
    adjacent = report.values["clip_adjacent"]
    assert list(adjacent.series[1:]) == pytest.approx(np.diag(cosines, 1).tolist(), abs=1e-5)
    assert adjacent.value == pytest.approx(np.diag(cosines, 1).mean(), abs=1e-5)
    assert report.values["clip_all_pairs"].value == pytest.approx(
        cosines[np.triu_indices(6, 1)].mean(), abs=1e-5
    )
    background = report.values["background_consistency"]  # VBench: the neighbour before and the first frame
    both = (np.maximum(0, np.diag(cosines, 1)) + np.maximum(0, cosines[0, 1:])) / 2
    assert background.value == pytest.approx(both.mean(), abs=1e-5)
    assert adjacent.note.endswith(f"weights sha256 {weights_sha256(clip_folder)}")
    assert adjacent.note in report.table()


def test_prompt_alignment_has_the_mean_and_the_worst_frame(clip_folder):
    measured = measure(FRAMES, 8, metrics=clip_metrics(clip_folder, "a red circle")).values[
        "prompt_alignment"
    ]
    encoder = load_clip(clip_folder)
    words = encoder.embed_text("a red circle")
    aligned = [100 * float(encoder.embed(frame) @ words) for frame in FRAMES]
    assert measured.value == pytest.approx(np.mean(aligned))
    assert measured.details["lowest"] == pytest.approx(min(aligned))
    assert np.linalg.norm(words) == pytest.approx(1)
    assert not np.allclose(words, encoder.embed_text("circle"))


@pytest.mark.parametrize("version", [1, 2])
def test_dino_subject_consistency_is_vbenchs_formula_with_its_terms_apart(tmp_path, version):
    folder = tiny_dino(tmp_path, version)
    unit = vectors(
        folder,
        [ViTModel, Dinov2Model][version - 1],
        ViTImageProcessorPil,
        lambda model, pixels: model(pixel_values=pixels).last_hidden_state[:, 0],
    )
    measured = measure(FRAMES, 8, metrics=dino_metrics(folder)).values["subject_consistency"]
    previous = np.maximum(0, np.sum(unit[:-1] * unit[1:], axis=1))
    first = np.maximum(0, unit[1:] @ unit[0])
    terms = {"previous": previous.mean(), "first": first.mean()}
    assert {name: measured.details[name] for name in terms} == pytest.approx(terms, abs=1e-5)
    for lag in (1, 2, 4):
        cosines = np.sum(unit[:-lag] * unit[lag:], axis=1)
        assert measured.details[f"lag_{lag}"] == pytest.approx(cosines.mean(), abs=1e-5)
    assert measured.value == pytest.approx((previous.mean() + first.mean()) / 2, abs=1e-5)


def test_frames_on_two_sides_of_a_cut_are_not_compared(clip_folder, dino_folder):
    other = clean_clip("bricks", "pan", 2, 5, 40, 56).frames
    lines = (*clip_metrics(clip_folder), *dino_metrics(dino_folder), "cuts")
    report = measure(np.concatenate([FRAMES, other]), 8, metrics=lines)
    assert report.values["cuts"].value == 1
    for name in ("clip_adjacent", "clip_all_pairs", "background_consistency", "subject_consistency"):
        assert [index for index, value in enumerate(report.values[name].series) if value is None] == [0, 6]
        assert report.values[name].status == "has_cut"
    apart = [measure(shot, 8, metrics=lines).values["clip_all_pairs"].value for shot in (FRAMES, other)]
    assert report.values["clip_all_pairs"].value == pytest.approx((15 * apart[0] + 10 * apart[1]) / 25)


def test_a_frozen_clip_agrees_with_itself(clip_folder, dino_folder):
    frozen = np.repeat(FRAMES[:1], 4, axis=0)
    report = measure(frozen, 8, metrics=(*clip_metrics(clip_folder), *dino_metrics(dino_folder)))
    for name in ("clip_adjacent", "clip_all_pairs", "background_consistency", "subject_consistency"):
        assert report.values[name].value == pytest.approx(1)
        assert report.values[name].status == "static"


def test_random_weights_are_refused(tmp_path):
    folder = tiny_clip(tmp_path, finish=lambda model: model)
    with pytest.raises(
        MetricWeightsError, match=r"random weights that were never trained.*hf download openai/clip"
    ):
        load_clip(folder)


def test_incomplete_weights_are_refused(clip_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MetricWeightsError, match=r"1 of its weights are missing.*visual_projection.weight"):
        load_clip(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(MetricWeightsError, match="is not a whole CLIPModel"):
        load_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MetricWeightsError, match=r"no .safetensors weights; download"):
        load_clip(tmp_path)
    with pytest.raises(MetricWeightsError, match=r"no config.json; download"):
        load_clip(tmp_path / "none")


@pytest.mark.full
def test_another_kind_of_model_is_refused(clip_folder, dino_folder):
    with pytest.raises(MetricWeightsError, match="no DINO or DINOv2 model; download facebook/dino-vitb16"):
        load_dino(clip_folder)
    with pytest.raises(MetricWeightsError, match="is not a whole CLIPModel"):
        load_clip(dino_folder)
    with pytest.raises(ValueError, match="knows no text"):
        load_dino(dino_folder).embed_text("a")


def test_a_file_of_weights_must_carry_its_own_hash_in_its_name(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "weights.pth")
    sha256 = weights_sha256(tmp_path / "weights.pth")
    for name in ("weights.pth", "weights-00000000.pth"):
        (tmp_path / name).write_bytes((tmp_path / "weights.pth").read_bytes())
        with pytest.raises(MetricWeightsError, match=rf"is not as published.*{sha256[:8]}.*do this"):
            load_published(tmp_path / name, "do this")
    published = (tmp_path / "weights.pth").rename(tmp_path / f"weights-{sha256[:8]}.pth")
    assert torch.equal(load_published(published, "")[0]["a"], torch.ones(3))
    with pytest.raises(MetricWeightsError, match="no such file; do this"):
        load_published(tmp_path / "none.pth", "do this")


def test_a_missing_package_is_named_with_what_to_do():
    with pytest.raises(MetricWeightsError, match=r"no_such_package cannot be imported .*; do this"):
        optional_package("no_such_package.part", "do this")


@pytest.mark.weights
def test_raft_gives_the_flow_that_torchvision_gives(tmp_path):
    models = pytest.importorskip("torchvision.models.optical_flow")
    torch.manual_seed(0)
    model = models.raft_small(weights=None).eval()
    path = named_by_its_hash(model.state_dict(), tmp_path)
    method = RaftFlow(path)
    frames = clean_clip("pebbles", "pan", 2, 2, 132, 140).frames
    forward, backward = method.between(0, frames[0], frames[1])
    assert forward.shape == backward.shape == (132, 140, 2)
    one, two = (
        torch.from_numpy(np.pad(frame, ((0, 4), (0, 4), (0, 0)), mode="edge")).permute(2, 0, 1)[None] / 127.5
        - 1
        for frame in frames
    )
    with torch.inference_mode():
        expected = model(one, two)[-1][0, :, :132, :140].permute(1, 2, 0).numpy()
    assert forward == pytest.approx(expected, abs=1e-3)
    report = measure(frames, 8, flow=method)
    assert report.flow.startswith("RAFT small, weights sha256 ")


@pytest.mark.weights
def test_lpips_along_the_flow_is_zero_for_a_frozen_clip_and_rises_with_noise(tmp_path):
    pytest.importorskip("lpips")
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = named_by_its_hash(alexnet(weights=None).state_dict(), tmp_path)
    lines = lpips_metrics(path)
    clean = clean_clip("pebbles", "pan", 2, 3, 64, 72).frames
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    values = [
        measure(frames, 8, metrics=lines).values["warped_lpips"].value
        for frames in (clean[[0, 0]], clean, noisy)
    ]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]


def named_by_its_hash(state, folder):
    torch.save(state, folder / "weights.pth")
    return (folder / "weights.pth").rename(
        folder / f"weights-{weights_sha256(folder / 'weights.pth')[:8]}.pth"
    )


def test_own_lines_go_into_the_report_beside_the_named_ones(clip_folder):
    line = clip_metrics(clip_folder)[0]
    report = measure(FRAMES, 8, metrics=["drift", line])
    assert list(report.values) == ["drift", "clip_adjacent"]
    assert report.to_json(series=False)["metrics"]["clip_adjacent"]["note"].startswith("CLIP ")
    with pytest.raises(ValueError, match="two of the name 'clip_adjacent'"):
        measure(FRAMES, 8, metrics=[line, clip_metrics(clip_folder)[0]])
    assert len(measure(FRAMES, 8, metrics=[*ALL_METRICS, line]).values) == len(ALL_METRICS) + 1


def test_the_command_takes_local_weights_and_the_prompt(clip_folder, dino_folder, tmp_path):
    from fractions import Fraction

    from video_diffusion.video import write_video

    path = tmp_path / "clip.mp4"
    write_video(path, FRAMES, Fraction(8), codec="libx264rgb")
    words = [
        "measure",
        str(path),
        "--json",
        "--clip-model",
        str(clip_folder),
        "--dino-model",
        str(dino_folder),
    ]
    result = CliRunner().invoke(main, [*words, "--prompt", "a red circle"])
    assert result.exit_code == 0, result.stderr
    metrics = json.loads(result.stdout)["metrics"]
    expected = (
        measure(FRAMES, 8, metrics=clip_metrics(clip_folder, "a red circle")).values["prompt_alignment"].value
    )
    assert metrics["prompt_alignment"]["value"] == pytest.approx(expected)
    assert {"clip_adjacent", "clip_all_pairs", "subject_consistency", "flicker"} <= set(metrics)
    assert "prompt_alignment" not in json.loads(CliRunner().invoke(main, words).stdout)["metrics"]
    refused = CliRunner().invoke(main, ["measure", str(path), "--clip-model", str(tmp_path)])
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert f"{tmp_path}: holds no config.json" in refused.stderr
    assert "hf download openai/clip-vit-base-patch32" in refused.stderr
