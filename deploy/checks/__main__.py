"""Runs every check on this repository, then plants mistakes in a copy of it and looks whether each is found."""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import yaml  # noqa: F401
except ImportError:
    sys.exit("deploy/check: this Python has no PyYAML: use scripts/test, or pip install -r scripts/python/requirements.txt")

import compose
import dockerfiles
import selftest
from project import Check, Project

CHECKS: list[Check] = [*compose.CHECKS, *dockerfiles.CHECKS]


def main() -> int:
    passed = failed = 0
    project = Project(Path(__file__).resolve().parents[2])
    results = [(check.name, check.problems(project)) for check in CHECKS]
    results += selftest.run(project.root, CHECKS)
    for name, problems in results:
        if problems:
            failed += 1
            print(f"FAILED  {name}")
            for problem in problems:
                print(f"          {problem}")
        else:
            passed += 1
            print(f"ok      {name}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
