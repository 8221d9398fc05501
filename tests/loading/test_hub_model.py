"""Models and IP-Adapters in the hub's cache, offline, by revision and variant."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ip_adapter_files import save_tiny_ip_adapter
from tiny_models import save_tiny_model, tiny_unet

MAIN, OLD = "a" * 40, "b" * 40
PROGRAM = """
import json, sys
import torch
from video_diffusion.loading import ModelLoadError, find_ip_adapter, load_model
for name in sys.argv[1:]:
    try:
        if "safetensors" in name:
            found = find_ip_adapter(name)
            print(json.dumps([found.weights.path.name, found.encoder.name]))
        else:
            parts = load_model(name)
            print(json.dumps([parts.identity.revision, float(parts.unet.conv_in.bias[0])]))
    except ModelLoadError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of one model, the newer one in two precisions; the first bias tells which was read."""
    home = tmp_path_factory.mktemp("hub")
    repo = home / "hub" / "models--owner--tiny"
    for revision, bias in ((MAIN, 1.0), (OLD, 2.0)):
        folder = save_tiny_model(repo / "snapshots" / revision)
        unet = tiny_unet()
        torch.nn.init.constant_(unet.conv_in.bias, bias)
        unet.save_pretrained(folder / "unet")
    torch.nn.init.constant_(unet.conv_in.bias, 3.0)
    whole = repo / "snapshots" / MAIN
    unet.save_pretrained(whole / "unet", variant="fp16")
    for file in (*whole.glob("*/diffusion_pytorch_model.safetensors"), *whole.glob("*/model.safetensors")):
        half = file.with_suffix(".fp16.safetensors")
        if not half.exists():
            shutil.copy(file, half)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(MAIN)
    (repo / "refs" / "old").write_text(OLD)
    adapter = home / "hub" / "models--owner--pictures"
    save_tiny_ip_adapter(adapter / "snapshots" / MAIN, tiny_unet())
    (adapter / "refs").mkdir()
    (adapter / "refs" / "main").write_text(MAIN)
    return home


@pytest.mark.full
def test_a_cached_model_is_loaded_by_revision_and_variant(cache: Path) -> None:
    names = ("owner/tiny", "owner/tiny@old", "owner/tiny:fp16", f"owner/tiny:fp16@{MAIN}", "owner/tiny:bf16")
    file = "owner/pictures/models/ip-adapter-image.safetensors"
    settings = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PROGRAM, *names, file, "owner/pictures/other.safetensors"]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[:4] == [[MAIN, 1.0], [OLD, 2.0], [MAIN, 3.0], [MAIN, 3.0]]
    assert "no diffusion_pytorch_model.bf16.safetensors; leave the variant out" in lines[4]
    assert lines[5] == ["ip-adapter-image.safetensors", "image_encoder"]
    assert "is not whole in the local cache" in lines[6]
