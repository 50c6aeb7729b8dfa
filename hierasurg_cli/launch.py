"""`--gpus N`: N processes of the very same command line in one process group.

Owns the start of ranks by torch's elastic launcher, what of them reaches the terminal (rank 0's output; of a
failure the first error there was, nothing of those that followed from it), and the passing on of signals.
What ranks then do together is the core's affair (`hierasurg_core.runtime.process_group`). A process that
another launcher started (torchrun, `accelerate launch`) is a rank already and launches nothing.

Imports torch only to launch.
"""

import contextlib
import ctypes
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from hierasurg_cli import console
from hierasurg_core.artifacts import ensure_writable_folder
from hierasurg_core.config.ranks import Ranks
from hierasurg_core.errors import HieraSurgError, ResourceError, UsageError
from hierasurg_core.locking import LOCK_FILE

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig

_LAUNCHER = "HIERASURG_LAUNCHER"  # process number of our launcher
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_FAILURES = "HIERASURG_FAILURES"  # folder into which a rank of ours says why it ended
_SECONDS_TO_SAVE = "600"  # that ranks have after a signal, for their last checkpoint
_RUN = "hierasurg"


class RankError(HieraSurgError):
    """The error that ended a rank, with its exit code.

    `refused` tells that the rank ended itself with this error; else something from outside killed it.
    """

    def __init__(self, message: str, exit_code: int, *, refused: bool = False) -> None:
        """Takes the message, without a line break, and the exit code of the rank."""
        super().__init__(message)
        self.exit_code = exit_code
        self.refused = refused


def launch(
    wanted: Ranks,
    *,
    device: str,
    max_restarts: int = 0,
    logs: Path | None = None,
) -> bool:
    """Runs this process's command line as N ranks, unless this process should do the work itself.

    Args:
        wanted: Processes and machines. Each machine is given the same line but for `node_rank`, and machine 0
            hosts the meeting point.
        device: The command's `--device`; with "cpu" any N will do, and ranks talk through gloo.
        max_restarts: How often all ranks are started again after one has died.
        logs: Folder for what ranks other than 0 say; None: a temporary one, deleted after success.

    Returns:
        False if the caller should go on with the work: one process is enough, or it is a rank already. True
        if the ranks have done it.

    Raises:
        UsageError: Numbers or device that make no sense together.
        ResourceError: This machine has fewer GPUs.
        RankError: A rank failed; this is the first error of all ranks.
        typer.Exit: A rank failed by a bug, whose traceback has been shown, or has told itself what failed.
        KeyboardInterrupt: SIGINT or SIGTERM came; every rank was told and has ended.
    """
    check_numbers(wanted, max_restarts)
    if is_rank() or (wanted.nodes == 1 and wanted.gpus in (None, 1)):
        return False
    ranks = wanted.gpus or 1
    _expect_gpus(ranks, device)
    with contextlib.ExitStack() as stack:
        if logs is None:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hierasurg-")))
        ensure_writable_folder(logs)
        failures = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hierasurg-")))
        os.environ[_FAILURES] = str(failures)
        os.environ[_LAUNCHER] = str(os.getpid())
        os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = _SECONDS_TO_SAVE
        if "OMP_NUM_THREADS" not in os.environ:
            os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // ranks))
        config = _config(wanted, max_restarts, logs)
        _run(config, failures, logs)
    return True


def is_rank() -> bool:
    """Tells whether a launcher started this process, ours or another."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def holds_the_lock(node_rank: int) -> bool:
    """Tells whether this process locks the output folder for all that work together.

    That is the process alone, our launcher on machine 0, or rank 0 of another launcher.
    """
    if is_rank():
        return _FAILURES not in os.environ and os.environ["RANK"] == "0"
    return node_rank == 0


def tell_launcher(message: str, code: int, trace: str = "") -> bool:
    """Hands the error that ends this rank to our launcher, which shows the first one of all ranks.

    Args:
        message: The error; "" where this rank has told it itself.
        code: With which the rank, and so the launcher, ends.
        trace: The traceback of a bug.

    Returns:
        False where no launcher of ours listens; then the caller shows the error.
    """
    folder = os.environ.get(_FAILURES)
    if folder is None or not is_rank():
        return False
    rank = int(os.environ["RANK"])
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    said = {
        "attempt": attempt,
        "time": time.time(),
        "rank": rank,
        "message": message,
        "code": code,
        "trace": trace,
    }
    path = Path(folder) / f"{attempt}-{rank}.json"
    with contextlib.suppress(OSError):  # a disk that is full is what the error may be about
        path.write_text(json.dumps(said), encoding="utf-8")
        return True
    return False


def end_with_launcher() -> None:
    """Lets the system kill a rank of ours when its launcher dies, whose lock on the output folder ends then.

    Linux only; elsewhere such ranks end when they next wait for one another.
    """
    launcher = os.environ.get(_LAUNCHER)
    if launcher is None or not is_rank() or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it died before
        os.kill(os.getpid(), signal.SIGKILL)


def catch_bugs() -> None:
    """Lets the traceback of a bug in a rank of ours go to the launcher instead of the terminal."""
    if _FAILURES in os.environ and is_rank():
        sys.excepthook = _bug


def _bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    if not tell_launcher(str(error), 1, text):
        sys.__excepthook__(kind, error, trace)


def check_numbers(wanted: Ranks, max_restarts: int = 0) -> None:
    """Refuses numbers of processes and machines that make no sense; `launch` does so as well.

    Raises:
        UsageError: The message names the option.
    """
    gpus, nodes = wanted.gpus, wanted.nodes
    node_rank, rendezvous = wanted.node_rank, wanted.rendezvous
    for name, value, least in (
        ("gpus", 1 if gpus is None else gpus, 1),
        ("nodes", nodes, 1),
        ("node-rank", node_rank, 0),
        ("max-restarts", max_restarts, 0),
    ):
        if value < least:
            raise UsageError(f"--{name} must be {least} or more, not {value}")
    if node_rank >= nodes:
        raise UsageError(
            f"--node-rank {node_rank} does not exist with --nodes {nodes}: they count from 0, so give "
            + ("none" if nodes == 1 else f"0 to {nodes - 1}")
        )
    if nodes > 1 and rendezvous is None:
        raise UsageError("--nodes needs --rendezvous HOST:PORT, an address of node 0 that all nodes reach")
    if rendezvous is not None:
        host, _, port = rendezvous.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"--rendezvous must be HOST:PORT as 10.0.0.1:29500, not {rendezvous!r}")


def _forget_refused_run(logs: Path, before: set[Path]) -> None:
    """Deletes the logs of ranks that refused the work before they wrote anything into the run's folder."""
    if {path.name for path in logs.parent.iterdir()} <= {logs.name, LOCK_FILE}:
        for path in set(logs.iterdir()) - before:
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            logs.rmdir()


