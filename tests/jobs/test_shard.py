"""Shards: together everything once, from a flag or a launcher."""

import pytest

from video_diffusion.jobs import Shard
from video_diffusion.jobs.job import parse_shard, shard_of_environment


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_together_are_everything_once(count):
    parts = [list(Shard(index, count).pick(range(20))) for index in range(count)]
    assert sorted(item for part in parts for item in part) == list(range(20))


def test_the_launchers_variables_are_read_torchrun_first():
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "5"}
    assert shard_of_environment({"RANK": "1", "WORLD_SIZE": "4", **slurm}) == Shard(1, 4)
    assert shard_of_environment(slurm) == Shard(2, 5)
    assert shard_of_environment({"RANK": "1"}) == Shard(0, 1)


def test_a_flag_is_i_of_n():
    assert parse_shard("3/4") == Shard(3, 4)
    for text in ("8/8", "x", "1/0", "-1/4", "1"):
        with pytest.raises(ValueError, match="shard must be i/n"):
            parse_shard(text)
    with pytest.raises(ValueError, match=r"n of 1 or more \(given 1/0\)$"):
        parse_shard("1/0")


def test_launcher_variables_that_contradict_each_other_are_named():
    with pytest.raises(ValueError, match=r"^RANK and WORLD_SIZE: shard must be i/n .* the last of 2 is 1/2$"):
        shard_of_environment({"RANK": "5", "WORLD_SIZE": "2"})
