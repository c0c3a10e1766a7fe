"""What `mmts export` does: load a run, write a folder for other programs, and report how close it is to the run."""

from importlib.util import find_spec
from pathlib import Path

from mmts import __version__
from mmts.console import console
from mmts.errors import RunError, nearest
from mmts.export.huggingface_pair import write_huggingface
from mmts.export.onnx_files import write_onnx
from mmts.export.open_clip_file import write_open_clip
from mmts.files import atomic_folder, write_json
from mmts.models.huggingface import quiet
from mmts.models.trainable import merge_lora
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import load_model

TARGETS = ("sentence-transformers", "huggingface", "open_clip", "onnx")


def export_run(run: Path, to: str, out: Path | None = None, checkpoint: str = "best") -> Path:
    """Export a run's checkpoint (such as "best") into a new folder, by default RUN/onnx or the like; return its path.

    Raises RunError for an unknown target, for a part of the run that the target cannot express, or if embeddings differ
    from the run's; FileExistsError if the folder exists. After an error, nothing is left behind.
    """
    if to not in TARGETS:
        raise RunError(f"--to is one of {', '.join(TARGETS)}, not {to!r}; {nearest(to, TARGETS)}")
    RunDirectory.check_checkpoint(checkpoint)
    directory = RunDirectory(run)
    recipe = directory.recipe()
    if to == "onnx" and any(find_spec(package) is None for package in ("onnx", "onnxruntime")):
        raise RunError("--to onnx needs the packages onnx and onnxruntime: pip install onnx onnxruntime")
    out = out or directory.path / to
    with atomic_folder(out) as folder, quiet():
        model = load_model(directory, checkpoint=checkpoint).eval()
        for tower in (model.media_tower, model.text_tower):
            if tower is not None:
                merge_lora(tower)
        if to == "onnx":
            content = write_onnx(model, recipe.model.kind, folder)
        elif to == "huggingface":
            content = write_huggingface(model, folder)
        elif to == "open_clip":
            content = write_open_clip(model, folder)
        else:
            from mmts.export.sentence_transformer import write_sentence_transformer  # takes seconds

            content = write_sentence_transformer(model, folder)
        content["run"] = {"name": recipe.name, "checkpoint": checkpoint, "mmts": __version__}
        write_json(folder / "export.json", content)
    files = sorted(f"{file.name}/" if file.is_dir() else file.name for file in out.iterdir())
    console.print(f"exported: {out}: {', '.join(files)}")
    differences = (f"{side} {content[side]['largest_difference']:.1e}" for side in ("media", "text") if side in content)
    if said := ", ".join(differences):
        console.print(f"largest difference from the run's embeddings: {said}")
    if (scale := content.get("logit_scale")) is not None:
        rule = getattr(getattr(recipe.objective, "temperature", None), "rule", None)
        whose = "the run's" if rule in ("fixed", "learned") else "the pretrained model's, as the run has no single one"
        console.print(f"logit scale {scale:.4g}, a temperature of {1 / scale:.3g}: {whose}")
    if content.get("needs_mmts"):
        console.print(
            "note: it uses modules of mmts, so it loads only where mmts is installed, with "
            f"SentenceTransformer({str(out)!r}, trust_remote_code=True)"
        )
    return out
