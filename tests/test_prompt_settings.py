"""Prompts as settings: syntax refused in one line, lines by frame, LoRAs and embeddings by name, identity."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_diffusion.settings import GenerationSettings, parse_prompt


def asked(**values: Any) -> GenerationSettings:
    return GenerationSettings.from_values({"prompt": "a dot", **values})


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (
            "a (red dot",
            "prompt opens ( at sign 3 and never closes it; add ), or write \\( for the sign itself",
        ),
        ("a red) dot", "prompt closes ) at sign 6 without opening it; write \\) for the sign itself"),
        ("a [red", "prompt opens [ at sign 3 and never closes it"),
        ("(a [b) c]", "closes ) at sign 6 where the [ at sign 4 is open; close that first"),
        ("(a:1e9)", "has the weight 1e+09; a weight, with all brackets around it, is from -10 to 10"),
        ("((a:5):5)", "has the weight 25"),
        ("(" * 60 + "a" + ")" * 60, "has brackets more than 50 deep"),
        ("[cat:dog:0.5] on a mat", "has '[cat:dog:0.5] on a mat', prompt editing by steps"),
        ("[cat|dog] on a mat", "prompt editing by steps, which is not supported"),
        ("a <hypernet:x:1>", "has '<hypernet:x:1>', which is not supported"),
        ("a <lora:x:much>", "whose weight must be a number from -10 to 10"),
        ("a <lora:x:1:0.5>", "but a LoRA has one name and one weight"),
        ("a <lora::1>", "but a LoRA has one name and one weight"),
        ("0: a\nb\n8: c", "has the line 'b' between two lines by frame"),
        ("0: a 8: b", "write each frame once, on a line of its own"),
        ("0: a\n0: b", "write each frame once, on a line of its own"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(prompt: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        asked(prompt=prompt)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert asked(prompt=prompt, prompt_syntax="plain").prompt == prompt


def test_comfy_refuses_what_it_cannot_read_too() -> None:
    for prompt in ("a (b", "a b)", "(a:99)", "(a:inf)b(c:nan)" + "(" * 60 + ")" * 60):
        with pytest.raises(ValueError, match=r"prompt (opens|closes|has)"):
            asked(prompt=prompt, prompt_syntax="comfy")


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="ab()[]:.1\\<>lora,| \n", max_size=40), st.sampled_from(["a1111", "comfy"]))
def test_any_text_is_read_or_refused_with_a_reason(prompt: str, syntax: Any) -> None:
    try:
        parsed = parse_prompt(prompt, syntax)
    except ValueError as error:
        assert str(error).startswith(("opens", "closes", "has"))
        assert "\n" not in str(error)
    else:
        assert all(-10 <= segment.weight <= 10 for part in parsed.parts for segment in part)


def test_lines_by_frame_inside_a_prompt_are_its_travel() -> None:
    lines = asked(prompt="best quality\n0: a dot\n8: (a wood:1.2)\n-1: sea\nsharp, hd\n")
    assert dict(lines.prompt_travel) == {"0": "a dot", "8": "(a wood:1.2)", "-1": "sea"}
    assert (lines.prompt, lines.prompt_head, lines.prompt_tail) == ("a dot", "best quality,", ", sharp, hd")
    pairs = asked(prompt='{"0": "a dot", "8": "a wood",\n "16": "sea"}')
    assert dict(pairs.prompt_travel) == {"0": "a dot", "8": "a wood", "16": "sea"}
    negative = asked(negative_prompt="dull\n0: a\n4: b")
    assert dict(negative.negative_prompt_travel) == {"0": "dull, a", "4": "dull, b"}
    assert asked(prompt="a photo, 16:9 ratio").prompt_travel == ()
    assert asked(prompt="12:30 at night").prompt_travel == ()
    with pytest.raises(ValueError, match="prompt has lines by frame and prompt_travel is set; keep one"):
        asked(prompt="0: a\n4: b", prompt_travel={"2": "c"})


def test_ids_count_syntax_only_where_it_reads_something_else_than_letters() -> None:
    plain = asked(prompt_syntax="plain")
    assert asked().job_id() == asked(prompt_syntax="comfy").job_id() == plain.job_id()
    ids = {asked(prompt="a (red) dot", prompt_syntax=s).job_id() for s in ("a1111", "comfy", "plain")}
    assert len(ids) == 3
    words = " ".join(["word"] * 76)
    assert asked(prompt=words).job_id() != asked(prompt=words, prompt_syntax="plain").job_id()


def test_loras_that_a_prompt_names_are_found_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "ink.safetensors").write_bytes(b"1")
    (tmp_path / "old.safetensors").write_bytes(b"2")
    named = asked(
        prompt="a dot <lora:ink:0.8>, sea<lora:style/ink:0.8>", loras=["x:0.5"], lora_folder=str(tmp_path)
    )
    ink = f"{tmp_path / 'style' / 'ink.safetensors'}:0.8"
    assert named.all_loras == ("x:0.5", ink)
    assert named.all_prompts == ("a dot , sea",)
    one = asked(prompt="a dot <lora:ink:0.8>", lora_folder=str(tmp_path))
    assert one.job_id() != asked(prompt="a dot <lora:ink:0.7>", lora_folder=str(tmp_path)).job_id()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "ink.safetensors").write_bytes(b"1")
    assert one.job_id() == asked(prompt="a dot <lora:ink:0.8>", lora_folder=str(moved)).job_id()
    for values, reason in (
        ({"prompt": "a <lora:ink>"}, "prompt names the LoRA 'ink', but lora_folder does not say where"),
        ({"prompt": "a <lora:ik>", "lora_folder": str(tmp_path)}, "did you mean 'ink'?"),
        ({"prompt": "a <lora:ink>", "lora_folder": str(tmp_path / "no")}, "is not a folder"),
        (
            {"prompt": "<lora:ink:1>a", "prompt_tail": "<lora:ink:0.5>", "lora_folder": str(tmp_path)},
            "with the weights 1 and 0.5",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            asked(**values).check_prompt_words()


def test_a_word_that_names_a_missing_embedding_is_told(tmp_path: Path) -> None:
    (tmp_path / "EasyNegative.safetensors").write_bytes(b"1")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "my-neg.safetensors").write_bytes(b"2")
    for text in ("easynegative, dull", "(EasyNegative:1.2)", "embedding:mine", "a <cat-toy> here"):
        with pytest.raises(ValueError, match=r"negative_prompt names the embedding .* not given"):
            asked(negative_prompt=text).check_prompt_words()
        asked(negative_prompt=text, prompt_syntax="plain").check_prompt_words()
    given = asked(negative_prompt="(easynegative:1.2), MY-NEG", embeddings=[str(tmp_path)])
    given.check_prompt_words()
    assert set(given.used_embeddings) == {"easynegative", "my-neg"}
    assert given.job_id() != asked(negative_prompt="(easynegative:1.2), MY-NEG").job_id()
    unused = asked(embeddings=[str(tmp_path)])
    assert unused.job_id() == asked().job_id()
    named = asked(prompt="a <cat> dot", embeddings=[f"{tmp_path / 'EasyNegative.safetensors'}=<cat>"])
    assert set(named.used_embeddings) == {"<cat>"}
    for entry, reason in (
        (str(tmp_path / "none.safetensors"), "is not here"),
        (f"{tmp_path}=word", "one word for a folder"),
        (f"{tmp_path / 'EasyNegative.safetensors'}=a:b", "it has no brackets, colons or commas"),
    ):
        with pytest.raises(ValueError, match=reason):
            asked(embeddings=[entry]).check_prompt_words()


def test_comfy_reads_embeddings_behind_their_prefix_only(tmp_path: Path) -> None:
    (tmp_path / "neg.safetensors").write_bytes(b"1")
    plain_word = asked(prompt="neg dot", embeddings=[str(tmp_path)], prompt_syntax="comfy")
    assert plain_word.used_embeddings == {}
    named = asked(prompt="embedding:neg.safetensors dot", embeddings=[str(tmp_path)], prompt_syntax="comfy")
    assert set(named.used_embeddings) == {"neg"}
