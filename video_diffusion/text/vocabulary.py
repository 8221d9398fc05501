"""Which words of a prompt a small model has never seen."""

import re
from collections.abc import Collection

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[\u2600-\u27bf\U0001f000-\U0001faff]")  # an emoji is a word too


def unknown_words(prompt: str, vocabulary: Collection[str]) -> list[str]:
    """List the words of a prompt that are not in a model's vocabulary, each once, in order, in lower case.

    Args:
        prompt: Any text; punctuation and case do not matter.
        vocabulary: Words the model was trained on, in lower case. Empty means unknown: then no word is
            listed.
    """
    if not vocabulary:
        return []
    words = dict.fromkeys(_WORD.findall(prompt.lower()))
    return [word for word in words if word not in vocabulary]
