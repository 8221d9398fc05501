"""The syntax of prompts as text, before any model: weights, breaks, LoRAs, embeddings, lines by frame.

What the weights then do to embeddings stands in `video_diffusion.text.prompts`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

PromptSyntax = Literal["a1111", "comfy", "plain"]

EMPHASIS = 1.1  # what one pair of round brackets is worth
MAX_WEIGHT = 10.0
MAX_DEPTH = 50
LONGEST_READ_WHOLE = 75  # tokens of one chunk of CLIP
WAY_OUT = r"write \{} for the sign itself, or set prompt_syntax to plain"


class Segment(NamedTuple):
    """Some text of a prompt and its weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt taken apart.

    Attributes:
        parts: Between one BREAK and the next, each with its segments.
        loras: Names and weights of `<lora:NAME:WEIGHT>`, in order.
    """

    parts: tuple[tuple[Segment, ...], ...]
    loras: tuple[tuple[str, float], ...] = ()

    @property
    def text(self) -> str:
        """All that is said, without the syntax."""
        return " ".join("".join(segment.text for segment in part) for part in self.parts)


def parse_prompt(prompt: str, syntax: PromptSyntax) -> ParsedPrompt:
    """Take a prompt apart.

    Args:
        prompt: As it was given.
        syntax: "a1111" multiplies the weights of nested brackets, "comfy" takes the innermost number,
            "plain" reads every sign as text.

    Raises:
        ValueError: Brackets that do not match, a weight out of range, or syntax that is not supported; the
            message follows the name of a setting.

    >>> [(text, round(weight, 4)) for text, weight in parse_prompt("a (red:1.3) [dot]", "a1111").parts[0]]
    [('a ', 1.0), ('red', 1.3), (' ', 1.0), ('dot', 0.9091)]
    """
    if syntax == "plain":
        return ParsedPrompt(((Segment(prompt),),))
    text, loras = _take_loras(prompt)
    segments = _a1111_segments(text) if syntax == "a1111" else list(_comfy_segments(text))
    for segment in segments:
        _check_weight(segment.weight)
    parts: list[list[Segment]] = [[]]
    for segment in segments:
        first, *others = _BREAK.split(segment.text)
        parts[-1].append(Segment(first, segment.weight))
        parts += [[Segment(text, segment.weight)] for text in others]
    return ParsedPrompt(tuple(tuple(filter(lambda segment: segment.text, part)) for part in parts), loras)


def reads_syntax(prompt: str) -> bool:
    """Tell whether a syntax other than plain may read something else in a prompt than its letters.

    So does a prompt of more words and signs than one chunk holds, which plain cuts.
    """
    return bool(_SYNTAX.search(prompt)) or len(_PIECES.findall(prompt)) > LONGEST_READ_WHOLE


_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_SYNTAX = re.compile(r"[()\[\]\\<>]|\bBREAK\b|\bembedding:")
_PIECES = re.compile(r"[^\W\d_]+|\d|[^\w\s]+")
_NUMBER = r"[+-]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})(?:[eE][+-]?\d{1,3})?"
_SIGNS = re.compile(rf"\\(?P<escaped>.?)|:\s*(?P<weight>{_NUMBER})\s*(?=\))|[^\\()\[\]:]+|.", re.DOTALL)
_EDITING = re.compile(r"\[[^\[\]]*(?:\||:[^\[\]:()]*\d\s*\])")


def _a1111_segments(text: str) -> list[Segment]:
    """Take weights apart as AUTOMATIC1111's web UI does: every pair of brackets multiplies what is in it."""
    edited = _EDITING.search(re.sub(r"\\.", "__", text))
    if edited is not None:
        raise ValueError(
            f"has {text[edited.start() : edited.start() + 30]!r}, prompt editing by steps, which is not "
            "supported; change a prompt along the frames with prompt_travel (--prompt 'FRAME: TEXT')"
        )
    pieces: list[tuple[str, float]] = []
    opened: list[tuple[str, int, int]] = []  # bracket, its place in the text, the first piece inside
    number: float | None = None
    for found in _SIGNS.finditer(text):
        sign = found[0]
        if found["escaped"] is not None:
            pieces.append((found["escaped"], 1.0))
        elif sign in {"(", "["}:
            opened.append((sign, found.start(), len(pieces)))
            _check_depth(len(opened))
        elif found["weight"] is not None and opened and opened[-1][0] == "(":
            number = float(found["weight"])
        elif sign in {")", "]"}:
            bracket, first = _closed(opened, sign, found.start())
            factor = EMPHASIS if bracket == "(" else 1 / EMPHASIS
            factor = factor if number is None else number
            number = None
            pieces[first:] = [(piece, weight * factor) for piece, weight in pieces[first:]]
        else:
            pieces.append((sign, 1.0))
    if opened:
        raise ValueError(_unclosed(*opened[-1][:2]))
    segments: list[Segment] = []
    for piece, weight in pieces:
        if segments and segments[-1].weight == weight:
            segments[-1] = Segment(segments[-1].text + piece, weight)
        else:
            segments.append(Segment(piece, weight))
    return segments


