"""What `mmts export` does: load a run, write a folder that others read, and say how close it comes to the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmts import __version__
from mmts.console import console
from mmts.errors import RunError, nearest
from mmts.export.onnx_files import need_packages, write_onnx
from mmts.export.sentence_transformer import TOLERANCE, write_sentence_transformer
from mmts.files import atomic_folder, write_json
from mmts.models.huggingface import quiet
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import load_model

TARGETS = ("sentence-transformers", "onnx")


def export_run(run: Path, to: str, out: Path | None = None, checkpoint: str = "best") -> Path:
    """Export a run's checkpoint ("best" or "last") into a new folder, RUN/onnx or the like where `out` is None.

    Raises RunError for an unknown target, what the target cannot express, or embeddings that differ from the run's;
    FileExistsError where the folder is there already. Nothing is left behind then.
    """
    if to not in TARGETS:
        raise RunError(f"--to is sentence-transformers or onnx, not {to!r}; {nearest(to, TARGETS)}")
    RunDirectory.check_checkpoint(checkpoint)
    directory = RunDirectory(run)
    recipe = directory.recipe()
    if to == "onnx":
        need_packages()
    out = out or directory.path / to
    with atomic_folder(out) as folder, quiet():
        model = load_model(directory, checkpoint=checkpoint).eval()
        if to == "onnx":
            content = write_onnx(model, recipe.model.kind, folder)
        else:
            content = write_sentence_transformer(model, recipe.model, folder)
        content["run"] = {"name": recipe.name, "checkpoint": checkpoint, "mmts": __version__}
        write_json(folder / "export.json", content)
    _report(out, content)
    return out


def _report(out: Path, content: Mapping[str, Any]) -> None:
    """Say what was written and how close it comes."""
    files = ", ".join(sorted(f"{each.name}/" if each.is_dir() else each.name for each in out.iterdir()))
    console.print(f"exported: {out}: {files}")
    sides = {side: content[side] for side in ("media", "text") if side in content}
    found = ", ".join(f"{side} {each['largest_difference']:.1e}" for side, each in sides.items())
    console.print(f"largest difference from the run's embeddings: {found}")
    if (other := content.get("media", {}).get("other_sizes", 0.0)) > TOLERANCE:
        console.print(
            f"note: pictures that are no squares of the model's size differ by up to {other:.1e}: there transformers "
            "resizes in its own way (docs/export.md)"
        )
    if content.get("needs_mmts"):
        console.print(
            "note: some of it is no module of sentence-transformers' own: it loads where mmts is installed, by "
            f"SentenceTransformer({str(out)!r}, trust_remote_code=True)",
        )
