"""What the errors of this package tell their caller besides their one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_OF_PYTHON = (
    TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, RuntimeError,
    StopIteration,
)  # fmt: skip
_OF_TORCH = (
    (re.compile(r'Missing key\(s\) in state_dict: "([^"]+)"'), "lacks {}"),
    (re.compile(r'Unexpected key\(s\) in state_dict: "([^"]+)"'), "holds {} besides"),
    (
        re.compile(r"size mismatch for (\S+): .*?\((\[[^]]*\])\) from checkpoint, .*?\((\[[^]]*\])\)"),
        "{} has the shape {} where {} is needed",
    ),
)


def one_line(error: BaseException) -> str:
    r"""The message on one line: a line break in one of ours stands in a name, a library's goes on for many.

    >>> one_line(FieldError("model", "model: 'a\nb' is not here"))
    "model: 'a\\nb' is not here"
    >>> one_line(RuntimeError("CUDA error\nCompile with …"))
    'CUDA error'
    """
    if _is_our_kind(error) or (type(error) in {ValueError, FileExistsError} and is_ours(error)):
        return str(error).strip().replace("\r", "\\r").replace("\n", "\\n") or type(error).__name__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_ours(error: BaseException) -> bool:
    """Whether the exception is of a kind of this package, or was raised in it, not in a library it called."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    raised_in = "" if step is None else str(step.tb_frame.f_globals.get("__name__", ""))
    return raised_in.startswith("video_diffusion") or _is_our_kind(error)


def _is_our_kind(error: BaseException) -> bool:
    return type(error).__module__.startswith("video_diffusion")


def reason_of(error: BaseException) -> str:
    """The first sentence of what a library says, as far as it is written for whoever gave the file."""
    text = str(error)
    for pattern, words in _OF_TORCH:
        if found := pattern.search(text):
            return words.format(*found.groups())[:200]
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 at byte {error.start}"
    lines = [line.strip() for line in text.splitlines() if line.strip(" '\"")]
    if isinstance(error, _OF_PYTHON) or not lines:
        return "what it holds is of another kind or shape than is needed"
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:200]


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, torch's for GPUs, and the plain RuntimeError that torch raises for the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


@contextmanager
def as_one_line(kind: type[ValueError], sentence: str, advice: str = "") -> Iterator[None]:
    """Make one line of that kind of whatever strange values lead to, deep inside the libraries.

    What is of the kind already passes, and so does a lack of memory, for which no file is to blame.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, kind) or is_out_of_memory(error):
            raise
        raise kind(f"{sentence} ({reason_of(error)}){advice and '; '}{advice}") from error


class FieldError(ValueError):
    """A field whose value cannot be, or does not go with another one.

    Args:
        field: Its name, for whoever knows the flag that set it.
        message: One line: the rule, the value given, the way out.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    @property
    def flag(self) -> str:
        """The field's name as a flag."""
        return f"--{self.field.replace('_', '-')}"

    def __reduce__(self) -> tuple[type["FieldError"], tuple[str, str]]:
        """So that it passes from process to process."""
        return type(self), (self.field, str(self))
