"""What `mmts export` does: load a run, write a folder for other programs, and report how close it is to the run."""

from importlib.util import find_spec
from pathlib import Path

from mmts import __version__
from mmts.console import console
from mmts.errors import RunError, nearest
from mmts.export.card import UNKNOWN, check_license, write_card
from mmts.export.hub import check_push
from mmts.export.hub import push as push_folder
from mmts.export.huggingface_pair import write_huggingface
from mmts.export.onnx_files import pixel_settings, write_onnx
from mmts.export.open_clip_file import write_open_clip
from mmts.files import atomic_folder, read_kept, write_json
from mmts.models.huggingface import quiet
from mmts.models.trainable import merge_lora
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import load_model

TARGETS = ("sentence-transformers", "huggingface", "open_clip", "onnx")


def export_run(
    run: Path,
    to: str,
    out: Path | None = None,
    checkpoint: str = "best",
    *,
    license: str = UNKNOWN,
    push: str | None = None,
    public: bool = False,
) -> Path:
    """Export a run's checkpoint (such as "best") into a new folder, by default RUN/onnx or the like; return its path.

    license: an identifier of the Hugging Face hub, for the model card. push: a repository there, which the folder is
    uploaded to, private unless `public`; a folder that holds this very export already is uploaded as it is.

    Raises RunError for an unknown target or a run that it cannot express, if embeddings differ from the run's, or if it
    cannot be pushed; FileExistsError if the folder exists. After an error of the export, nothing is left behind.
    """
    if to not in TARGETS:
        raise RunError(f"--to is one of {', '.join(TARGETS)}, not {to!r}; {nearest(to, TARGETS)}")
    check_license(license)
    if public and push is None:
        raise RunError("--public says how to push: give --push NAME too")
    RunDirectory.check_checkpoint(checkpoint)
    directory = RunDirectory(run)
    recipe = directory.recipe()
    if to == "onnx" and any(find_spec(package) is None for package in ("onnx", "onnxruntime")):
        raise RunError("--to onnx needs the packages onnx and onnxruntime: pip install onnx onnxruntime")
    out = out or directory.path / to
    about = {"name": recipe.name, "checkpoint": checkpoint, "mmts": __version__, "to": to, "license": license}
    repository = None if push is None else check_push(push, public)
    if repository is not None and _is_current(out, about, directory.checkpoint_file(checkpoint)):
        console.print(f"note: {out} holds this export already, and is pushed as it is")
    else:
        _export(directory, out, about)
    if repository is not None:
        push_folder(out, repository, public)
    return out


def _is_current(out: Path, about: dict[str, str], checkpoint: Path) -> bool:
    """Return whether a folder holds an export of what the checkpoint now holds."""
    file = out / "export.json"
    is_same = (read_kept(file) or {}).get("run") == about
    return is_same and checkpoint.exists() and file.stat().st_mtime >= checkpoint.stat().st_mtime


def _export(directory: RunDirectory, out: Path, about: dict[str, str]) -> None:
    recipe, to, checkpoint = directory.recipe(), about["to"], about["checkpoint"]
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
        if "media" in content and model.media_tower is not None:
            content["media"] |= pixel_settings(model.media_tower)
        content["run"] = about
        write_card(folder, directory, model, to, checkpoint, content, about["license"])
        write_json(folder / "export.json", content)
    files = sorted(f"{file.name}/" if file.is_dir() else file.name for file in out.iterdir())
    console.print(f"exported: {out}: {', '.join(files)}")
    worst = {side: content.get(side, {}).get("largest_difference") for side in ("media", "text")}
    if said := ", ".join(f"{side} {value:.1e}" for side, value in worst.items() if value is not None):
        console.print(f"largest difference from the run's embeddings: {said}")
    if (scale := content.get("logit_scale")) is not None:
        rule = getattr(getattr(recipe.objective, "temperature", None), "rule", None)
        whose = "the run's" if rule in ("fixed", "learned") else "the pretrained model's, as the run has no single one"
        console.print(f"logit scale {scale:.4g}, a temperature of {1 / scale:.3g}: {whose}")
    if content.get("needs_mmts"):
        how = f"SentenceTransformer({str(out)!r}, trust_remote_code=True)"
        console.print(f"note: it uses modules of mmts, so it loads only where mmts is installed, with {how}")
