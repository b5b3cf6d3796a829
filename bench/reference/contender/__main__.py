"""`python -m contender`: runs until SIGTERM. Exit code 64: the environment is not one to start with."""

from __future__ import annotations

import logging
import os
import sys

from contender.service import run
from environment import Environment, Refused


def main() -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        # What was measured best for it (../README.md). A batch ends with whatever comes first.
        environment = Environment.read(os.environ, batch_size=5_000, batch_timeout_seconds=0.05)
        run(environment)
    except Refused as refused:
        print(f"contender: {refused}", file=sys.stderr)
        return 64
    return 0


if __name__ == "__main__":
    sys.exit(main())
