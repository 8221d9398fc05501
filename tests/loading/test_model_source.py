import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from video_diffusion.loading import ModelLoadError, find_model


def test_a_folder_is_found_where_it_is(tmp_path: Path) -> None:
    source = find_model(str(tmp_path))
    assert (source.folder, source.revision) == (tmp_path, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no such file or folder, and not a hub id"),
        ("/no/such/folder", "no such file or folder, and not a hub id"),
        ("too/many/parts", "no such file or folder, and not a hub id"),
        ("owner/model/../x.safetensors", "no such file or folder, and not a hub id"),
        ("embeded", "no such file or folder, and not a hub id"),
        ("https://example.com/model", "no such file or folder, and not a hub id"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        find_model(name)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickle_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"mm{suffix}"
    file.write_bytes(b"\x80\x02")
    with pytest.raises(ModelLoadError, match=f"a {suffix} file is a pickle that could run code"):
        find_model(str(file))


def test_a_single_file_is_found_alone_or_in_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "mm.safetensors"
    file.write_bytes(b"1234")
    assert find_model(str(file)).adapter_folder == file
    assert find_model(str(tmp_path)).adapter_folder == file
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"holds 2 weights files and no config.json.*/mm\.safetensors"):
        _ = find_model(str(tmp_path)).adapter_folder


@pytest.mark.parametrize("place", [".", "checkpoints/step-00000100"])
def test_a_training_run_and_its_checkpoints_are_adapters(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "run" / place
    (folder / "motion_adapter").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").touch()
    (folder / "motion_adapter" / "config.json").write_text("{}")
    assert find_model(str(folder)).adapter_folder == folder / "motion_adapter"


def test_a_run_without_an_adapter_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ModelLoadError, match="has saved no motion_adapter yet; let it train"):
        _ = find_model(str(tmp_path)).adapter_folder
    (tmp_path / "motion_lora").mkdir()
    with pytest.raises(
        ModelLoadError, match=f"a motion LoRA, not a whole adapter.* {tmp_path}/motion_lora as"
    ):
        _ = find_model(str(tmp_path)).adapter_folder


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, by the owner's name."""

    def do_GET(self) -> None:
        codes = {"absent": (401, "RepoNotFound"), "gated": (403, "GatedRepo"), "busy": (500, "")}
        owner = self.path.removeprefix("/api/models/").split("/")[0]
        code, reason = codes.get(owner, (404, "RevisionNotFound"))
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  the names that the server calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PROGRAM = """
import sys
from video_diffusion.loading import ModelLoadError, find_model
for name in sys.argv[1:]:
    try:
        find_model(name)
    except ModelLoadError as error:
        print(error)
"""


def ask(tmp_path: Path, *names: str, **environment: str) -> list[str]:
    """In a process of its own, because the hub's client reads its settings when it is imported."""
    settings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_refusal_of_the_hub_has_its_own_sentence(tmp_path: Path, hub: str) -> None:
    names = ("absent/model", "gated/model", "present/model@v9")
    lines = ask(tmp_path, *names, HF_ENDPOINT=hub)
    prefixes = [f"{name}: no such folder here, and as a hub id it" for name in names]
    assert lines == [
        f"{prefixes[0]} does not exist on the hub, or is private; check the spelling, or log in with "
        "`hf auth login`",
        f"{prefixes[1]} is gated; accept its terms on the hub and log in with `hf auth login`",
        f"{prefixes[2]} has no revision v9; choose one that its page lists",
    ]


def test_without_network_the_cache_is_named(tmp_path: Path) -> None:
    (line,) = ask(tmp_path, "owner/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert f"is not whole in the local cache ({tmp_path / 'hub'}) and the hub cannot be reached" in line


def test_offline_a_cached_model_is_found_and_another_is_not_asked_for(tmp_path: Path, hub: str) -> None:
    snapshot = tmp_path / "hub" / "models--owner--cached" / "snapshots" / ("a" * 40)
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    (snapshot / "mm.safetensors").write_bytes(b"")
    names = ("owner/cached", "owner/cached/mm.safetensors", "owner/cached/no.safetensors", "owner/other")
    file_line, line = ask(tmp_path, *names, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1")
    assert line.startswith("owner/other: ")
    assert file_line.startswith("owner/cached/no.safetensors: ")
    assert "is not whole in the local cache" in file_line
    assert f"is not whole in the local cache ({tmp_path / 'hub'}) and HF_HUB_OFFLINE is set" in line


def test_finding_a_model_imports_no_torch() -> None:
    program = "import sys; from video_diffusion.loading import find_model; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
