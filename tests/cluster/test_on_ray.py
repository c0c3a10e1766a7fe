"""Embedding, clustering and sweeps on a Ray cluster of two nodes: the bytes of one machine, whatever is lost."""

import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster.test_embed import contents
from sweep.small_sweep import ONLY_FIXED, write_sweep
from tests_support import children, command_of, draw_shapes

from mmts.cluster import concepts as clustering
from mmts.cluster.concepts import cluster
from mmts.cluster.embed import embed, join
from mmts.cluster.on_ray import connected, run_tasks
from mmts.cluster.stored import open_stored
from mmts.concepts import ConceptDistribution
from mmts.errors import DataError, InputError, RunError
from mmts.sweep import run_sweep

SWEEP = {"variants": ONLY_FIXED, "seeds": {"test": [0]}}
# What a node's processes run at their start: with SLOW each file takes that many seconds; with FULL the disk is full.
SLOW_OR_FULL = """
import errno, os, pathlib, time
fsync = os.fsync
def slow_or_full(handle):
    time.sleep(float(os.environ.get("SLOW", 0)))
    if "FULL" in os.environ:
        pathlib.Path(os.environ["FULL"]).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync(handle)
os.fsync = slow_or_full
"""


class Nodes:
    """A Ray cluster: a first node of one core, and a second one that comes and goes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.room = {"num_cpus": 1, "object_store_memory": 80_000_000}
        head = {**self.room, "include_dashboard": False, "env_vars": {"SLOW": "0.2"}}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self.cluster.address
        self.second: Any = None

    def add(self, **environment: str) -> None:
        """Add the second node, whose processes get these variables."""
        self.second = self.cluster.add_node(**self.room, env_vars=environment)
        self.cluster.wait_for_nodes()

    def remove(self) -> None:
        """Take the second node away, with all that runs on it."""
        if self.second is not None:
            self.cluster.remove_node(self.second, allow_graceful=False)
            self.second = None

    def workers(self) -> list[int]:
        """Return the processes of the second node that run a task."""
        raylet = self.second.all_processes["raylet"][0].process.pid
        return [pid for pid in children(raylet) if "ray::_silently" in command_of(pid)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("start")
    (folder / "sitecustomize.py").write_text(SLOW_OR_FULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        nodes = Nodes()
        yield nodes
        nodes.remove()
        nodes.cluster.shutdown()


@pytest.fixture
def nodes(head: Nodes) -> Iterator[Nodes]:
    head.add(SLOW="0.2")
    yield head
    head.remove()


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def embedding(nodes: Nodes, shapes: Path, clip: Path, out: Path) -> "subprocess.Popen[str]":
    return mmts("embed", shapes, "--model", clip, "--out", out, "--rows", 5, "--ray", nodes.address)


def mmts(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mmts.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def one(shapes: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts that one process makes."""
    out = tmp_path_factory.mktemp("one") / "rows"
    embed(shapes, str(clip), "text", out, rows_per_part=5)
    return contents(out)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("pictures") / "shapes", 60)


