"""A task run on many things by Ray Data, each result once, and what can go wrong with Ray told in one line.

Knows Ray; knows of the tasks only where they are found (cluster_worker.py).
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from typing import Any

from ..errors import InputError, VocabTrimError
from .tally import cores

_RETRIES = 5  # of a task whose worker died; one that kills each worker must not be tried for ever


def on_ray(task: str, asked: Sequence[Any], job: bytes, workers: int | None) -> Iterator[tuple[int, Any]]:
    """Yield (position, result) of the task on each thing asked, in the order in which they are done, each once.

    task: the name of a function of cluster_worker.py. job: what it gets each time, pickled. workers: tasks at once.

    Raises the InputError of a task, InputError for a worker without the packages, and for workers that keep dying.
    """
    if not asked:
        return
    import ray
    from ray.exceptions import RayError, RayTaskError

    wanted = version("vocabtrim")
    rows = [{"number": number, "asked": pickle.dumps(each)} for number, each in enumerate(asked)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")  # no other way to limit retries yet
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _shipped(task, job, wanted),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            concurrency=workers,
            max_retries=_RETRIES,
        )
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    try:
        for row in dataset.iter_rows():
            said, what, found = pickle.loads(zlib.decompress(row["result"]))
            if said != "done":
                raise _refused(said, what, found, wanted)
            if isinstance(what, VocabTrimError):
                raise what
            yield row["number"], what
    except RayTaskError:  # a bug of ours, with the worker's traceback
        raise
    except RayError as error:
        raise InputError(
            "Ray could not finish a piece of the corpus",
            found=str(error).strip().partition("\n")[0],
            remedy="look whether its workers have enough memory, and at Ray's own logs",
        ) from error


def _shipped(task: str, job: bytes, wanted: str) -> Callable[[Any], Any]:
    """The function that Ray runs on each row. It travels as code, and imports in front of the reader: a worker that
    lacks our package, or one that we need, must be able to say so."""

    def run(table: Any) -> Any:
        import os
        import pickle
        import socket
        import zlib
        from importlib import import_module
        from importlib.metadata import version

        import pyarrow

        result: tuple[str, Any, Any]
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # `tokenizers`: a task has one core
        try:
            found = version("vocabtrim")
            if found == wanted:
                tasks = import_module("vocabtrim.calibrate.cluster_worker")
                asked = pickle.loads(table["asked"][0].as_py())
                result = ("done", tasks.work(getattr(tasks, task), job, asked), None)
            else:
                result = ("other", socket.gethostname(), found)
        except ImportError as error:
            result = ("lacks", socket.gethostname(), error.name or str(error))
        packed = zlib.compress(pickle.dumps(result), 1)  # vectors of mostly small numbers: an eighth remains
        return pyarrow.table({"number": table["number"], "result": pyarrow.array([packed], pyarrow.large_binary())})

    return run


def _refused(said: str, host: str, found: str, wanted: str) -> InputError:
    if said == "lacks":
        return InputError(
            f"a Ray worker on {host} lacks the package {found}",
            remedy=f"install it on every machine of the cluster: pip install 'vocabtrim[ray]=={wanted}'",
        )
    return InputError(
        f"a Ray worker on {host} has another version of vocabtrim",
        expected=wanted,
        found=found,
        remedy="install the same version on every machine of the cluster",
    )


@contextmanager
def running_ray(address: str | None, workers: int | None) -> Iterator[None]:
    """A Ray to work on, quiet: what it says goes to stderr, and only errors."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            "counting on Ray needs Ray Data", found=error, remedy="install it with: pip install 'vocabtrim[ray]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    ours = not ray.is_initialized()
    with redirect_stdout(sys.stderr):  # Ray tells the death of a worker on stdout, which is for results
        if ours:
            _start(ray, address, workers)
        try:
            yield
        finally:
            if ours:
                ray.shutdown()


def _start(ray: Any, address: str, workers: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
            ray.init("local", num_cpus=workers or cores(), include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
        raise InputError(
            f"no Ray can be reached at {address}",
            found=str(error).strip().partition("\n")[0],
            remedy="correct --ray-address or RAY_ADDRESS, or leave both out for a Ray of this machine's own",
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at host:port: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
