"""The `constitutional` command. Heavy libraries are imported inside the commands that need them."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from constitutional.errors import ConstitutionalError


class Terminated(BaseException):
    """SIGTERM, as an exception, so that it ends a run the way Ctrl-C does."""


def main() -> None:
    """Entry point: our errors are one line and exit 1, Ctrl-C exits 130, SIGTERM 143."""
    signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    # libraries must neither phone home nor draw bars of their own over ours
    for name, value in (("HF_HUB_DISABLE_TELEMETRY", "1"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    from constitutional.cli.app import app

    try:
        app(standalone_mode=False)
    except ConstitutionalError as error:
        if debug:
            raise
        _exit(1, f"error: {error}")
    except (KeyboardInterrupt, Terminated) as stop:
        from constitutional.cli import resume

        code = 143 if isinstance(stop, Terminated) else 130
        _exit(code, f"interrupted; what is finished is kept. Resume with:\n  {resume.command()}")
    except Exception as error:
        from click import ClickException
        from typer import Abort, Exit

        if isinstance(error, Exit):
            sys.exit(error.exit_code)
        if isinstance(error, Abort):
            _exit(130, "aborted")
        if isinstance(error, ClickException):
            error.show()
            sys.exit(error.exit_code)
        raise


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _exit(code: int, message: str) -> None:
    """Prints a message and leaves at once: an engine's threads may still be busy with an answer nobody waits for."""
    from constitutional.display import printable

    print(printable(message), file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
