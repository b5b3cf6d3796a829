"""Rules for the Dockerfiles and .dockerignore."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from project import DOCKERFILES, RUST, WORKER, Check, Project

Instruction = tuple[str, str]


def instructions(project: Project, dockerfile: str) -> list[Instruction]:
    """Word and rest; comments dropped, continued lines joined."""
    lines = [line for line in project.text(dockerfile).splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1].strip()) for line in joined.splitlines() if line.strip()]


def stages(project: Project, dockerfile: str) -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for instruction in instructions(project, dockerfile):
        if instruction[0] == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def copies(project: Project, dockerfile: str) -> Iterator[tuple[str | None, list[str], str]]:
    """The stage or None, the sources, and the target of each COPY and ADD."""
    for word, rest in instructions(project, dockerfile):
        if word in ("COPY", "ADD"):
            flags = [part for part in shlex.split(rest) if part.startswith("--")]
            parts = [part for part in shlex.split(rest) if not part.startswith("--")]
            stage = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), None)
            yield stage, parts[:-1], parts[-1]


def is_ignored(project: Project, path: str) -> bool:
    """As Docker reads .dockerignore: the last line that matches the path or a folder above it decides."""
    above = [str(Path(*Path(path).parts[: length + 1])) for length in range(len(Path(path).parts))]
    ignored = False
    for line in project.text(".dockerignore").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip("/")
        names = [pattern, pattern.removeprefix("**/")]
        if any(fnmatch(part, name) and (part.count("/") == name.count("/") or "**" in pattern) for part in above for name in names):
            ignored = not keep
    return ignored


def base_images(project: Project) -> Iterator[str]:
    for dockerfile in DOCKERFILES:
        names = set()
        for stage in stages(project, dockerfile):
            image, _, name = stage[0][1].partition(" AS ")
            if image not in names and not re.fullmatch(r"[\w./-]+:[\w.-]*(\d|bookworm)[\w.-]*", image):
                yield f"{dockerfile}: the image {image} has no tag that pins it"
            names.add(name.strip())
        if len(names) < 2:
            yield f"{dockerfile}: has one stage: what builds would be shipped"


def copied_files(project: Project) -> Iterator[str]:
    for dockerfile in DOCKERFILES:
        names = {stage[0][1].partition(" AS ")[2].strip() for stage in stages(project, dockerfile)}
        for stage, sources, _ in copies(project, dockerfile):
            if stage is not None:
                if stage not in names:
                    yield f"{dockerfile}: copies from {stage}, which is no stage"
                continue
            for source in sources:
                if source in (".", "./"):
                    yield f"{dockerfile}: copies the whole folder"
                elif not list(project.root.glob(source)):
                    yield f"{dockerfile}: there is no {source}"
                elif is_ignored(project, source.rstrip("/")):
                    yield f"{dockerfile}: {source} is left out by .dockerignore"


def secrets_stay_out(project: Project) -> Iterator[str]:
    for path in (".env", "deploy/.env", "worker/src/.env", ".git", "target", "signal-generator/target"):
        if not is_ignored(project, path):
            yield f".dockerignore lets {path} in"
    for dockerfile in DOCKERFILES:
        for word, rest in instructions(project, dockerfile):
            if word in ("ENV", "ARG") and re.search(r"PASSWORD|SECRET|TOKEN", rest):
                yield f"{dockerfile}: {word} {rest} would stay in the image"


def users(project: Project) -> Iterator[str]:
    for dockerfile in DOCKERFILES:
        given = [rest for word, rest in stages(project, dockerfile)[-1] if word == "USER"]
        if not given or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", given[-1]):
            yield f"{dockerfile}: ends as {given[-1] if given else 'root'}, not as a number other than 0"


def entrypoints(project: Project) -> Iterator[str]:
    for dockerfile in DOCKERFILES:
        given = [rest for word, rest in stages(project, dockerfile)[-1] if word == "ENTRYPOINT"]
        command = json.loads(given[-1]) if given and given[-1].startswith("[") else []
        if not command:
            yield f"{dockerfile}: has no ENTRYPOINT as a list: signals would go to a shell"
        elif dockerfile == RUST and command[0] not in project.programs:
            yield f"{dockerfile}: {command[0]} is no program of the workspace"
        elif dockerfile == WORKER:
            module = command[command.index("-A") + 1].replace(".", "/")
            if not (project.root / "worker/src" / f"{module}.py").exists():
                yield f"{dockerfile}: there is no worker/src/{module}.py"


def build_command(project: Project) -> Iterator[str]:
    run = " ".join(rest for word, rest in instructions(project, RUST) if word == "RUN")
    built = re.findall(r"\s-p (\S+)", run)
    for package in built:
        if package not in project.packages:
            yield f"{RUST}: builds {package}, which is no package of the workspace"
    shipped = set(re.findall(r"target/release/(\S+)", run))
    for program in sorted(shipped - project.programs):
        yield f"{RUST}: {program} is no program of the workspace"
    for name, service in project.built_from(RUST).items():
        program = service.get("entrypoint", ["trigger-dispatcher"])[0]
        if program not in shipped:
            yield f"{RUST}: does not ship {program}, which the service {name} runs"
    if "--locked" not in run:
        yield f"{RUST}: builds without --locked"
    for package, manifest in project.packages.items():
        if package in built and "kafka-tls" not in manifest.get("features", {}):
            yield f"{RUST}: FEATURES=kafka-tls needs that feature in {package}"


def workspace(project: Project) -> Iterator[str]:
    """Cargo refuses a workspace of which a member or a member's first source is missing."""
    copied = [source.rstrip("/") for stage, sources, _ in copies(project, RUST) if stage is None for source in sources]
    for member in project.members:
        for needed in (member / "Cargo.toml", member / "src"):
            if not any(source == str(needed) or needed.is_relative_to(source) or source.startswith(f"{needed}/") for source in copied):
                yield f"{RUST}: does not copy {needed}, which cargo wants to see"


def included_files(project: Project) -> Iterator[str]:
    """What the code includes at build time must be in the builder too."""
    copied = [source.rstrip("/") for stage, sources, _ in copies(project, RUST) if stage is None for source in sources]
    for source in copied:
        for path in (project.root / source).rglob("*.rs"):
            # Tests are not built there; those beside the code end the file.
            if path.name == "tests.rs" or "/tests/" in path.as_posix():
                continue
            code = path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests")[0]
            for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', code):
                found = (path.parent / included).resolve()
                inside = [found.is_relative_to((project.root / other).resolve()) for other in copied]
                if not found.exists() or not any(inside):
                    yield f"{path.relative_to(project.root)} includes {included}, which {RUST} does not copy"


CHECKS = [
    Check("each Dockerfile has stages, from images pinned by a tag", base_images),
    Check("each COPY finds its sources, and .dockerignore lets them in", copied_files),
    Check("no secret, repository or build reaches an image", secrets_stay_out),
    Check("no image runs as root", users),
    Check("each ENTRYPOINT is a program that the image has", entrypoints),
    Check("the build ships what runs", build_command),
    Check("the builder gets the whole Cargo workspace", workspace),
    Check("the builder gets every file that the code includes", included_files),
]