def _expect_gpus(ranks: int, device: str) -> None:
    """Refuses more ranks than GPUs before anything loads."""
    if device == "cpu":
        return
    if device not in ("auto", "cuda"):
        raise UsageError(f"--gpus {ranks} takes GPUs 0 to {ranks - 1}: leave out --device {device}")
    import torch

    present = torch.cuda.device_count()
    if ranks > present:
        advice = f"use --gpus {present} at most" if present else "give --device cpu to run them on the CPU"
        raise ResourceError(
            f"--gpus {ranks} is not possible: this machine has {present} GPU{'s'[: present != 1]}; {advice}"
        )


def _config(wanted: Ranks, max_restarts: int, logs: Path) -> "LaunchConfig":
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    ranks, node_rank, rendezvous = wanted.gpus or 1, wanted.node_rank, wanted.rendezvous
    quiet: dict[int, Std] = {local: Std.ALL for local in range(ranks) if local or node_rank}
    host = "localhost" if rendezvous is None else rendezvous.rpartition(":")[0]
    return LaunchConfig(
        min_nodes=wanted.nodes,
        max_nodes=wanted.nodes,
        nproc_per_node=ranks,
        run_id=_RUN,
        role=_RUN,
        rdzv_backend="c10d",
        # Port 0 lets the system choose a free one, so that runs side by side never meet.
        rdzv_endpoint=rendezvous or "localhost:0",
        rdzv_configs={"is_host": node_rank == 0},
        local_addr=host if node_rank == 0 else None,
        max_restarts=max_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=quiet),
        signals_to_handle="SIGTERM,SIGINT,SIGHUP",
    )


def _run(config: "LaunchConfig", failures: Path, logs: Path) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    command = ["-m", "hierasurg_cli", *sys.argv[1:]]
    before = set(logs.iterdir())
    try:
        with _quiet_launcher():
            elastic_launch(config, sys.executable)(*command)
    except SignalException as error:
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        first = _first_error(error, failures)
        if isinstance(first, RankError) and first.refused:
            _forget_refused_run(logs, before)
        raise first from error


@contextlib.contextmanager
def _quiet_launcher() -> Generator[None, None, None]:
    """Keeps the launcher's own reports, which repeat what we say, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _first_error(error: "ChildFailedError", failures: Path) -> "RankError | typer.Exit":
    """Returns what went wrong first, as an exit where that is shown: a traceback is, at once.

    A rank that a signal ended could write nothing and comes before the others, whose errors follow from its
    end; among those of the last attempt that wrote something, the earliest counts.
    """
    said: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in failures.iterdir()]
    said.sort(key=lambda failure: (-failure["attempt"], failure["time"]))
    # SIGTERM is what the launcher stops the others with.
    ours = -signal.SIGTERM
    killed = {rank: failure for rank, failure in error.failures.items() if ours != failure.exitcode < 0}
    if said and not killed:
        first = said[0]
        if first["trace"]:
            console.show_trace(f"rank {first['rank']}: {first['trace']}")
        if first["trace"] or not first["message"]:
            return typer.Exit(int(first["code"]))
        return RankError(f"{first['message']} (rank {first['rank']})", int(first["code"]), refused=True)
    rank, failure = min((killed or error.failures).items())
    signalled = failure.exitcode < 0
    how = (
        f"was killed by {failure.signal_name()}" if signalled else f"ended with exit code {failure.exitcode}"
    )
    reason = "; the machine's memory may have run out" if failure.exitcode == -signal.SIGKILL else ""
    return RankError(
        f"rank {rank} {how}{reason}; the other ranks were stopped",
        ResourceError.exit_code if signalled else failure.exitcode,
    )