def _closed(opened: list[tuple[str, int, int]], sign: str, place: int) -> tuple[str, int]:
    """The bracket that a sign closes, and the first piece inside it."""
    bracket, start, first = opened.pop() if opened else ("", 0, 0)
    if not bracket:
        raise ValueError(_unopened(sign, place))
    if (bracket, sign) not in {("(", ")"), ("[", "]")}:
        raise ValueError(
            f"closes {sign} at sign {place + 1} where the {bracket} at sign {start + 1} is open; close that "
            "first"
        )
    return bracket, first


def _comfy_segments(text: str, weight: float = 1.0, depth: int = 0) -> Iterator[Segment]:
    """Take weights apart as ComfyUI does: a number replaces the weight around it, a bare pair multiplies."""
    _check_depth(depth)
    start, level, opened_at = 0, 0, 0
    for found in re.finditer(r"\\[()]|[()]", text):
        sign = found[0]
        if sign == "(":
            if level == 0:
                yield Segment(_unescaped(text[start : found.start()]), weight)
                opened_at, start = found.start(), found.end()
            level += 1
        elif sign == ")":
            if level == 0:
                raise ValueError(
                    f"closes ) at sign {found.start() + 1} without opening it; " + WAY_OUT.format(")")
                )
            level -= 1
            if level == 0:
                inside = text[start : found.start()]
                said = re.fullmatch(rf"(.+):\s*({_NUMBER})\s*", inside, re.DOTALL)
                own = float(said[2]) if said else weight * EMPHASIS
                yield from _comfy_segments(said[1] if said else inside, own, depth + 1)
                start = found.end()
    if level:
        raise ValueError(_unclosed("(", opened_at))
    yield Segment(_unescaped(text[start:]), weight)


def _unescaped(text: str) -> str:
    return text.replace(r"\(", "(").replace(r"\)", ")")


def _unclosed(bracket: str, place: int) -> str:
    closing = {"(": ")", "[": "]"}[bracket]
    way_out = f"add {closing}, or {WAY_OUT.format(bracket)}"
    return f"opens {bracket} at sign {place + 1} and never closes it; {way_out}"


def _unopened(sign: str, place: int) -> str:
    return f"closes {sign} at sign {place + 1} without opening it; {WAY_OUT.format(sign)}"


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"has brackets more than {MAX_DEPTH} deep; write one weight such as (word:1.3)")


def _check_weight(weight: float) -> None:
    if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
        raise ValueError(
            f"has the weight {weight:g}; a weight, with all brackets around it, is from -{MAX_WEIGHT:g} to "
            f"{MAX_WEIGHT:g}, and 0.5 to 1.5 is usual"
        )


# LoRAs named inside a prompt: <lora:NAME:WEIGHT>.


_TAG = re.compile(r"<(\w+):([^<>]*)>")


