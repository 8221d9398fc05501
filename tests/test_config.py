"""YAML 1.2 files and `--set` texts: what is read, what is refused, and where the error points."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from video_diffusion.settings import (
    ConfigError,
    GenerationSettings,
    Layer,
    assign,
    dump,
    merge,
    read_config,
    validate,
)


class Optimizer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    learning_rate: float = 1e-3
    betas: list[float] = [0.9, 0.98]


class Nested(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    optimizer: Optimizer = Optimizer()
    steps: int = 10


def written(tmp_path: Path, text: str | bytes, name: str = "clip.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def refusal(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


def test_values_have_yaml_1_2_meaning(tmp_path: Path) -> None:
    text = "lr: 1e-4\nn: no\nx: 010\nt: 1:30\nd: 2001-12-14\nh: -0x1F\no: +0o17\nb: True\nq: 'yes'\n"
    expected = {
        "lr": 0.0001, "n": "no", "x": 10, "t": "1:30", "d": "2001-12-14", "h": -31, "o": 15, "b": True,
        "q": "yes", "z": None, "i": float("-inf"),
    }  # fmt: skip
    assert read_config(written(tmp_path, text + "z: ~\ni: -.inf")).values == expected


@pytest.mark.parametrize("start, ending", [("\ufeff", "\n"), ("", "\r\n")], ids=["BOM", "CRLF"])
def test_bom_and_crlf_are_fine(tmp_path: Path, start: str, ending: str) -> None:
    assert read_config(written(tmp_path, f"{start}a: 1{ending}b: [2, 3]{ending}")).values == {
        "a": 1,
        "b": [2, 3],
    }


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a:\n\tb: 1", "clip.yaml:2:1: a tab; YAML indents with spaces only"),
        ("a: [1,\n", "clip.yaml:2:1: expected the node content"),
        ("a: b: c", "clip.yaml:1:5: mapping values are not allowed here"),
        ("seed: 1\n\nseed: 2", "clip.yaml:3: seed is already set on line 1"),
        ("a:\n  b: 1\n  b: 2", "clip.yaml:3: b is already set on line 2"),
        ("a: !!python/object/apply:os.system [id]", "clip.yaml:1: a tag"),
        ("a: !!str 5", "clip.yaml:1: a tag"),
        ("a: " + "[" * 2000 + "]" * 2000, "clip.yaml:1: nested deeper than 50"),
        ("a: &x [*x]", "clip.yaml:1: aliases grow"),
        ("a: &x\n  b: *x", "clip.yaml:1: aliases grow"),
        ("a: *b", "clip.yaml:1:4: found undefined alias"),
        ("- 1\n- 2", "clip.yaml: holds a list at the top"),
        ("just words", "clip.yaml: holds a plain value at the top"),
        ("", "clip.yaml: empty"),
        ("# only a comment\n", "clip.yaml: empty"),
        ("a: 1\n---\nb: 2", "clip.yaml:2: a second document"),
        ("%YAML 1.1\n---\na: yes", "clip.yaml:2: YAML (1, 1); only YAML 1.2"),
        ("? [1, 2]\n: 3", "clip.yaml:1: a key must be a plain word"),
        ("a: \x07", "clip.yaml: not YAML"),
        ("schema_version: 2\nprompt: a", "clip.yaml:1: made by schema version 2"),
        ("schema_version: true", "clip.yaml:1: made by schema version True"),
        ("a: 1".encode("utf-16"), "clip.yaml: is UTF-16"),
        (b"prompt: caf\xe9", "clip.yaml: not UTF-8 (byte 0xe9 at 11)"),
        (b"#" * 1_000_001, "clip.yaml: larger than 1000000 bytes"),
        ("extends: clip.yaml", "clip.yaml:1: extends runs in a circle"),
        (
            "extends: ../../etc/passwd",
            "clip.yaml:1: extends must name a .yaml file (given '../../etc/passwd')",
        ),
        ("extends: [a.yaml]", "clip.yaml:1: extends must name a .yaml file"),
    ],
)
def test_refused_files_name_the_place(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


def test_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{later}: &{later} [{','.join([f'*{earlier}'] * 9)}]\n"
        for earlier, later in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "aliases grow to more than 20000 values" in refusal(tmp_path, bomb)


def test_missing_directory_and_unreadable_files(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError, match=f"{path}: {expected}"):
            read_config(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_config(Path("/dev/null"))


def test_extends_reads_the_parent_first_and_finds_circles(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    written(tmp_path, "steps: 1\noptimizer: {learning_rate: 0.5, betas: [0.1, 0.2]}", "base.yaml")
    child = written(tmp_path, "extends: ../base.yaml\noptimizer:\n  betas: [0.3]", "deep/child.yaml")
    assert read_config(child).values == {"steps": 1, "optimizer": {"learning_rate": 0.5, "betas": [0.3]}}
    written(tmp_path, "extends: deep/child.yaml", "base.yaml")
    with pytest.raises(ConfigError, match=r"extends runs in a circle through .*child.yaml"):
        read_config(child)


def test_later_layers_win_and_lists_replace() -> None:
    low = Layer({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {("a", "b"): "low:1", ("d",): "low:2"})
    high = Layer({"a": {"c": [3]}, "d": {"e": 2}}, {("a", "c"): "high:1", ("d",): "high:2"})
    merged = merge(low, high)
    assert merged.values == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}}
    assert (merged.origin(("a", "b")), merged.origin(("d", "e"))) == ("low:1", "high:2")
    assert (merged.origin(("a",)), merged.origin(("b",)), merged.origin(())) == ("low:1", "", "")
    assert low.values == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.b=2", {"a": {"b": 2}, "l": [1, 2]}),
        ("l.1=x=y", {"a": {"b": 1}, "l": [1, "x=y"]}),
        (
            "new.deep.key=[1, {k: no}]",
            {"a": {"b": 1}, "l": [1, 2], "new": {"deep": {"key": [1, {"k": "no"}]}}},
        ),
        ("a=null", {"a": None, "l": [1, 2]}),
        ("p='no'", {"a": {"b": 1}, "l": [1, 2], "p": "no"}),
        ("p=", {"a": {"b": 1}, "l": [1, 2], "p": ""}),
    ],
)
def test_set_puts_one_yaml_value_at_a_dotted_path(text: str, expected: dict[str, object]) -> None:
    assert assign(Layer({"a": {"b": 1}, "l": [1, 2]}), text).values == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("foo", "--set: needs key=value (given 'foo')"),
        ("=1", "--set: needs key=value"),
        ("a..b=1", "--set: needs key=value"),
        ("a.b.c=1", "--set a.b.c: a.b is 1, not a section; it has no c"),
        ("l.2=1", "--set l.2: l is a list of 2; no item '2'"),
        ("l.x=1", "--set l.x: l is a list of 2; no item 'x'"),
        ('p="x', "--set p:"),
        ("p=!!python/none x", "--set p:1: a tag"),
        ("p=1\nq: 2", "--set p: the value must be one line"),
    ],
)
def test_set_refuses_with_the_key(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assign(Layer({"a": {"b": 1}, "l": [1, 2]}), text)
    assert str(caught.value).startswith(expected)


def test_the_same_key_set_twice_means_the_last() -> None:
    assert assign(assign(Layer({}), "seed=1"), "seed=2").values == {"seed": 2}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("optimizer:\n  learning_rat: 1", "clip.yaml:2: no setting 'optimizer.learning_rat'; did you mean"),
        ("stepz: 1", "clip.yaml:1: no setting 'stepz'; did you mean 'steps'?"),
        ("zzz: 1", "clip.yaml:1: no setting 'zzz'; known are optimizer, steps"),
        ("optimizer: ~", "clip.yaml:1: optimizer must be a section of key: value lines (given None)"),
        ("optimizer: 3", "clip.yaml:1: optimizer must be a section"),
        ("steps: true", "clip.yaml:1: steps must be a whole number (given True)"),
        ("steps: 1.0", "clip.yaml:1: steps must be a whole number (given 1.0)"),
        ("steps:\n  nested: 1", "clip.yaml:1: steps must be a whole number"),
        ("optimizer:\n  betas:\n    - 0.5\n    - x", "clip.yaml:2: optimizer.betas.1"),
    ],
)  # fmt: skip
def test_wrong_settings_name_file_line_path_and_rule(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Nested, read_config(written(tmp_path, text)))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(expected)


PRINTABLE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), min_size=1).filter(str.strip)


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    prompt=PRINTABLE
    | st.sampled_from(["no", "1:30", "010", "~", "a: b", "# c", "'", '"', "[x]", "x\n\ty \n"]),
    seed=st.integers(0, 2**63 - 1),
    num_frames=st.none() | st.integers(1, 4096),
    fps=st.none() | st.fractions(Fraction(1, 10), 240, max_denominator=1001),
    guidance_scale=st.none() | st.floats(0, 50),
)
def test_dumped_settings_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    seed: int,
    num_frames: int | None,
    fps: Fraction | None,
    guidance_scale: float | None,
) -> None:
    settings = GenerationSettings(
        prompt=prompt,
        prompt_syntax="plain",  # in which every text is a prompt
        seed=seed,
        num_frames=num_frames,
        fps=fps,
        guidance_scale=guidance_scale,
    )
    path = tmp_path_factory.mktemp("config") / "clip.yaml"
    path.write_text(dump(settings), newline="")
    assert validate(GenerationSettings, read_config(path)) == settings


@pytest.mark.parametrize("text", ["1__0", "0x_", "0o9", "1_", "_", "0b2", "1.e_", "._5", "1e9999"])
def test_what_looks_like_a_number_and_is_none_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clip.yaml"
    path.write_text(f"prompt: a\nseed: {text}\n")
    with pytest.raises(ConfigError, match=r"clip\.yaml:2: |seed must be a whole number"):
        validate(GenerationSettings, read_config(path))
