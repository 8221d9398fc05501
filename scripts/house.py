"""Figures of the package's structure: files, importers, what one clip runs through, what is annotated `Any`.

`python scripts/house.py` prints the table; `--walk generate` lists the files that a clip passes in order.
"""

import argparse
import ast
import collections
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "video_diffusion"
PROMPT = "a small red circle moving left on a white background"
CLIP = ("num_frames: 4", "num_inference_steps: 2", "device: cpu")
CLIP_FLAGS = ("--frames", "4", "--steps", "2", "--device", "cpu")
COMPARISON = (
    f"prompts: ['{PROMPT}']\narms: {{a: {{}}, b: {{guidance_scale: 1}}}}\nsettings: {{{', '.join(CLIP)}}}\n"
)
TRAINING = """\
data: clips
model: embedded
num_steps: 1
batch_size: 1
device: cpu
clips: {num_frames: 4, width: 64, height: 64}
validation: {every: 0}
"""


def modules() -> dict[str, ast.Module]:
    """Every module of the package but the `__init__`s, parsed, by its dotted name."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): ast.parse(file.read_text()) for file in files
    }


def lone_modules(parsed: dict[str, ast.Module]) -> list[str]:
    """Modules that exactly one file of the package imports."""
    users: dict[str, set[str]] = collections.defaultdict(set)
    for user, tree in parsed.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    users[name].add(user)
    return [name for name in parsed if not name.endswith("__init__") and len(users[name]) == 1]


def any_parameters(parsed: dict[str, ast.Module]) -> tuple[int, int]:
    """Parameters annotated with plain `Any`, and those of them named settings."""
    found = [
        argument.arg
        for tree in parsed.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for argument in (
            *node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg
        )
        if argument is not None and isinstance(argument.annotation, ast.Name)
        and argument.annotation.id == "Any"
    ]  # fmt: skip
    return len(found), found.count("settings")


class Walk:
    """Which functions of the package run, by their first call; validations and ffmpeg runs too."""

    def __init__(self) -> None:
        self.codes: dict[CodeType, None] = {}
        self.validations = self.ffmpeg_runs = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """What `sys.setprofile` calls."""
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith(
            "<"
        )  # no class body
        if event == "call" and is_function and code.co_filename.startswith(str(PACKAGE)):
            self.codes.setdefault(code)

    def report(self) -> dict[str, Any]:
        """Counts, and the files in the order in which they were entered."""
        files = dict.fromkeys(str(Path(code.co_filename).relative_to(PACKAGE)) for code in self.codes)
        return {
            "functions": len(self.codes), "files": list(files), "validations": self.validations,
            "ffmpeg_runs": self.ffmpeg_runs,
        }  # fmt: skip


def walk(words: Sequence[str]) -> Walk:
    """Run one command of the program in this process, watched; threads included."""
    import threading

    from video_diffusion.cli.main import main
    from video_diffusion.settings import GenerationSettings

    watch = Walk()
    GenerationSettings.model_rebuild()  # it is built when it is first used
    validator = GenerationSettings.__pydantic_validator__
    popen = subprocess.Popen.__init__

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(validator, name)

        def validate_python(self, values: Any, *args: Any, **kwargs: Any) -> Any:
            watch.validations += isinstance(values, dict) and values.get("prompt") == PROMPT
            return validator.validate_python(values, *args, **kwargs)

    def counted_popen(self: Any, command: Any, *args: Any, **kwargs: Any) -> None:
        watch.ffmpeg_runs += "ffmpeg" in str(command[0] if isinstance(command, list | tuple) else command)
        popen(self, command, *args, **kwargs)

    GenerationSettings.__pydantic_validator__ = Counted()  # type: ignore[assignment]  # to count its calls
    subprocess.Popen.__init__ = counted_popen  # type: ignore[method-assign, assignment]
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        main(list(words), standalone_mode=True)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return watch


def walks(kind: str, place: Path) -> Walk:
    """One clip, a comparison of two clips, or one training step on the shipped model."""
    os.chdir(place)
    if kind == "generate":
        return walk(["generate", PROMPT, *CLIP_FLAGS, "-o", "clip.mp4", "-q"])
    if kind == "compare":
        Path("compare.yaml").write_text(COMPARISON)
        return walk(["compare", "compare.yaml", "-o", "compared", "-q"])
    program = [sys.executable, "-m", "video_diffusion"]
    for words in (
        ["data", "make", "clips", "--clips", "4", "--seed", "1", "-q"],
        ["data", "check", "clips", "-q"],
    ):
        subprocess.run([*program, *words], check=True, capture_output=True)
    Path("train.yaml").write_text(TRAINING)
    return walk(["train", "train.yaml", "-o", "run", "-q"])


def walked(kind: str) -> dict[str, Any]:
    """The report of `walks`, in a process of its own: what a first call caches is then always run."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [sys.executable, __file__, "--inside", kind, place], check=True, stdout=subprocess.PIPE
        )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def table() -> None:
    """Every figure, one per line."""
    parsed = modules()
    lines = sum(len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py"))
    anys, settings_anys = any_parameters(parsed)
    longest = max(PACKAGE.rglob("*.py"), key=lambda file: len(file.read_text().splitlines()))
    print(f"Python files, lines: {len(parsed)}, {lines}")
    print(f"modules with exactly one importer: {len(lone_modules(parsed))}")
    print(f"longest file: {longest.relative_to(ROOT)}, {len(longest.read_text().splitlines())} lines")
    print(f"parameters annotated Any (named settings): {anys} ({settings_anys})")
    for kind in ("generate", "compare", "train"):
        found = walked(kind)
        print(f"{kind}: {found['functions']} functions in {len(found['files'])} files")
        if kind == "generate":
            runs = found["ffmpeg_runs"] - 1
            print(f"{kind}: the clip's settings validated {found['validations']} times")
            print(f"{kind}: {runs} ffmpeg runs beside the clip's (imageio-ffmpeg asks it for its version)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walk", choices=["generate", "compare", "train"], help="list the files it passes")
    parser.add_argument("--lone", action="store_true", help="list the modules with exactly one importer")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(walks(arguments.inside[0], Path(arguments.inside[1])).report()))
    elif arguments.walk:
        print("\n".join(walked(arguments.walk)["files"]))
    elif arguments.lone:
        print("\n".join(lone_modules(modules())))
    else:
        table()
