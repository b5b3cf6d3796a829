"""`python -m reference`: runs until SIGTERM. Exit code 64: the environment is not one to start with."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from environment import Environment, Refused
from reference.service import run


def main() -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # It tells of every fetch that waited and every coordinator that it found.
    logging.getLogger("kafka").setLevel(logging.WARNING)
    try:
        environment = Environment.read(os.environ, batch_size=20, batch_timeout_seconds=0.5)
    except Refused as refused:
        print(f"reference: {refused}", file=sys.stderr)
        return 64
    asyncio.run(run(environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
