"""What a clip shows, as settings: prompts, how they are read, and what they name: LoRAs and embeddings.

`GenerationSettings` is made of these and of all the others.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from video_diffusion.settings.field_rules import (
    PromptBlend,
    Setting,
    check_name,
    check_path,
    check_prompt,
    check_text,
    expanded,
)
from video_diffusion.settings.input_files import check_items, embedding_files, find_in_folder
from video_diffusion.settings.keyframes import TextKeyframes, earliest
from video_diffusion.settings.layers import ConfigError
from video_diffusion.settings.prompt_syntax import (
    PromptSyntax,
    missing_embeddings,
    parse_prompt,
    split_at_embeddings,
    split_travel,
)

if TYPE_CHECKING:
    from pydantic import ValidationInfo
else:
    ValidationInfo = Any  # a protocol that no runtime check can ask for


Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str | None, AfterValidator(check_name)]
File = Annotated[str | None, AfterValidator(check_path)]


class PromptSettings(BaseModel):
    """The part of `GenerationSettings` that says what a clip shows."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,  # `--help` shows the declarations and checks nothing
    )

    prompt_syntax: Annotated[
        PromptSyntax,
        Field(
            description="How prompts are read. a1111: (word:1.3), ((word)), [word], BREAK, weights as in the "
            "web UI; comfy: as in ComfyUI; plain: letters alone, cut at one chunk of tokens. See "
            "docs/prompts.md."
        ),
        Setting("--prompt-syntax", "NAME"),
    ] = "a1111"
    prompt_travel: Annotated[
        TextKeyframes,
        Field(
            description="What the clip shows from a frame on, blended between. `prompt` holds at frame 0 "
            "unless this says otherwise, and may be left out. A frame is a number from 0, one counted from "
            "the end (-1 is the last), or a share of the clip with a point (0.5 is the middle)."
        ),
        Setting("--prompt", "FRAME: TEXT", each="frame"),
    ] = ()
    negative_prompt_travel: Annotated[
        TextKeyframes,
        Field(description="The same for the negative prompt."),
        Setting("--negative-travel", "FRAME: TEXT", each="frame"),
    ] = ()
    prompt_head: Annotated[
        Text,
        Field(description="What every prompt of the clip begins with. A space goes between."),
        Setting("--prompt-head", "TEXT"),
    ] = ""
    prompt_tail: Annotated[
        Text,
        Field(description="What every prompt of the clip ends with."),
        Setting("--prompt-tail", "TEXT"),
    ] = ""
    prompt_blend: Annotated[
        PromptBlend,
        Field(description="How embeddings go from one prompt to the next, in a straight line or on an arc."),
        Setting("--prompt-blend", "NAME"),
    ] = "lerp"
    prompt: Annotated[
        str,
        AfterValidator(check_prompt),
        Field(
            description="What the clip shows. Never empty, stored verbatim; lines by frame inside it "
            "(`8: TEXT`) become `prompt_travel`."
        ),
        Setting(in_id=True),
    ]
    negative_prompt: Annotated[
        Text,
        Field(description="What to stay away from."),
        Setting("--negative-prompt", "TEXT", in_id=True),
    ] = ""
    loras: Annotated[
        tuple[str, ...],
        BeforeValidator(check_items),
        Field(description="A LoRA on temporal layers or on the image model, with its weight; repeatable."),
        Setting("--lora", "PATH[:WEIGHT]", each="item", names="loras"),
    ] = ()
    lora_folder: Annotated[
        File,
        Field(description="Where LoRAs lie that prompts name as `<lora:NAME:WEIGHT>`."),
        Setting("--lora-folder", "DIR", pixels=False),
    ] = None
    embeddings: Annotated[
        tuple[str, ...],
        BeforeValidator(check_items),
        Field(
            description="An embedding (textual inversion) for a word of the prompts, or a folder of them; "
            "repeatable. Its word is the file's name where none is given."
        ),
        Setting("--embedding", "FILE[=WORD]", each="item", names="embeddings"),
    ] = ()
    clip_skip: Annotated[
        int | None,
        Field(
            ge=1,
            le=32,
            description="Layer of the text encoder to read, from the end, as A1111 counts. 1 is the last; "
            "None is 1, and for SDXL 2.",
        ),
        Setting("--clip-skip", "N", none_means=1),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _prompt_of_travel(cls, values: Any) -> Any:
        """A clip whose prompts are all given by frame begins with the first of them."""
        if isinstance(values, Mapping) and values.get("prompt_syntax") != "plain":
            for name in ("prompt", "negative_prompt"):
                values = _with_travel_inside(values, name)
        if not isinstance(values, Mapping) or "prompt" in values:
            return values
        first = earliest(values.get("prompt_travel"))
        return values if first is None else {**values, "prompt": first}

    @field_validator(
        "prompt_travel", "negative_prompt_travel", "prompt_head", "prompt_tail", "prompt", "negative_prompt"
    )
    @classmethod
    def _check_syntax(cls, given: Any, info: ValidationInfo) -> Any:
        for frame, text in given if isinstance(given, tuple) else ((None, given),):
            try:
                parse_prompt(text, info.data.get("prompt_syntax", "plain"))
            except ValueError as error:
                raise ValueError(str(error) if frame is None else f"at frame {frame} {error}") from None
        return given

    @property
    def prompt_texts(self) -> tuple[str, ...]:
        """Every text that says what the clip shows, each once, as it was written."""
        texts = (self.prompt_head, self.prompt, *(text for _, text in self.prompt_travel), self.prompt_tail)
        return tuple(dict.fromkeys(text for text in texts if text))

    @property
    def negative_texts(self) -> tuple[str, ...]:
        """Every text that says what to stay away from, likewise."""
        texts = (self.negative_prompt, *(text for _, text in self.negative_prompt_travel))
        return tuple(dict.fromkeys(text for text in texts if text))

    @property
    def all_prompts(self) -> tuple[str, ...]:
        """Every text that says what the clip shows, each once, in words: without syntax and embeddings."""
        said = [parse_prompt(text, self.prompt_syntax).text for text in self.prompt_texts]
        words = self.embedding_files
        pieces = [split_at_embeddings(text, words, self.prompt_syntax) for text in said]
        return tuple(" ".join(piece for piece, is_word in each if not is_word) for each in pieces)

    @property
    def all_loras(self) -> tuple[str, ...]:
        """`loras` and those that prompts name as <lora:NAME:WEIGHT>, found in `lora_folder`.

        Raises:
            ValueError: A prompt names one that is not there, or two prompts name one with two weights.
        """
        return (*self.loras, *self._prompt_loras())

    def _prompt_loras(self) -> Iterator[str]:
        weights: dict[Path, float] = {}
        named = [each for text in self.prompt_texts for each in parse_prompt(text, self.prompt_syntax).loras]
        for name, weight in named:
            if self.lora_folder is None:
                raise ValueError(
                    f"prompt names the LoRA {name!r}, but lora_folder does not say where it lies; set "
                    "lora_folder (--lora-folder DIR), or give the file as loras (--lora FILE:WEIGHT)"
                )
            file = find_in_folder(self.lora_folder, name)
            if weights.setdefault(file, weight) != weight:
                raise ValueError(
                    f"prompt names the LoRA {name!r} with the weights {weights[file]:g} and {weight:g}; "
                    "a LoRA has one weight for the whole clip"
                )
        yield from (f"{file}:{weight:g}" for file, weight in weights.items())

    @property
    def embedding_files(self) -> dict[str, str]:
        """The file of each word that is given for prompts; words in lower case."""
        return embedding_files(self.embeddings) if self.embeddings else {}

    @property
    def used_embeddings(self) -> dict[str, str]:
        """Those of them that a prompt names."""
        files = self.embedding_files
        if not files:
            return {}
        named = [
            piece
            for text in (*self.prompt_texts, *self.negative_texts)
            for piece, is_word in split_at_embeddings(
                parse_prompt(text, self.prompt_syntax).text, files, self.prompt_syntax
            )
            if is_word
        ]
        return {word: files[word] for word in dict.fromkeys(named)}

    @property
    def named_in_prompts(self) -> tuple[tuple[str, str], ...]:
        """What the prompts name that must be here: LoRAs, and embeddings that are not given."""
        words = self.embedding_files
        found: dict[tuple[str, str], None] = {}
        for setting, texts in (("prompt", self.prompt_texts), ("negative_prompt", self.negative_texts)):
            for text in texts:
                parsed = parse_prompt(text, self.prompt_syntax)
                missing = missing_embeddings(parsed.text, words, self.prompt_syntax)
                found |= dict.fromkeys((setting, word) for word in missing)
                found |= dict.fromkeys(("lora", name) for name, _ in parsed.loras)
        return tuple(found)

    def check_prompt_words(self) -> None:
        """Refuse prompts that name embeddings or LoRAs which are not here.

        Raises:
            ValueError: The first that is missing, and how it is given.
        """
        for path in self.embedding_files.values():
            if not expanded(path).is_file():
                raise ValueError(f"embeddings names {path}, which is not here; check the spelling")
        for name, word in self.named_in_prompts:
            if name != "lora":
                raise ValueError(
                    f"{name} names the embedding {word!r}, which is not given; set embeddings to its file "
                    "(--embedding FILE), or take the word out"
                )
        tuple(self.all_loras)


def _with_travel_inside(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Values with the lines by frame that a prompt holds as its travel."""
    text, travel_name = values.get(name), f"{name}_travel"
    if not isinstance(text, str) or ":" not in text:
        return values
    try:
        travel = split_travel(text)
        if travel is not None and values.get(travel_name):
            raise ValueError(f"has lines by frame and {travel_name} is set; keep one of them")
    except ValueError as error:
        raise ConfigError(f"{name} {error}") from None
    if travel is None:
        return values
    if name == "negative_prompt":
        texts = {
            frame: " ".join(filter(None, (travel.head, said, travel.tail)))
            for frame, said in travel.keyframes.items()
        }
        return {**values, name: earliest(texts) or "", travel_name: texts}
    head, tail = str(values.get("prompt_head", "")), str(values.get("prompt_tail", ""))
    return {
        **values,
        name: earliest(travel.keyframes) or text,
        travel_name: dict(travel.keyframes),
        "prompt_head": " ".join(filter(None, (head, travel.head))),
        "prompt_tail": " ".join(filter(None, (travel.tail, tail))),
    }
