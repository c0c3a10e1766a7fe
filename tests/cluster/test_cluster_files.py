"""The files of docs/cluster: their commands run, with Slurm and the machines replaced."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep.small_sweep import ONLY_FIXED, SWEEP, write_sweep
from tests_support import draw_shapes

from mmts.cluster.embed import join
from mmts.files import read_json

FILES = Path(__file__).parents[2] / "docs" / "cluster"
# srun runs its command once per node, all at a time; torchrun gives each its number.
COMMANDS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done\n'
    'for node in $(seq "${SLURM_NNODES:-1}"); do "$@" & running+=($!); done\n'
    'for process in "${running[@]}"; do wait "$process" || exit; done',
    "scontrol": "echo localhost",
    "mmts": f'{sys.executable} -m mmts.cli "$@"',
    "torchrun": f'{sys.executable} -m torch.distributed.run "$@"',
}


@pytest.fixture
def submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what runs a file of docs/cluster with some variables, as the nodes of Slurm would."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def run(name: str, **variables: object) -> None:
        environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
        done = subprocess.run(["bash", FILES / name], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.slow
def test_an_array_embeds_every_part(submit: Callable[..., None], shapes: Path, clip: Path, tmp_path: Path) -> None:
    for task in (1, 2):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": 2}
        submit("embed.sbatch", DATA=shapes, MODEL=clip, OUT=tmp_path / "rows", ROWS=30, **array)
    assert join(tmp_path / "rows").num_parts > 2


@pytest.mark.slow
def test_several_nodes_train_one_run(submit: Callable[..., None], tmp_path: Path) -> None:
    data, recipe, out = draw_shapes(tmp_path / "shapes", 60), tmp_path / "recipe.yaml", tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    towers: Any = {**SWEEP["set"]}
    image = {
        **towers["model.image"],
        "tower": "small-vit",
        "options": {"width": 16, "depth": 1, "heads": 2, "patch": 8},
    }
    recipe.write_text(
        yaml.safe_dump({
            "name": "small", "model": {"image": image, "text": towers["model.text"], "width": 16},
            "concepts": towers["concepts"], "train": {"epochs": 2, "batch_size": 24},
            "objective": {"loss": "info_nce", "temperature": {"rule": "fixed", "value": 0.1}},
        })
    )  # fmt: skip
    job = {"SLURM_NNODES": 2, "SLURM_GPUS_ON_NODE": 1, "SLURM_JOB_ID": 7, "SLURM_JOB_NODELIST": "a", "PORT": port}
    for _ in range(2):  # the second time continues what is finished
        submit("train.sbatch", RECIPE=recipe, DATA=data, OUT=out, **job)
    assert read_json(out / "metrics.json")["split"] == "test"


@pytest.mark.slow
def test_an_array_makes_a_sweep(submit: Callable[..., None], tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "shapes", 60)
    sweep = write_sweep(tmp_path, variants=ONLY_FIXED, seeds={"test": [0, 1]})
    for task in (1, 2, 1, 2):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": 2}
        submit("sweep.sbatch", SWEEP=sweep, DATA=data, OUT=tmp_path / "out", **array)
    assert (tmp_path / "out" / "leaderboard.md").exists()


@pytest.mark.slow
def test_ray_takes_the_cluster_file_and_its_commands() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts import scripts

    config = yaml.safe_load((FILES / "ray.yaml").read_text())
    validate_config(prepare_config(config))
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for program, name, *options in map(shlex.split, commands):
        assert program == "ray"
        getattr(scripts, name).make_context(name, options)  # parses the options, and runs nothing
    for command in config["setup_commands"]:
        subprocess.run(["bash", "-n", "-c", command], check=True)
