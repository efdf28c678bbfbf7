"""The `constitutional` command. Heavy libraries are imported inside the commands that need them."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

from constitutional.errors import BackendError, BudgetError, ConstitutionalError, PendingError, ShardDone
from constitutional.processes import end_groups, leads, rank

BUDGET_EXIT, PENDING_EXIT = 4, 5
"""The budget is at its end; calls wait in batch files. Both go on with the same command later."""


class Stopped(BaseException):
    """SIGINT or SIGTERM. Not KeyboardInterrupt, which the argument parser would turn into something else."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def main() -> None:
    """Entry point: our errors are one line and exit 1, Ctrl-C exits 130, SIGTERM 143."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    # libraries must neither phone home nor draw bars of their own over ours
    for name, value in (("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    try:
        from constitutional.cli.app import app

        code = app(standalone_mode=False)
    except ConstitutionalError as error:
        if debug:
            raise
        _leave(*_stopped(error))
    except Stopped as stop:
        from constitutional.cli.resume import farewell

        _leave(stop.exit_code, farewell(sys.argv[1:]))
    except Exception as error:
        # the argument parser's own errors know how to show themselves and what to exit with
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(int(error.exit_code))
        raise
    end_groups()
    sys.exit(code if isinstance(code, int) else 0)


def _stopped(error: ConstitutionalError) -> tuple[int, str]:
    """Exit code and message of an error; with the command to resume by where the same one may go on later."""
    from constitutional.cli.resume import farewell

    if isinstance(error, PendingError):
        return PENDING_EXIT, str(error)
    if isinstance(error, ShardDone):
        return 0, str(error)
    if isinstance(error, BudgetError):
        return BUDGET_EXIT, farewell(sys.argv[1:], f"stopped: {error}")
    if isinstance(error, BackendError) and error.retryable:
        return 1, farewell(sys.argv[1:], f"error: {error}")
    return 1, f"error: {error}"


def _stop(number: int, frame: FrameType | None) -> None:
    """`timeout` sends its signal twice, which must not break off the farewell; a later one ends the process at once."""
    until = time.monotonic() + 1

    def again(number: int, frame: FrameType | None) -> None:
        if time.monotonic() > until:
            os._exit(128 + number)

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, again)
    raise Stopped(number)


def _leave(code: int, message: str) -> None:
    """Prints a message and leaves at once: an engine's threads may still be busy with an answer nobody waits for."""
    from constitutional.display import printable

    said = message if leads() else f"process {rank()}: {message.splitlines()[0]}"  # the leading one says the rest
    print(printable(said), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
