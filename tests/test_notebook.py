"""docs/notebook.ipynb runs from its first cell to its last; what ends a cell shows itself."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.mark.full
def test_every_cell_runs_and_its_last_line_can_be_shown() -> None:
    values: dict[str, object] = {}
    shown = 0
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "keep outputs out of the repository"
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, NOTEBOOK.name, "exec"), values)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), values)
            shown += hasattr(value, "_repr_html_") and bool(value._repr_html_())
    assert shown == 2  # a clip and a report
