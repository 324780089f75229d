"""Ray, imported when it is needed: a cluster that is joined, or started on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.text import first_sentence

# With the 150 MB that some clusters have by default, Ray Data waits for ever.
OBJECT_STORE_BYTES = 10**9
_LEAST_BYTES = 5 * 10**8
_SECONDS_TO_CONNECT = 10
# What Ray reads when it is imported. It reports its use to its makers unless it is told not to.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


def import_ray() -> Any:
    """The package `ray` with its `ray.data`, made quiet.

    Raises:
        LostRegError: it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise LostRegError("`engine` ray needs Ray: pip install 'lost-reg[ray]'") from None
    # What raylets say of actors that die, it prints to the standard output, where results are.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    make_quiet()
    warnings.filterwarnings("ignore", module="ray")
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    return ray


def make_quiet() -> None:
    """Keep what Ray Data logs to itself: errors are raised, too."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The package `ray`, connected to a cluster; what was started or joined here is left at the end.

    address: of a cluster that is there, such as "auto" or "10.0.0.1:6379"; None starts Ray on this machine.

    Raises:
        LostRegError: Ray is not installed, there is no cluster, or one whose object stores are too small.
    """
    ray = import_ray()
    if ray.is_initialized():
        _check_stores(ray)
        yield ray
        return
    if address:
        check_reachable(address)
    started = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    with _native_silence():
        try:
            with _kept_handlers():
                ray.init(
                    address=address or "local", logging_level=logging.ERROR, log_to_driver=False,
                    **({} if address else started),
                )  # fmt: skip
        except Exception as error:  # of many types, for what the network or the machine does
            where = f"the cluster at {address!r}" if address else "Ray on this machine"
            raise LostRegError(f"cannot use {where}: {first_sentence(error)}") from None
        try:
            _check_stores(ray)
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Keep this process's own way of ending: Ray puts handlers of its own in place of those."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def _native_silence() -> Iterator[None]:
    """Drop what Ray's native code writes to the standard error output; Python's own messages still appear."""
    python = sys.stderr
    try:
        is_native = python.fileno() == 2
        kept = os.dup(2)
    except (AttributeError, OSError, ValueError):  # there is none, or it is captured, as in a notebook
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    if is_native:
        sys.stderr = os.fdopen(os.dup(kept), "w", buffering=1, encoding=python.encoding, errors=python.errors)
    try:
        yield
    finally:
        if is_native:
            sys.stderr.close()
            sys.stderr = python
        os.dup2(kept, 2)
        os.close(kept)


def check_reachable(address: str) -> None:
    """Check that something listens at the address of a cluster: Ray would wait for minutes.

    Raises:
        LostRegError: nothing does.
    """
    if address == "auto":
        from ray._private.services import get_ray_address_from_environment

        try:
            address = get_ray_address_from_environment("auto", None)
        except ConnectionError:
            raise LostRegError("no cluster of Ray is on this machine: give its `address`") from None
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        raise LostRegError(f"`address` cannot be {address!r}: it is HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise LostRegError(f"no cluster of Ray answers at {address!r}: {error}") from None


def _check_stores(ray: Any) -> None:
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]]
    if (least := min(stores, default=0)) < _LEAST_BYTES:
        raise LostRegError(
            f"a node of the cluster has an object store of {least / 1e6:,.0f} MB, with which "
            "Ray Data may wait for ever: start its nodes with an object store of 1,000,000,000 bytes"
        )


def of_nodes(ray: Any, resource: str) -> list[int]:
    """How many "CPU" or "GPU" each node has that has any."""
    counts = [int(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"]]
    return [count for count in counts if count]
