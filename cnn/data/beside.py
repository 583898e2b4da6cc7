"""Processes beside this one, with a connection each: they end with the block, or with this one."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context, resource_tracker

SIGNALS = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def beside(
    serve: Callable[..., None], given: Iterable[tuple[object, ...]]
) -> Iterator[list[connection.Connection]]:
    """Run `serve(connection, *arguments)` in a process for each of the `given` arguments.

    In the other process the connection raises EOFError or OSError when this one has ended; `serve`
    lets them pass. No Ctrl-C of a terminal reaches it, nor says anything there.
    """
    context = get_context("spawn")  # what is forked has the locks of threads that it has not
    connections, processes = [], []
    resource_tracker.ensure_running()  # when it starts, Python 3.11 lets signals through
    try:
        for arguments in given:
            here, there = context.Pipe()
            connections.append(here)
            process = context.Process(target=_run, args=(serve, there, *arguments), daemon=True)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                process.start()
                processes.append(process)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            there.close()
        yield connections
    finally:
        for process in processes:
            process.kill()  # with nothing to lose; what waits for an answer gets its end
            process.join()


def _run(serve: Callable[..., None], there: connection.Connection, *arguments: object) -> None:
    try:
        serve(there, *arguments)
    except (EOFError, OSError):  # who asks has ended
        return
