"""The command as a launcher's process: `launched_command.py run RECIPE ...`; tells if it leaves a group open."""

import atexit
import sys

import torch

from constitutional.cli import main

if __name__ == "__main__":
    atexit.register(lambda: torch.distributed.is_initialized() and print("a group is left open", file=sys.stderr))
    main()
