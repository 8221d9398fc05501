"""Which jobs are this process's: every n-th, without a word between the processes."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

# (this process, all processes) as launchers tell them: torchrun and accelerate launch, then SLURM
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"shard must be i/n with n of 1 or more (given {self.index}/{self.count})")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard must be i/n with i from 0 to n-1 (given {self.index}/{self.count}); "
                f"the last of {self.count} is {self.count - 1}/{self.count}"
            )

    def pick(self, items: Iterable[Item]) -> Iterator[Item]:
        """This shard's items, in order."""
        return islice(items, self.index, None, self.count)


def parse_shard(text: str) -> Shard:
    """A shard from "0/4".

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if found is None:
        raise ValueError(f"shard must be i/n, such as 0/4 for the first of four (given {text!r})")
    return Shard(int(found[1]), int(found[2]))


def shard_of_environment(environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that a launcher gave this process, or everything.

    Raises:
        ValueError: the launcher's variables contradict each other.
    """
    for own, all_of_them in LAUNCHERS:
        index, count = environment.get(own, ""), environment.get(all_of_them, "")
        if index.isdecimal() and count.isdecimal():
            try:
                return Shard(int(index), int(count))
            except ValueError as error:
                raise ValueError(f"{own} and {all_of_them}: {error}") from None
    return Shard()
