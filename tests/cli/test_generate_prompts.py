"""`generate` and its prompts: syntax, embeddings and LoRAs from the command line, and back by `rerun`."""

import json
from pathlib import Path

import pytest
import torch
from clip_commands import generate, run
from motion_files import original_lora
from safetensors.torch import save_file
from tiny_models import TEXT_WIDTH, tiny_adapter, tiny_unet

from video_diffusion.video import read_record

pytestmark = pytest.mark.usefixtures("empty_folder")


def write_embedding(path: str, vectors: int = 2, width: int = TEXT_WIDTH) -> None:
    numbers = torch.randn(vectors, width, generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": numbers}, path)


def test_a_published_style_prompt_runs_and_is_made_again(tiny_model: Path) -> None:
    Path("words").mkdir()
    write_embedding("words/EasyNegative.safetensors")
    prompt = "(a red:1.2) circle, ((circle)), [a], a red circle BREAK red"
    negative = "(easynegative:1.1), red, a circle, red, a, circle"
    words = ["-o", "c.mp4", "--negative-prompt", negative, "--embedding", "words", "--clip-skip", "2"]
    result = generate(tiny_model, prompt, *words)
    assert result.exit_code == 0, result.stderr
    assert "warning" not in result.stderr  # nothing is cut, every word is known, the embedding is used
    record = read_record("c.mp4")
    assert record.settings.prompt == prompt and set(record.inputs) == {"embeddings.easynegative"}
    assert run("rerun", "c.mp4").stdout == "identical\n"
    write_embedding("words/EasyNegative.safetensors", 3)
    changed = run("rerun", "c.mp4")
    assert changed.exit_code == 2
    assert "EasyNegative.safetensors: is not the embeddings.easynegative of the record" in changed.stderr


def test_a_lora_in_the_prompt_is_the_one_of_the_flag(tiny_model: Path) -> None:
    Path("loras").mkdir()
    save_file(original_lora(tiny_adapter(tiny_unet())), "loras/pan.safetensors")
    named = generate(tiny_model, "a red circle <lora:pan:0.5>", "--lora-folder", "loras", "-o", "a.mp4", "-q")
    flagged = generate(
        tiny_model, "a red circle ", "--lora", "loras/pan.safetensors:0.5", "-o", "b.mp4", "-q"
    )
    assert named.exit_code == flagged.exit_code == 0, named.stderr + flagged.stderr
    first, second = read_record("a.mp4"), read_record("b.mp4")
    assert first.frames_sha256 == second.frames_sha256
    assert first.inputs == second.inputs
    assert run("rerun", "a.mp4").stdout == "identical\n"


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["(a red"], 2, "PROMPT: prompt opens ( at sign 1 and never closes it"),
        (["a (red:1e9)"], 2, "has the weight 1e+09"),
        (["a", "--negative-prompt", "badhandv4"], 2, "negative_prompt names the embedding 'badhandv4'"),
        (["a <lora:pan>"], 2, "prompt names the LoRA 'pan', but lora_folder does not say where it lies"),
        (["a", "--embedding", "none.safetensors"], 2, "embeddings names none.safetensors, which is not here"),
        (["a wide", "--embedding", "wide.safetensors"], 3, "has vectors of width 5, but this model's text"),
        (["a old", "--embedding", "old.pt"], 3, "video-diffusion convert old.pt old.safetensors --allow"),
        (["a", "--clip-skip", "9"], 2, "clip_skip is 9, but this text encoder has 2 layers"),
        (["a", "--prompt-syntax", "own"], 2, "prompt_syntax must be one of a1111, comfy, plain"),
    ],
)
def test_bad_prompts_and_embeddings_are_one_line(
    tiny_model: Path, words: list[str], code: int, reason: str
) -> None:
    write_embedding("wide.safetensors", width=5 if code == 3 else TEXT_WIDTH)
    save_file({"emb_params": torch.zeros(2, 9)}, "w9.safetensors")
    torch.save({"string_to_param": {"*": torch.zeros(2, TEXT_WIDTH)}}, "old.pt")
    if "wide" in words[0]:
        save_file({"emb_params": torch.zeros(1, 9)}, "wide.safetensors")
        reason = reason.replace("width 5", "width 9")
    result = generate(tiny_model, *words, "-o", "c.mp4")
    assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.stderr
    assert reason in result.stderr


def test_an_embedding_that_no_prompt_names_is_told(tiny_model: Path) -> None:
    write_embedding("mine.safetensors")
    result = generate(tiny_model, "a red circle", "--embedding", "mine.safetensors", "-o", "c.mp4", "-q")
    assert result.exit_code == 0
    assert "embeddings gives mine.safetensors, whose word no prompt holds" in result.stderr


def test_a_pickled_embedding_is_converted_tensors_only_and_inspect_names_its_kind() -> None:
    tensor = torch.randn(3, 768)
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "step": 7}, "neg.pt")
    result = run("convert", "neg.pt", "neg.safetensors", "--allow-pickle", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["base"], facts["num_vectors"]) == ("embedding", "Stable Diffusion 1.x", 3)
    assert facts["use"] == "video-diffusion generate PROMPT --embedding neg.safetensors"
    again = run("convert", "neg.safetensors", "other.safetensors")
    assert again.exit_code == 3 and "an embedding, which needs no conversion" in again.stderr
    save_file({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "xl.safetensors")
    xl = json.loads(run("inspect", "xl.safetensors", "--json").stdout)
    assert (xl["kind"], xl["base"], xl["widths"]) == ("embedding", "Stable Diffusion XL", [768, 1280])
    save_file({"<cat-toy>": torch.zeros(768)}, "learned_embeds.safetensors")
    one = json.loads(run("inspect", "learned_embeds.safetensors", "--json").stdout)
    assert (one["word"], one["num_vectors"]) == ("<cat-toy>", 1)


def test_a_job_file_is_checked_for_missing_embeddings_before_anything_loads(tiny_model: Path) -> None:
    Path("jobs.csv").write_text("prompt,negative_prompt\na red circle,dull\na circle,easynegative\n")
    result = run("generate", "--jobs", "jobs.csv", "--model", tiny_model, "--check")
    assert result.exit_code == 2
    assert "jobs.csv:3: negative_prompt names the embedding 'easynegative'" in result.stderr
