"""Writes docs/errors.md from the errors that the source raises. `--list` prints the codes only."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

from polyclinic.core.codes import NEXT, RULES

ROOT = Path(__file__).resolve().parent.parent
LIKE_A_CODE = re.compile(
    r"(?!POLYCLINIC_|PYSPARK_|NO_COLOR)([A-Z]+(_[A-Z]+)+|RANGE|GUARD|NONFINITE|INTERRUPTED)"
)
HEAD = """\
# Error codes

Every error says what happened and where, the rule, the next step, and what is kept, in this order.
Its code is stable. Across a hospital's border only the code travels; the reader's own install
supplies the words.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected: run again with `--debug` and report what it prints |
| 2 | wrong input: a file, a column, a formula, a key |
| 3 | refused by a hospital: its gate, its officer, its version or key |
| 4 | stopped and resumable |
| 130 | Ctrl-C, resumable |

| code | rule | next step |
|---|---|---|
"""


def text_of(node: ast.expr | None) -> str:
    """The text of a literal, with ... where a value is filled in; empty for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "..." for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or "...") + (text_of(node.right) or "...")
    if isinstance(node, ast.IfExp):
        return text_of(node.body) or text_of(node.orelse)
    return ""


def code_of(call: ast.Call, words: dict[str | None, str]) -> str:
    """The code that a call raises: `code=`, or a positional argument that looks like one."""
    candidates = [words.get("code", ""), *map(text_of, call.args)]
    return next((c for c in candidates if LIKE_A_CODE.fullmatch(c)), "")


def raised() -> dict[str, tuple[str, str]]:
    """Code -> (rule, next step), over all of src. Where a code has several words, the longest."""
    found: dict[str, tuple[str, str]] = defaultdict(lambda: ("", ""))
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            words = {keyword.arg: text_of(keyword.value) for keyword in node.keywords}
            if code := code_of(node, words):
                rule, following = found[code]
                found[code] = (
                    max(rule, words.get("rule", ""), key=len),
                    max(following, words.get("next", ""), key=len),
                )
    for code, rule in RULES.items():
        found[code] = (rule, NEXT.get(code, "") or found[code][1])
    return dict(sorted(found.items()))


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    codes = raised()
    if "--list" in sys.argv:
        print("\n".join(codes))
        return
    rows = [f"| `{code}` | {cell(rule)} | {cell(step)} |" for code, (rule, step) in codes.items()]
    (ROOT / "docs" / "errors.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
