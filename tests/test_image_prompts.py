"""Image prompts along frames: which frame sees which picture, with all that a clip may be made with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from control_networks import save_pictures, tiny_controlnet
from ip_adapter_files import save_picture, save_tiny_ip_adapter
from motion_files import original_lora
from safetensors.torch import save_file
from tiny_models import relative_error, save_tiny_model, tiny_unet
from torch import Tensor

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.settings import content_sha256
from video_diffusion.video import read_record

DEFAULTS = {
    "num_frames": 4,
    "height": 16,
    "width": 24,
    "fps": "8",
    "num_inference_steps": 2,
    "guidance_scale": 2.5,
    "scheduler": "ddim",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("image_prompts") / "model", **DEFAULTS)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def still(folder: Path) -> TextToVideoPipeline:
    """Without temporal layers a frame is made for itself."""
    return TextToVideoPipeline.from_pretrained(str(folder), "none", dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_ip_adapter(tmp_path_factory.mktemp("adapter"), tiny_unet()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    place = tmp_path_factory.mktemp("pictures")
    return save_picture(place / "a.png", 1), save_picture(place / "b.png", 2)


def latents(pipeline: TextToVideoPipeline, **settings: Any) -> Tensor:
    steps: list[Tensor] = []
    pipeline("a red ball", on_step=lambda step: steps.append(step.latents), **settings)
    return steps[-1]


def test_at_scale_0_there_is_no_ip_adapter(
    pipeline: TextToVideoPipeline, adapter: str, pictures: tuple[str, str]
) -> None:
    without = latents(pipeline)
    shown = {"ip_adapter": adapter, "ip_image": pictures[0]}
    assert relative_error(latents(pipeline, **shown, ip_scale=0.0), without) <= 1e-12
    assert relative_error(latents(pipeline, **shown), without) > 1e-3
    assert torch.equal(latents(pipeline), without)


def test_ranges_that_name_one_picture_are_the_whole_clip(
    pipeline: TextToVideoPipeline, adapter: str, pictures: tuple[str, str]
) -> None:
    whole = latents(pipeline, ip_adapter=adapter, ip_image=pictures[0])
    ranges = {"0-1": pictures[0], "2": pictures[0], "-1": pictures[0]}
    assert torch.equal(latents(pipeline, ip_adapter=adapter, ip_image=ranges), whole)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["image", "plus"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"context_length": 3, "context_overlap": 1, "context_schedule": "static"},
        {"prompt_travel": {"0": "a red ball", "4": "blue"}},
    ],
    ids=["one pass", "windows", "prompt travel"],
)
def test_a_frame_sees_the_picture_of_its_own_range(
    still: TextToVideoPipeline, pictures: tuple[str, str], tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    adapter = str(save_tiny_ip_adapter(tmp_path, tiny_unet(), kind))
    common = {"num_frames": 5, "ip_adapter": adapter, **more}
    first, second = (latents(still, ip_image=picture, **common) for picture in pictures)
    both = latents(still, ip_image={"0-1": pictures[0], "2-4": pictures[1]}, **common)
    assert relative_error(both[:, :, :2], first[:, :, :2]) <= 1e-12
    assert relative_error(both[:, :, 2:], second[:, :, 2:]) <= 1e-12
    assert relative_error(both[:, :, 2:], first[:, :, 2:]) > 1e-3


def test_between_two_pictures_a_frame_gets_some_of_both(
    still: TextToVideoPipeline, adapter: str, pictures: tuple[str, str]
) -> None:
    from video_diffusion.loading import load_ip_adapter

    with load_ip_adapter(still.parts, adapter) as loaded:
        ends = [(0.0, pictures[0]), (3.0, pictures[1])]
        (embeds,) = loaded.image_embeds(ends, 4, 2, guided=True, looped=False)
        (one,) = loaded.image_embeds([(0.0, pictures[1])], 4, 2, guided=False, looped=False)
    assert tuple(embeds.shape) == (2 * 2 * 4, 1, 10)
    assert not embeds[:8].any()  # the negative half knows no picture
    first, last = embeds[8], embeds[11]
    assert torch.equal(embeds[12:], embeds[8:12])
    assert relative_error(embeds[9], first + (last - first) / 3) <= 1e-12
    assert tuple(one.shape) == (2, 1, 10)
    assert relative_error(one[1], last) <= 1e-12


def test_a_clip_in_a_batch_is_the_clip_alone(
    pipeline: TextToVideoPipeline, adapter: str, pictures: tuple[str, str]
) -> None:
    images = {"0-1": pictures[0], "2-3": pictures[1]}
    clips = [
        GenerationSettings.from_values(
            {"prompt": prompt, "seed": seed, "ip_adapter": adapter, "ip_image": images}
        )
        for prompt, seed in (("a", 1), ("red", 2))
    ]
    steps: list[Tensor] = []
    pipeline.generate(clips, on_step=lambda step: steps.append(step.latents))
    together = steps[-1]
    assert len(together) == 2
    for place, clip in enumerate(clips):
        pipeline.generate([clip], on_step=lambda step: steps.append(step.latents))
        assert relative_error(steps[-1][0], together[place]) <= 1e-12


@pytest.mark.full
@pytest.mark.parametrize(
    "more",
    [
        {"freenoise": True, "num_frames": 6, "context_length": 4},
        {"guidance_interval": "0.0-0.6"},
        {"speed": 1, "num_inference_steps": 6},
        {"loop": True, "context_length": 3},
    ],
    ids=str,
)
def test_pictures_are_seen_with_every_way_of_sampling(
    pipeline: TextToVideoPipeline, adapter: str, pictures: tuple[str, str], more: dict[str, Any]
) -> None:
    images = {"0-1": pictures[0], "2": pictures[1]}
    seen = [latents(pipeline, ip_adapter=adapter, ip_image=i, **more) for i in (images, pictures[0])]
    assert relative_error(seen[0], seen[1]) > 1e-4
    assert relative_error(seen[0], latents(pipeline, **more)) > 1e-4


def test_low_memory_makes_the_same_clip(
    pipeline: TextToVideoPipeline, folder: Path, adapter: str, pictures: tuple[str, str]
) -> None:
    small = TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu", low_memory=True)
    images = {"0-1": pictures[0], "2-3": pictures[1]}
    one, other = (latents(each, ip_adapter=adapter, ip_image=images) for each in (pipeline, small))
    assert relative_error(other, one) <= 1e-12


def test_a_lora_may_be_at_work_too(
    pipeline: TextToVideoPipeline, adapter: str, pictures: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "zoom.safetensors"
    save_file(original_lora(pipeline.parts.motion_adapter), file)
    clip = pipeline("a", ip_adapter=adapter, ip_image=pictures[0], loras=[str(file)])
    assert set(clip.record["inputs"]) == {"loras.0", "ip_adapter", "ip_adapter.image_encoder", "ip_image.0"}


@pytest.mark.full
def test_a_controlnet_may_steer_too(
    pipeline: TextToVideoPipeline, adapter: str, pictures: tuple[str, str], tmp_path: Path
) -> None:
    tiny_controlnet().save_pretrained(tmp_path / "controlnet")
    edges = save_pictures(tmp_path / "edges", 4)
    windows = {"context_length": 3, "context_overlap": 1, "context_schedule": "static"}
    steered = {"controlnet": str(tmp_path / "controlnet"), "control_video": str(edges), **windows}
    shown = {"ip_adapter": adapter, "ip_image": {"0-1": pictures[0], "2-3": pictures[1]}}
    alone = latents(pipeline, **steered)
    assert relative_error(latents(pipeline, **steered, **shown, ip_scale=0.0), alone) <= 1e-12
    both = latents(pipeline, **steered, **shown)
    assert relative_error(both, alone) > 1e-4
    assert relative_error(both, latents(pipeline, **shown, **windows)) > 1e-4


def test_the_record_names_the_files_by_their_content(
    pipeline: TextToVideoPipeline, adapter: str, pictures: tuple[str, str], tmp_path: Path
) -> None:
    images = {"0-1": pictures[0], "2-3": pictures[1]}
    clip = pipeline("a", ip_adapter=adapter, ip_image=images, ip_scale=0.5)
    clip.save(tmp_path / "clip.mp4")
    record = read_record(tmp_path / "clip.mp4")
    assert record.settings == clip.settings.recorded()
    assert dict(record.settings.ip_image) == images
    encoder = Path(adapter).parent / "image_encoder"
    assert record.inputs == {
        "ip_adapter": content_sha256(adapter),
        "ip_adapter.image_encoder": content_sha256(str(encoder)),
        "ip_image.0-1": content_sha256(pictures[0]),
        "ip_image.2-3": content_sha256(pictures[1]),
    }


def test_a_job_id_goes_by_content(adapter: str, pictures: tuple[str, str], tmp_path: Path) -> None:
    def job_id(ip_adapter: str, image: str, **more: Any) -> str:
        values = {"prompt": "a", "ip_adapter": ip_adapter, "ip_image": {"0-7": image}, **more}
        return GenerationSettings.from_values(values).job_id()

    first = job_id(adapter, pictures[0])
    moved = tmp_path / "moved.png"
    moved.write_bytes(Path(pictures[0]).read_bytes())
    other_place = save_tiny_ip_adapter(tmp_path, tiny_unet())
    assert job_id(str(other_place), str(moved)) == first
    assert job_id(adapter, pictures[1]) != first != job_id(adapter, pictures[0], ip_scale=0.5)
    (other_place.parent / "image_encoder" / "model.safetensors").write_bytes(b"other")
    assert job_id(str(other_place), str(moved)) != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ip_image": "a.png"}, "ip_image needs an IP-Adapter that reads it; set ip_adapter to its file"),
        ({"ip_adapter": "x"}, "ip_adapter needs a picture to show; set ip_image to one"),
        (
            {"ip_image": {"0-7": "a.png"}},
            "ip_image names frames 0-7, but the clip has 4 frames; name some of 0…3",
        ),
        (
            {"ip_image": {"0-2": "a.png", "2-3": "b.png"}},
            "names one of 4 frames twice, in 0-2 and 2-3; shorten",
        ),
        ({"ip_image": {"3-1": "a.png"}}, "names frames 3-1, which run backwards"),
        ({"ip_image": {"one": "a.png"}}, "ip_image has the frames 'one'; write a range such as 0-7"),
        ({"ip_image": {"0": ""}}, "ip_image is empty; name a file or folder"),
        ({"ip_image": {"0": 3}}, "ip_image at frames 0 must be a path"),
        ({"ip_image": 3}, "ip_image must be a picture, or a map from frames to pictures"),
        ({"ip_adapter": "x", "quantize": "int8"}, "quantize does not go with ip_adapter; keep one of them"),
        ({"ip_scale": 2.5}, "ip_scale must be a finite number from 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    pipeline: TextToVideoPipeline, changes: dict[str, Any], message: str
) -> None:
    more = {"ip_adapter": "x.safetensors"} if isinstance(changes.get("ip_image"), dict) else {}
    with pytest.raises(ValueError, match=message):
        pipeline("a red ball", **more, **changes)


def test_a_scale_without_an_adapter_is_said(pipeline: TextToVideoPipeline) -> None:
    with pytest.warns(UserWarning, match="ip_scale is ignored without ip_adapter"):
        pipeline.resolve(GenerationSettings.from_values({"prompt": "a", "ip_scale": 0.5}))
