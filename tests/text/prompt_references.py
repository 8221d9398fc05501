"""How A1111 and ComfyUI weigh prompts, written apart from the code: recursion on text, loops over numbers."""

import re
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor


def a1111_weights(text: str) -> list[tuple[str, float]]:
    """Letters and their weights: ( is 1.1, [ is 1/1.1, (…:x) is x, all of them multiplied; \\ escapes."""
    found: list[tuple[str, float]] = []
    place = 0
    while place < len(text):
        sign = text[place]
        if sign == "\\":
            found.append((text[place + 1], 1.0))
            place += 2
        elif sign in "([":
            inside, place = _inside(text, place)
            factor = 1.1 if sign == "(" else 1 / 1.1
            number = re.search(r"(?<!\\):\s*([+-]?[.\d]+)\s*$", inside)
            if sign == "(" and number:
                inside, factor = inside[: number.start()], float(number[1])
            found += [(letter, weight * factor) for letter, weight in a1111_weights(inside)]
        else:
            found.append((sign, 1.0))
            place += 1
    return found


def comfy_weights(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """Letters and their weights: a number in ( ) is the weight, ( ) alone is 1.1 times what is around."""
    found: list[tuple[str, float]] = []
    place = 0
    while place < len(text):
        if text[place] == "\\" and text[place + 1 : place + 2] in {"(", ")"}:
            found.append((text[place + 1], weight))
            place += 2
        elif text[place] == "(":
            inside, place = _inside(text, place, "()")
            own = weight * 1.1
            before, colon, number = inside.rpartition(":")
            with suppress(ValueError):
                own, inside = (float(number), before) if colon and before else (own, inside)
            found += comfy_weights(inside, own)
        else:
            found.append((text[place], weight))
            place += 1
    return found


def _inside(text: str, start: int, kinds: str = "()[]") -> tuple[str, int]:
    """What stands in the brackets that open at `start`, and where it goes on behind them."""
    depth, place = 0, start
    while True:
        if text[place] == "\\":
            place += 2
            continue
        depth += (text[place] in kinds[::2]) - (text[place] in kinds[1::2])
        place += 1
        if depth == 0:
            return text[start + 1 : place - 1], place


def words_of(letters: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Runs of equal weight."""
    runs: list[tuple[str, float]] = []
    for letter, weight in letters:
        if runs and runs[-1][1] == weight:
            runs[-1] = (runs[-1][0] + letter, weight)
        else:
            runs.append((letter, weight))
    return runs


def run_encoder(encoder: Any, tokenizer: Any, ids: list[int], length: int) -> Tensor:
    """The last hidden states of one chunk."""
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    row += [tokenizer.pad_token_id] * (length - len(row))
    with torch.no_grad():
        return encoder(torch.tensor([row])).last_hidden_state[0]


def a1111_embeds(z: Tensor, weights: list[float]) -> Tensor:
    """w·z, brought back to the mean it had."""
    numbers = torch.tensor([1.0, *weights, *[1.0] * (len(z) - 1 - len(weights))], dtype=z.dtype)
    weighted = torch.einsum("nd,n->nd", z, numbers)
    return weighted * (z.sum() / z.numel()) / (weighted.sum() / weighted.numel())


def comfy_embeds(z: Tensor, empty: Tensor, weights: list[float]) -> Tensor:
    """Token by token away from the empty prompt."""
    rows = [row.clone() for row in z]
    for place, weight in enumerate(weights, start=1):
        rows[place] = empty[place] + (z[place] - empty[place]) * weight
    return torch.stack(rows)


def a1111_layout(ids: list[int], length: int, comma: int, reach: int) -> list[list[int]]:
    """Tokens in chunks: where one is full and a comma stands within `reach`, what follows it moves on."""
    chunks, rest = [], list(ids)
    while len(rest) > length:
        commas = [place for place in range(length) if rest[place] == comma]
        near = commas and length - commas[-1] <= reach and rest[length] != comma
        cut = commas[-1] + 1 if near else length
        chunks.append(rest[:cut])
        rest = rest[cut:]
    return [*chunks, rest]
