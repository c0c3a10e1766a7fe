"""How a long job is divided: `--part I/N`, or the tasks of a Ray cluster, which repeats those that are lost."""

import os
import platform
import re
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmts.console import console, quiet
from mmts.errors import InputError, Interrupted, MmtsError, RunError, counted, first_line
from mmts.recipe.components import Trust
from mmts.recipe.run_directory import trusted_code, trusting_code
from mmts.training.signals import stop_requests

STOPPED = "stopped; run the same command again to continue"
_ANSWER = 10.0  # seconds for a cluster to answer
_POLL = 0.2  # seconds between checks for a stop signal
_GRACE = 60.0  # seconds for tasks to end, and for runs to write their checkpoints
_RETRIES = 3  # of a task whose process is killed, whose node is lost or whose disk is full


def parse_part(text: str | None, ray: str | None = None) -> tuple[int, int]:
    """Return (I, N) of `--part I/N`, the I-th of N processes, I from 1 to N; (1, 1) for None.

    Raises InputError for anything else, and if `ray`, the address of a cluster that divides the work, is given, too.

    >>> parse_part("3/8"), parse_part(None)
    ((3, 8), (1, 1))
    """
    if text is None:
        return 1, 1
    if ray is not None:
        raise InputError(f"--part {text} and --ray {ray} both divide the work; give one of them")
    matched = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--part {text}: it must be I/N, the I-th of N processes, with I from 1 to N, such as 1/8")
    return number, count


@contextmanager
def connected(address: str) -> Iterator[int]:
    """Connect to Ray while the body runs; yield how many tasks run at a time: one per GPU, or without any per core.

    address: `auto` (the cluster that this machine belongs to), `local` (a new one, of this machine alone), or
    HOST:PORT with or without ray:// before it.

    Raises RunError if Ray is not installed, or if there is no cluster at that address, and InputError for others.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address not in ("auto", "local") and not (host and port.isdigit()):
        raise InputError(f"--ray {address}: it must be auto, local or ray://HOST:PORT")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    try:
        import ray
    except ImportError:
        raise RunError('--ray needs Ray: pip install "mmts[ray]"') from None
    here = {"include_dashboard": False} if address == "local" else {}
    try:
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_ANSWER).close()
        ray.init(address, log_to_driver=False, logging_level="error", **here)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise RunError(f"--ray {address}: no cluster answers there ({first_line(error)})") from None
    try:
        resources = ray.cluster_resources()
        number, unit = (resources["GPU"], "GPU") if resources.get("GPU") else (resources.get("CPU", 1), "core")
        nodes = sum(node["Alive"] for node in ray.nodes())
        console.print(f"on Ray: {counted(int(number), unit)} of {counted(nodes, 'node')}")
        yield int(number)
    finally:
        ray.shutdown()


def run_tasks(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Generator[tuple[int, Any]]:
    """Yield the position of each tuple of arguments and what `call` returns for it, as the tasks end, `connected`.

    A task gets a GPU if the cluster has any, else a core. It must do no harm when it runs again: Ray repeats it if its
    process is killed, its node is lost or told to stop, or a file cannot be written. Raises the MmtsError or the
    OSError of a task, RunError if one is lost for good, and Interrupted after Ctrl-C or SIGTERM; tasks that run then
    are told to stop.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0}
    options |= {"max_retries": _RETRIES, "retry_exceptions": [OSError, Interrupted], "scheduling_strategy": "SPREAD"}
    task = ray.remote(**options)(_silently)
    running = {task.remote(trusted_code(), call, *values): at for at, values in enumerate(arguments)}
    with stop_requests() as stop:
        try:
            while running:
                for finished in ray.wait(list(running), timeout=_POLL)[0]:
                    at = running.pop(finished)
                    try:
                        result = ray.get(finished)
                    except RayTaskError as error:
                        if isinstance(error.cause, MmtsError | OSError):
                            raise error.cause from None
                        raise
                    except RayError as error:
                        raise RunError(f"a task was lost {_RETRIES + 1} times: {first_line(error)}") from None
                    yield at, result
                if stop:
                    raise Interrupted(STOPPED, stop[0])
        finally:
            for left in running:
                ray.cancel(left)
            ray.wait(list(running), num_returns=len(running), timeout=_GRACE) if running else None


def _silently(trusted: Trust, call: Callable[..., Any], *values: Any) -> Any:
    with quiet(), trusting_code(trusted):
        try:
            return call(*values)
        except OSError as error:
            if error.errno is None:  # raised by a library, with its own message
                raise
            raise type(error)(error.errno, f"{error.strerror} (on {platform.node()})", error.filename) from None