def _take_loras(prompt: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """The prompt without its LoRAs, and these."""
    loras: dict[str, float] = {}
    for tag in _TAG.finditer(prompt):
        if tag[1] != "lora":
            raise ValueError(
                f"has {tag[0][:60]!r}, which is not supported; write <lora:NAME:WEIGHT>, or leave it out"
            )
        name, *numbers = (part.strip() for part in tag[2].split(":"))
        weights = {_lora_weight(number, tag[0]) for number in numbers or ["1"]}
        if not name or len(weights) > 1 or loras.get(name, *weights) not in weights:
            raise ValueError(
                f"has {tag[0][:60]!r}, but a LoRA has one name and one weight; write <lora:NAME:WEIGHT>"
            )
        loras[name] = weights.pop()
    return _TAG.sub("", prompt), tuple(loras.items())


def _lora_weight(text: str, tag: str) -> float:
    if re.fullmatch(_NUMBER, text) and -MAX_WEIGHT <= float(text) <= MAX_WEIGHT:
        return float(text)
    raise ValueError(f"has {tag[:60]!r}, whose weight must be a number from -10 to 10; 0.6 to 1 is usual")


# Words that stand for embeddings (textual inversion).


PUBLISHED_EMBEDDINGS = frozenset({
    "easynegative", "easynegativev2", "badhandv4", "bad-hands-5", "bad-hands-3", "bad_hands-5",
    "negative_hand", "negative_hand-neg", "negativehand-neg", "ng_deepnegative_v1_75t",
    "ng_deepnegative_v1_64t", "verybadimagenegative_v1.3", "verybadimagenegative_v1.2-6400",
    "verybadimagenegative_v1.1-6400", "bad-image-v2-39000", "bad_prompt", "bad_prompt_version2",
    "bad_prompt_version2-neg", "bad-artist", "bad-artist-anime", "bad-picture-chill-75v",
    "bad-picture-chill-32v", "bad-picture-chill-1v", "fastnegativev2", "fastnegativeembedding", "baddream",
    "unrealisticdream", "realisticdream", "epicnegative", "epicphoto-neg",
    "epicphotogasm-colorfulphoto-neg", "juggernautnegative-neg", "cyberrealistic_negative",
    "cyberrealistic_negative-neg", "realisticvision-negative-embedding", "nrealfixer", "nfixer",
    "boring_e621", "boring_e621_v4", "rev2-badprompt", "rmadanegative4_sd15-neg", "aissist-neg",
    "pureerosface_v1", "ulzzang-6500", "ulzzang-6500-v1.1", "corneo_", "negativexl_d",
    "unaestheticxl_sky3.1", "ac_neg1", "ac_neg2", "zpdxlnegative", "bad_pictures", "badquality",
    "kkw-deeper-neg", "mtnegative-neg", "dpwnegative",
})  # fmt: skip
"""Names of much used embeddings, in lower case: where one is written and not given, letters are not meant."""


def split_at_embeddings(text: str, words: Collection[str], syntax: PromptSyntax) -> list[tuple[str, bool]]:
    """Cut a text at the words that stand for embeddings.

    Args:
        text: Of one segment.
        words: That are given, in any case; the longest one wins.
        syntax: In "comfy" such a word follows `embedding:`, in "a1111" it may.

    Returns:
        Pieces in order, and whether each is such a word, then in lower case.
    """
    if not words or syntax == "plain":
        return [(text, False)]
    names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    prefix = "embedding:" if syntax == "comfy" else "(?:embedding:)?"
    pattern = rf"(?<![\w-]){prefix}({names})(?:\.safetensors|\.pt|\.bin)?(?![\w-])"
    pieces = re.split(pattern, text, flags=re.IGNORECASE)
    marked = [(piece.lower() if k % 2 else piece, bool(k % 2)) for k, piece in enumerate(pieces)]
    return [(piece, is_word) for piece, is_word in marked if piece]


def missing_embeddings(text: str, words: Collection[str], syntax: PromptSyntax) -> list[str]:
    """List what names an embedding that is not given: `embedding:NAME`, `<NAME>`, well-known words."""
    if syntax == "plain":
        return []
    given = {word.lower() for word in words}
    rest = " ".join(piece for piece, is_word in split_at_embeddings(text, given, syntax) if not is_word)
    named = re.findall(r"\bembedding:([\w.-]*\w)|<(\w[\w.-]+\w)>|(?<![\w.-])([\w.-]*\w)", rest)
    missing: dict[str, None] = {}
    for explicit, angled, word in named:
        if explicit or angled:
            missing[explicit or f"<{angled}>"] = None
        elif word.lower() in PUBLISHED_EMBEDDINGS - given:
            missing[word] = None
    return list(missing)


# Prompts that change along the frames, written inside one prompt.


class Travel(NamedTuple):
    """A prompt with lines by frame: what stands before them, the frames, and what stands after."""

    head: str
    keyframes: Mapping[str, str]
    tail: str


_FRAME = r"-?\d{1,4}|0?\.\d{1,9}|1\.0{1,9}"
_QUOTED = re.compile(rf'"({_FRAME})"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,?')
_LINE = re.compile(rf"({_FRAME})\s*:(?=\s)(.*)")


def split_travel(prompt: str) -> Travel | None:
    """Read lines such as `16: a square`, or pairs such as `"16": "a square"`; None if there are none.

    Raises:
        ValueError: Such lines that cannot be told apart from the rest of the prompt.
    """
    text = _QUOTED.sub(lambda pair: f"\n{pair[1]}: {pair[2]}\n", prompt)
    lines = [line for line in map(str.strip, text.splitlines()) if line.strip("{}, ")]
    found = [_LINE.fullmatch(line) for line in lines]
    places = [place for place, line in enumerate(found) if line is not None]
    if not places:
        return None
    first, last = places[0], places[-1]
    if len(places) != last - first + 1:
        between = next(line for place, line in enumerate(lines) if place > first and found[place] is None)
        raise ValueError(
            f"has the line {between[:60]!r} between two lines by frame; put it before the first or after "
            "the last of them"
        )
    keyframes: dict[str, str] = {}
    for match in found[first : last + 1]:
        assert match is not None
        frame, said = match[1], match[2].strip()
        if re.search(r"(?<![\w:.])\d{1,4}:\s", said) or frame in keyframes:
            raise ValueError(
                f"has {match[0][:60]!r}; write each frame once, on a line of its own such as '16: a square'"
            )
        keyframes[frame] = said
    head, tail = ", ".join(lines[:first]).rstrip(" ,"), ", ".join(lines[last + 1 :]).strip(" ,")
    return Travel(f"{head}," if head else "", keyframes, f", {tail}" if tail else "")
