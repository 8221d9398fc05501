"""What a caller is told of frames while clips are decoded and measured."""

from pathlib import Path

from tiny_models import save_tiny_model

from video_diffusion import GenerationSettings, TextToVideoPipeline


def test_every_clip_tells_of_its_decoded_and_then_of_its_measured_frames(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, num_frames=5, height=32, width=48, fps="8", num_inference_steps=1)
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    told: list[tuple[str, int, int]] = []
    settings = [GenerationSettings(prompt="a cat", seed=seed, decode_chunk_size=2) for seed in (1, 2)]
    pipeline.generate(settings, on_frame=lambda *frame: told.append(frame))
    decoded = [("decode", done, 5) for done in (2, 4, 5)]
    measured = [("measure", done, 5) for done in range(1, 6)]
    assert told == [*decoded, *decoded, *measured, *measured]


def test_decoded_frames_are_those_that_are_measured_later(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, num_frames=5, height=32, width=48, fps="8", num_inference_steps=1)
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    settings = [GenerationSettings(prompt="a cat", seed=3)]
    (decoded,), (video,) = pipeline.generate_frames(settings), pipeline.generate(settings)
    assert "measure" not in decoded.timings
    later = decoded.measured()
    assert later.frames_sha256 == video.frames_sha256
    assert later.report.to_json() == video.report.to_json()
    own = {"created", "timings"}
    assert {k: v for k, v in later.record.items() if k not in own} == {
        k: v for k, v in video.record.items() if k not in own
    }
