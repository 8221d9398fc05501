"""Factors for the temporal layers of single blocks of the U-Net."""

import re
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, PlainSerializer

_BLOCK = re.compile(r"mid|(down|up)(\.\d)?")
HIGHEST = 10.0


def block_factors(value: object) -> tuple[tuple[str, float], ...]:
    """A map from blocks to factors as pairs, in the order given; pairs stay pairs.

    Raises:
        ValueError: no such map, a block that no U-Net has, one that is named twice, or a factor that is not a
            number from 0 to 10.
    """
    pairs = tuple(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError("must be a map from blocks to factors, such as {down: 0.8, mid: 1.2}")
    factors: dict[str, float] = {}
    for block, factor in pairs:
        if not isinstance(block, str) or not _BLOCK.fullmatch(block):
            raise ValueError(f"has the block {str(block)[:40]!r}; a block is down, mid, up, down.0, up.1, …")
        if block in factors:
            raise ValueError(f"names the block {block} twice; drop one")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor <= HIGHEST:
            raise ValueError(f"at block {block} must be a number from 0 to {HIGHEST:g}")
        factors[block] = float(factor)
    return tuple(factors.items())


BlockFactors: TypeAlias = Annotated[
    tuple[tuple[str, float], ...], BeforeValidator(block_factors), PlainSerializer(dict)
]
"""Blocks and their factors: down, mid and up, or one of them such as down.0, counted from the input; the
closer name wins."""
