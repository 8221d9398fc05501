"""What clips put into their model while they are made, LoRAs and an IP-Adapter, and take out again."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from video_diffusion.loading import ModelParts, parse_lora

if TYPE_CHECKING:
    from video_diffusion.loading import LoadedIpAdapter


@dataclass(frozen=True)
class Additions:
    """What is at work in a model.

    Attributes:
        sha256s: Of its files, by setting, for the record.
        ip_adapter: None if there is none.
    """

    sha256s: Mapping[str, str]
    ip_adapter: "LoadedIpAdapter | None" = None


@contextmanager
def at_work(parts: ModelParts, settings: Any) -> Iterator[Additions]:
    """Put to work what settings name, for the length of a `with` block.

    Args:
        parts: The model; its weights change within the block.
        settings: Resolved.

    Raises:
        ModelLoadError: A file that is missing, damaged, or made for another model.
    """
    sha256s: dict[str, str] = {}
    ip_adapter = None
    with ExitStack() as stack:
        if settings.loras:
            from video_diffusion.loading import load_loras  # noqa: PLC0415  brings peft along

            loras = stack.enter_context(load_loras(parts, [parse_lora(entry) for entry in settings.loras]))
            sha256s |= {f"loras.{k}": str(lora.sha256) for k, lora in enumerate(loras.loras)}
        if settings.ip_adapter is not None:
            from video_diffusion.loading import load_ip_adapter  # noqa: PLC0415  brings CLIP's eyes along

            ip_adapter = stack.enter_context(load_ip_adapter(parts, settings.ip_adapter, settings.ip_scale))
            sha256s |= ip_adapter.sha256s
        yield Additions(sha256s, ip_adapter)
