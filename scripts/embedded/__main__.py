"""python scripts/embedded codec|train|prompts|evaluate [flags]: each part says with --help what it takes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

PARTS = ("codec", "train", "prompts", "evaluate")


def main() -> None:
    """Run the part that the first argument names, with the rest of the command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        sys.exit(f"usage: python scripts/embedded {{{','.join(PARTS)}}} [flags]")
    part = sys.argv.pop(1)
    sys.argv[0] = f"embedded {part}"
    sys.path.insert(0, str(Path(__file__).parents[1]))
    importlib.import_module(f"embedded.{part}").main()


if __name__ == "__main__":
    main()
