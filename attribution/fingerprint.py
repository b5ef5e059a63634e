"""What a job depends on, as two short strings: the code it runs and the settings it reads.

Snakemake looks at modification times and at the text of a rule; it never sees the modules that a
script imports, and it compares params without their names. So every rule carries
`code=code(script)` and `settings=settings(sections…)`: a digest of the script and of every module
of this library that it reaches, blind to comments, docstrings and layout, and one canonical JSON
text of the settings that the stage reads.
"""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "attribution"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no layout: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def modules(script: Path) -> list[Path]:
    """The script and every module of the library that it imports, directly or not, sorted."""
    found: set[Path] = set()
    waiting = [script.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imports(path))
    return sorted(found)


def code_digest(script: Path) -> str:
    """A digest of the meaning of `modules(script)`; a comment or a new line does not change it."""
    whole = hashlib.sha256()
    for path in modules(script):
        whole.update(f"{path.name}\n{_module_digest(path)}\n".encode())
    return whole.hexdigest()[:16]


@cache
def _module_digest(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return hashlib.sha256(_meaning(tree).encode()).hexdigest()


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """The library's modules named by import statements anywhere in the file."""
    root = Path(__file__).resolve().parent
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ImportError(f"{path}: relative imports are not followed; import absolutely")
            names.update({str(node.module)} | {f"{node.module}.{a.name}" for a in node.names})
    own = (name.partition(".")[2] for name in names if name.startswith(f"{PACKAGE}."))
    inside = (root / f"{name}.py" for name in own)
    return tuple(sorted(module for module in inside if module.is_file()))


def _meaning(node: Any) -> str:
    """The syntax tree as text, without positions, docstrings and empty fields.

    Empty fields are left out because their set differs between versions of Python.
    """
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list):
                value = _without_docstring(node, value)
            if name not in ("type_ignores", "type_comment", "kind") and value not in (None, []):
                fields.append(f"{name}={_meaning(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_meaning, node))}]"
    return repr(node)


def _without_docstring(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    documented = isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    )
    if documented and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return body[1:]
    return body


def select(settings: dict[str, Any], paths: list[str], without: tuple[str, ...] = ()) -> dict:
    """The parts of nested settings under dotted paths, less the dotted paths `without`."""
    selected: dict[str, Any] = {}
    for path in paths:
        *parents, last = path.split(".")
        source, target = settings, selected
        for key in parents:
            source, target = source[key], target.setdefault(key, {})
        target[last] = json.loads(json.dumps(source[last]))
    for path in without:
        *parents, last = path.split(".")
        target = selected
        for key in parents:
            target = target.get(key, {})
        target.pop(last, None)
    return selected
