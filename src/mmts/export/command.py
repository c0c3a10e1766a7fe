"""What `mmts export` does: load a run, write a folder for other programs, and report how close it is to the run."""

from importlib.util import find_spec
from pathlib import Path

from mmts import __version__
from mmts.console import console
from mmts.errors import RunError, nearest
from mmts.export.onnx_files import write_onnx
from mmts.files import atomic_folder, write_json
from mmts.models.huggingface import quiet
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import load_model

TARGETS = ("sentence-transformers", "onnx")


def export_run(run: Path, to: str, out: Path | None = None, checkpoint: str = "best") -> Path:
    """Export a run's checkpoint (such as "best") into a new folder, by default RUN/onnx or the like; return its path.

    Raises RunError for an unknown target, for a part of the run that the target cannot express, or if embeddings differ
    from the run's; FileExistsError if the folder exists. After an error, nothing is left behind.
    """
    if to not in TARGETS:
        raise RunError(f"--to is sentence-transformers or onnx, not {to!r}; {nearest(to, TARGETS)}")
    RunDirectory.check_checkpoint(checkpoint)
    directory = RunDirectory(run)
    recipe = directory.recipe()
    if to == "onnx" and any(find_spec(package) is None for package in ("onnx", "onnxruntime")):
        raise RunError("--to onnx needs the packages onnx and onnxruntime: pip install onnx onnxruntime")
    if to == "sentence-transformers" and (outside := [name for name in recipe.model.tower_names if ":" in name]):
        raise RunError(f"sentence-transformers cannot load a tower from outside mmts, {outside[0]}: give --to onnx")
    out = out or directory.path / to
    with atomic_folder(out) as folder, quiet():
        model = load_model(directory, checkpoint=checkpoint).eval()
        if to == "onnx":
            content = write_onnx(model, recipe.model.kind, folder)
        else:
            from mmts.export.sentence_transformer import write_sentence_transformer  # takes seconds

            content = write_sentence_transformer(model, recipe.model, folder)
        content["run"] = {"name": recipe.name, "checkpoint": checkpoint, "mmts": __version__}
        write_json(folder / "export.json", content)
    files = sorted(f"{file.name}/" if file.is_dir() else file.name for file in out.iterdir())
    console.print(f"exported: {out}: {', '.join(files)}")
    differences = (f"{side} {content[side]['largest_difference']:.1e}" for side in ("media", "text") if side in content)
    console.print(f"largest difference from the run's embeddings: {', '.join(differences)}")
    if content.get("needs_mmts"):
        console.print(
            "note: it uses modules of mmts, so it loads only where mmts is installed, with "
            f"SentenceTransformer({str(out)!r}, trust_remote_code=True)"
        )
    return out
