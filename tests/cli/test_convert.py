"""`convert` and `inspect` of temporal weights: every layout, bit for bit, and what each file is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clip_commands import run
from diffusers.models.unets.unet_motion_model import MotionAdapter as DiffusersMotionAdapter
from motion_files import original_lora, published, published_file, stored_bits
from safetensors.torch import load_file, save_file
from tiny_models import tiny_adapter, tiny_unet

from video_diffusion.loading import read_motion_checkpoint

pytestmark = pytest.mark.usefixtures("empty_folder")


def done(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_an_adapter_goes_both_ways_bit_for_bit(tmp_path: Path) -> None:
    file = published_file(tmp_path, "animatediff-v3")
    assert done("convert", file, "folder", "--to", "diffusers") == "folder"
    theirs = DiffusersMotionAdapter.from_pretrained("folder")
    assert stored_bits(theirs) == stored_bits(read_motion_checkpoint(file))
    assert done("convert", "folder", "back.safetensors") == "back.safetensors"
    back, stored = load_file("back.safetensors"), load_file(file)
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in stored.items())
    facts = json.loads(done("convert", file, "half", "--dtype", "float16", "--json"))
    assert (facts["family"], facts["dtypes"]) == ("animatediff-v3", ["F16"])


def test_a_run_becomes_a_file_with_its_card(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    adapter = tiny_adapter(tiny_unet())
    adapter.save_pretrained(run_folder / "checkpoints" / "step-00000100" / "motion_adapter")
    (run_folder / "config.yaml").write_text("data: clips\n# ```\nmodel: embedded\n")
    (run_folder / "metrics.jsonl").write_text(
        '{"step": 90, "loss": 1}\n{"step": 100, "loss": 0.25}\n{"step": 100}\n'
    )
    options = ["--card", "--base-model", "me/base", "--license", "apache-2.0"]
    done("convert", run_folder / "checkpoints" / "step-00000100", "mine.safetensors", *options)
    assert stored_bits(read_motion_checkpoint("mine.safetensors")) == stored_bits(adapter)
    card = Path("mine.md").read_text()
    assert card.startswith("---\nbase_model: me/base\nlibrary_name: diffusers\nlicense: apache-2.0\n")
    assert "video-diffusion generate PROMPT --model MODEL --motion-adapter mine.safetensors" in card
    assert "````yaml\ndata: clips\n# ```\nmodel: embedded\n````" in card
    assert '"loss": 0.25' in card
    done("convert", run_folder / "checkpoints" / "step-00000100", "folder", "--card")
    assert "license: unknown" in Path("folder/README.md").read_text()


def test_a_motion_lora_goes_both_ways(tmp_path: Path) -> None:
    adapter = tiny_adapter(tiny_unet())
    (tmp_path / "run" / "motion_lora").mkdir(parents=True)
    save_file(original_lora(adapter), "zoom.safetensors")
    done(
        "convert", "zoom.safetensors", "run/motion_lora/pytorch_lora_weights.safetensors", "--to", "diffusers"
    )
    done("convert", "run", "back.safetensors", "--to", "animatediff")
    back, stored = load_file("back.safetensors"), load_file("zoom.safetensors")
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in stored.items())
    assert done("convert", "back.safetensors", "folder") == "folder"
    assert Path("folder/pytorch_lora_weights.safetensors").is_file()
    facts = json.loads(done("inspect", "back.safetensors", "--json"))
    assert (facts["kind"], facts["rank"]) == ("motion LoRA", [3])
    assert facts["use"] == "video-diffusion generate PROMPT --lora back.safetensors:1.0"
    assert json.loads(done("inspect", "run", "--json"))["motion_lora"]["kind"] == "motion LoRA"


def test_a_checkpoint_of_the_old_kind_is_made_safe_once(tmp_path: Path) -> None:
    torch.save({"state_dict": published("animatediff-v1")}, "mm_sd_v15.ckpt")
    refused = run("convert", "mm_sd_v15.ckpt", "mm_sd_v15.safetensors")
    assert refused.exit_code == 3
    assert "convert mm_sd_v15.ckpt mm_sd_v15.safetensors --allow-pickle" in refused.stderr
    assert not Path("mm_sd_v15.safetensors").exists()
    done("convert", "mm_sd_v15.ckpt", "mm_sd_v15.safetensors", "--allow-pickle")
    facts = json.loads(done("inspect", "mm_sd_v15.safetensors", "--json"))
    old = json.loads(done("inspect", "mm_sd_v15.ckpt", "--allow-pickle", "--json"))
    for name in ("family", "max_num_frames", "resnet_norm_scope", "schedule", "num_parameters"):
        assert facts[name] == old[name]
    assert (facts["family"], facts["resnet_norm_scope"]) == ("animatediff-v1", "clip")
    assert run("inspect", "mm_sd_v15.ckpt").exit_code == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("file", "out", "--to", "animatediff"), 2, "DST must end with .safetensors for layout animatediff"),
        (("file", "out.safetensors", "--to", "diffusers"), 2, "DST must be a folder"),
        (("file", "s.safetensors/out"), 2, "DST: s.safetensors, or a folder above it, is a file"),
        (("other", "no/such/out"), 3, "holds no temporal layers"),
        (("file", "out.ckpt"), 2, "DST: out.ckpt would be a pickle"),
        (("file", "file"), 2, "exists; add --overwrite"),
        (("nothing.safetensors", "out"), 3, "nothing.safetensors"),
        (("other", "out"), 3, "holds no temporal layers"),
        (("file", "out", "--license", "x y"), 2, "--license: must be a name"),
        (("file", "out", "--license", "mit"), 2, "add --card"),
        (("file", "out", "--dtype", "int8"), 2, "dtype must be one of"),
    ],
)
def test_what_cannot_be_converted_is_one_line(
    tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    names = {"file": published_file(tmp_path, "animatediff-sdxl"), "spatial": "s.safetensors"}
    save_file({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": torch.ones(2, 8)}, "s.safetensors")
    save_file({"a": torch.ones(2)}, "o.safetensors")
    before = set(tmp_path.iterdir())
    result = run("convert", *({**names, "other": "o.safetensors"}.get(word, word) for word in words))
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("family", ["animatediff-v1", "hotshot-xl", "pia", "animatediff-lightning"])
def test_inspect_says_what_a_motion_module_is(tmp_path: Path, family: str) -> None:
    file = published_file(tmp_path, family)
    facts = json.loads(done("inspect", file, "--json"))
    assert (facts["kind"], facts["family"]) == ("motion module", family)
    assert facts["layout"] == ("hotshot" if family == "hotshot-xl" else "animatediff")
    assert facts["usual_settings"]["num_inference_steps"] == {"hotshot-xl": 30}.get(
        family, 4 if "lightning" in family else 25
    )
    assert facts["use"].endswith(f"--motion-adapter {file}")
    assert len(facts["sha256"]) == 64
    shown = done("inspect", file)
    assert "norm_scope: frame" in shown
    assert "beta_schedule: " in shown


def test_inspect_of_a_file_imports_no_torch(tmp_path: Path) -> None:
    file = published_file(tmp_path, "animatediff-v2")
    program = (
        "import sys; from pathlib import Path; from video_diffusion.cli.inspect import look_at; "
        f"look_at(Path({str(file)!r})); print('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "False\n"
