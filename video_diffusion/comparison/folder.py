"""The folder of a comparison: what is written when its clips are there, and what earlier looks left in it."""

from dataclasses import replace
from pathlib import Path

from video_diffusion.comparison.caveats import peeking
from video_diffusion.comparison.summarise import Findings
from video_diffusion.comparison.summary import FILE_NAME, ComparisonSummary
from video_diffusion.comparison.tables import has_parquet, markdown, table_csv, write_parquet
from video_diffusion.config import ConfigError
from video_diffusion.io import atomic_path, write_bytes
from video_diffusion.web import counted

CONFIG, MARKDOWN, CSV, PARQUET = "config.yaml", "summary.md", "metrics.csv", "metrics.parquet"


def read_summary(folder: Path) -> ComparisonSummary:
    """The summary of a comparison's folder.

    Raises:
        ConfigError: the file is not such a summary.
        OSError: there is none, or it cannot be read.
    """
    path = folder / FILE_NAME
    return ComparisonSummary.from_json(path.read_bytes(), str(path))


def with_earlier_looks(found: Findings, folder: Path) -> Findings:
    """The findings with a warning if results were seen here before the design grew.

    Seeing results and then adding seeds or prompts finds differences by chance; the folder remembers.
    """
    if not (folder / FILE_NAME).is_file():
        return found
    try:
        before = read_summary(folder)
    except (ConfigError, OSError):
        return found  # an unreadable summary is replaced by this one
    same_design = before.baseline == found.arms[0].label
    inside = set(before.prompts) <= set(found.prompts) and set(before.seeds) <= set(found.seeds)
    grew = len(before.prompts) < len(found.prompts) or len(before.seeds) < len(found.seeds)
    looks = before.looks if same_design and inside else ()
    if same_design and inside and grew:
        looks = (*looks, _size(before.prompts, before.seeds))
    warnings = (*found.warnings, *peeking(looks, _size(found.prompts, found.seeds)))
    return replace(found, looks=looks, warnings=warnings)


def write_folder(summary: ComparisonSummary, folder: Path) -> list[Path]:
    """Writes the summary, its tables and the report page; each is whole or absent, the summary comes last.

    Returns:
        What was written, the report page first.

    Raises:
        OSError: no space, no permission.
    """
    from video_diffusion.comparison.report import write_report  # noqa: PLC0415  matplotlib is slow to import

    written = [write_report(summary, folder)]
    for name, text in ((MARKDOWN, markdown(summary)), (CSV, table_csv(summary))):
        write_bytes(folder / name, text.encode())
        written.append(folder / name)
    if has_parquet():
        with atomic_path(folder / PARQUET) as part:
            write_parquet(summary, part)
        written.append(folder / PARQUET)
    write_bytes(folder / FILE_NAME, summary.to_json().encode())
    return [*written, folder / FILE_NAME]


def _size(prompts: tuple[str, ...], seeds: tuple[int, ...]) -> str:
    return f"{counted(len(prompts), 'prompt')} × {counted(len(seeds), 'seed')}"
