"""The repository as the checks see it: files read once, and what its other parts know (variables, programs)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

# The images built here, and the Dockerfile of each.
RUST, WORKER = "deploy/Dockerfile", "deploy/worker.Dockerfile"
DOCKERFILES = (RUST, WORKER)


@dataclass(frozen=True)
class Check:
    """A rule as a sentence, and what breaks it."""

    name: str
    find: Callable[[Project], Iterator[str]]

    def problems(self, project: Project) -> list[str]:
        try:
            return list(self.find(project))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            # A file so broken that a check cannot look into it.
            return [f"{type(error).__name__}: {' '.join(str(error).split())}"]


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands there twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        own = {key for key in keys if keys.count(key) > 1} if not getattr(node, "merged", False) else set()
        if own:
            raise ValueError(f"twice in one mapping: {', '.join(sorted(own))}")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # Merged keys stand beside those that override them.
        node.merged = True


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    @cached_property
    def compose(self) -> dict[str, Any]:
        return yaml.load(self.text("deploy/compose.yaml"), _StrictLoader)

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        return self.compose["services"]

    def built_from(self, dockerfile: str) -> dict[str, dict[str, Any]]:
        """The services whose image is built from that file."""
        return {name: service for name, service in self.services.items() if service.get("build", {}).get("dockerfile") == dockerfile}

    @cached_property
    def members(self) -> list[Path]:
        """The folders of the Cargo workspace."""
        return [Path(member) for member in self.manifest(Path())["workspace"]["members"]]

    @cached_property
    def programs(self) -> set[str]:
        """The binaries of the Cargo workspace."""
        found = set()
        for folder in self.members:
            manifest = self.manifest(folder)
            found |= {binary["name"] for binary in manifest.get("bin", [])}
            if (self.root / folder / "src/main.rs").exists() and "bin" not in manifest:
                found.add(manifest["package"]["name"])
        return found

    @cached_property
    def packages(self) -> dict[str, dict[str, Any]]:
        return {manifest["package"]["name"]: manifest for manifest in map(self.manifest, self.members)}

    def manifest(self, folder: Path) -> dict[str, Any]:
        return tomllib.loads((self.root / folder / "Cargo.toml").read_text(encoding="utf-8"))

    @cached_property
    def dispatcher_variables(self) -> dict[str, bool]:
        """Those of trigger-dispatcher by name; true for those that must be set."""
        lines = re.findall(r"^(# )?([A-Z_]+)=", self.text(".env.example"), re.MULTILINE)
        return {name: not mark for mark, name in lines}

    @cached_property
    def compose_variables(self) -> dict[str, str]:
        """Those that compose.yaml may ask for."""
        return dict(re.findall(r"^([A-Z_]+)=(.*)$", self.text("deploy/.env.example"), re.MULTILINE))

    def names_in_source(self, folder: str, suffix: str) -> set[str]:
        """Whatever stands in quotes and looks like a variable."""
        texts = [path.read_text(encoding="utf-8") for path in (self.root / folder).rglob(f"*{suffix}")]
        return set(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"', "\n".join(texts)))