@pytest.fixture(scope="module")
def table(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The leaderboard.csv of the sweep in one process."""
    folder = tmp_path_factory.mktemp("sweep")
    run_sweep(write_sweep(folder, **SWEEP), pictures, folder / "out", 1)
    return (folder / "out" / "leaderboard.csv").read_bytes()


# --- without a cluster -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["somewhere", "ray://first", "first:port"])
def test_what_is_no_address_is_an_error(address: str) -> None:
    with (
        pytest.raises(InputError, match=f"--ray {address}: it must be auto, local or ray://HOST:PORT"),
        connected(address),
    ):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r'--ray needs Ray: pip install "mmts\[ray\]"'), connected("auto"):
        pass


def test_parts_and_ray_are_not_mixed(tmp_path: Path) -> None:
    for command in (
        lambda: embed(tmp_path, "clip", "text", tmp_path / "out", part="1/2", ray="auto"),
        lambda: cluster(tmp_path, 2, tmp_path / "out.npz", part="1/2", ray="auto"),
    ):
        with pytest.raises(InputError, match="--part 1/2 and --ray auto both divide the work"):
            command()


def test_jobs_and_ray_are_not_mixed(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--jobs counts runs on this machine"):
        run_sweep(write_sweep(tmp_path), pictures, tmp_path / "out", 2, ray="auto")


# --- on two nodes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_nodes_write_the_parts_of_one_process(
    nodes: Nodes, one: dict[str, bytes], shapes: Path, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    embed(shapes, str(clip), "text", out, rows_per_part=5, ray=nodes.address)
    join(out)
    assert contents(out) == one
    damaged = sorted(out.rglob("*.npy"))[1]
    damaged.write_bytes(b"damaged")
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.npy") if file != damaged}
    embed(shapes, str(clip), "text", out, rows_per_part=5, ray=nodes.address)
    assert contents(out) == one
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["process", "node"])
def test_what_a_lost_process_or_node_had_to_do_is_done_by_others(
    lost: str, nodes: Nodes, one: dict[str, bytes], shapes: Path, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with embedding(nodes, shapes, clip, out) as process:
        wait_until(lambda: len(contents(out)) > 3 and nodes.workers())
        killed = nodes.workers()
        if lost == "node":
            nodes.remove()
        else:
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        assert killed
        assert len(contents(out)) < len(one)
        message = process.communicate()[1]
    assert process.returncode == 0, message
    join(out)
    assert contents(out) == one


@pytest.mark.slow
def test_a_stopped_command_ends_its_tasks_and_goes_on(
    nodes: Nodes, one: dict[str, bytes], shapes: Path, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with embedding(nodes, shapes, clip, out) as process:
        wait_until(lambda: len(contents(out)) > 3)
        process.send_signal(signal.SIGINT)
        message = process.communicate()[1]
    assert process.returncode == 130
    assert message == "mmts: stopped; run the same command again to continue\n"
    before = contents(out)
    time.sleep(1)
    assert contents(out) == before
    assert 3 < len(before) < len(one)
    embed(shapes, str(clip), "text", out, rows_per_part=5, ray=nodes.address)
    assert contents(out) == one


@pytest.mark.slow
def test_a_full_disk_on_one_node_is_named_and_loses_nothing(
    head: Nodes, one: dict[str, bytes], shapes: Path, clip: Path, tmp_path: Path
) -> None:
    out, was_full = tmp_path / "out", tmp_path / "was full"
    head.add(FULL=str(was_full))
    try:  # Ray repeats what fails, here or there
        embed(shapes, str(clip), "text", out, rows_per_part=5, ray=head.address)
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017
        assert error.strerror == f"No space left on device (on {platform.node()})"  # noqa: PT017
    assert was_full.exists()
    head.remove()
    embed(shapes, str(clip), "text", out, rows_per_part=5, ray=head.address)
    join(out)
    assert contents(out) == one


@pytest.mark.slow
def test_an_error_on_a_node_is_that_of_one_machine(nodes: Nodes, tmp_path: Path) -> None:
    with connected(nodes.address), pytest.raises(DataError, match="nowhere does not exist; it must hold embeddings"):
        list(run_tasks(open_stored, [(tmp_path / "nowhere",)]))
    with pytest.raises(RunError, match=r"--ray 127\.0\.0\.1:1: no cluster answers there"), connected("127.0.0.1:1"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_two_nodes_find_the_concepts_of_one_machine(
    lost: bool, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float16))
    cluster(tmp_path / "rows.npy", 5, tmp_path / "one.npz")
    monkeypatch.setattr(clustering, "_ROWS", 100)
    if lost:
        thread = threading.Thread(target=lambda: (wait_until(nodes.workers), nodes.remove()))
        thread.start()
    cluster(tmp_path / "rows.npy", 5, tmp_path / "two.npz", ray=nodes.address)
    if lost:
        thread.join()
        assert nodes.second is None
    one, two = (ConceptDistribution.load(tmp_path / name) for name in ("one.npz", "two.npz"))
    assert one.labels.tolist() == two.labels.tolist()
    assert one.sizes.tolist() == two.sizes.tolist()
    assert not (tmp_path / "two.npz.parts").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "process", "node", "driver"])
def test_a_sweep_on_two_nodes_makes_the_table_of_one_machine(
    lost: str, nodes: Nodes, table: bytes, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["sweep", write_sweep(tmp_path, **SWEEP), "--data", pictures, "--out", out, "--ray", nodes.address]
    with mmts(*command) as process:
        if lost != "nothing":
            wait_until(lambda: len(list(out.rglob("last.pt"))) > 1 and nodes.workers())
        if lost == "process":
            os.kill(nodes.workers()[0], signal.SIGKILL)
        elif lost == "node":
            nodes.remove()
        elif lost == "driver":
            process.send_signal(signal.SIGINT)
        message = process.communicate()[1]
    if lost == "driver":
        assert process.returncode == 130
        assert message == "mmts: stopped; run the same command again to continue\n"
        assert not list(out.rglob("seed-*/.lock"))  # every run has ended
        with mmts(*command) as process:
            message = process.communicate()[1]
    assert process.returncode == 0, message
    assert (out / "leaderboard.csv").read_bytes() == table
