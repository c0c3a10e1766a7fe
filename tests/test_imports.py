"""The direction of imports: read from the source, so that a lazy import inside a function counts too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmts

SOURCE = Path(mmts.__file__).parent
LEAVES = {"errors", "files", "options", "console", "devices", "feature_cache"}
# What each part may import of ours, beside itself and the leaves. Parts not named here (recipe, training, evaluation,
# report, search, the command line and what serves them) may see everything, and nothing named here may import them.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "options": set(),
    "console": set(),
    "devices": set(),
    "feature_cache": set(),
    "schedules": set(),
    "losses": set(),
    "metrics": set(),
    "concepts": set(),
    "policies": {"schedules", "concepts"},
    "objectives": {"losses", "policies", "schedules"},
    "drop_in": {"losses", "schedules"},
    "data": set(),
    "models": {"data", "distributed", "losses"},  # images are read in data; unit vectors are made in losses
    "distributed": {"data", "losses", "objectives"},
}
# The names of pretrained encoders are resolved where they are used, by one import inside a function.
EXCEPTIONS = {("concepts/encoders.py", "models.text_encoder")}
HEAVY = {
    "faiss",
    "transformers",
    "sentence_transformers",
    "sklearn",
    "PIL",
    "matplotlib",
    "accelerate",
    "pandas",
    "triton",
}


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module (`losses.info_nce` of `mmts.losses.info_nce`) of each import of ours; '' is mmts itself."""
    package = ["mmts", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            modules = [f"mmts.{alias.name}" for alias in node.names] if start == "mmts" else [start]
        else:
            continue
        for module in modules:
            first, _, rest = module.partition(".")
            if first == "mmts":
                yield node.lineno, rest


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part (`losses` of `mmts.losses.info_nce`) of each import of ours, without the exceptions."""
    file = path.relative_to(SOURCE).as_posix()
    for line, module in imported_modules(path):
        if (file, module) not in EXCEPTIONS:
            yield line, module.partition(".")[0]


def files_of(part: str) -> list[Path]:
    return sorted((SOURCE / part).rglob("*.py")) if (SOURCE / part).is_dir() else [SOURCE / f"{part}.py"]


@pytest.mark.parametrize("part", ALLOWED)
def test_each_part_imports_only_what_stands_below_it(part: str) -> None:
    allowed = ALLOWED[part] | LEAVES | {part, "__version__"}
    wrong = [
        f"{path.relative_to(SOURCE)}:{line} imports mmts.{imported}"
        for path in files_of(part)
        for line, imported in imported_parts(path)
        if imported not in allowed
    ]
    assert not wrong


def test_losses_metrics_and_schedules_use_no_leaf_but_errors_and_options() -> None:
    for part in ("losses", "metrics", "schedules"):
        used = {imported for path in files_of(part) for _, imported in imported_parts(path)}
        assert used <= {part, "errors", "options"}


def test_the_reader_of_imports_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "x.py"
    file.write_text(
        "import os, mmts.losses.info_nce\nfrom mmts import cli\nfrom mmts.recipe.recipe import Recipe\n"
        "def f():\n    from ..models import towers\n    from . import image\n    from .. import report\n"
    )
    assert [part for _, part in imported_parts(file)] == ["losses", "cli", "recipe", "models", "data", "report"]


def test_importing_the_maths_pulls_in_nothing_heavy() -> None:
    code = f"""
import sys
import mmts.losses
print(*sorted({HEAVY!r} & set(sys.modules)))
import mmts.schedules, mmts.metrics, mmts.policies, mmts.objectives, mmts.drop_in
import mmts.adapters.batch_loss, mmts.adapters.open_clip
print(*sorted({HEAVY!r} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.split() == []


def test_importing_schedules_or_the_package_does_not_need_torch() -> None:
    code = "import sys, mmts, mmts.schedules; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
