"""Rules for compose.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from project import DOCKERFILES, RUST, WORKER, Check, Project

SERVICE_KEYS = frozenset(
    "build cap_drop command depends_on entrypoint environment healthcheck image mem_limit ports read_only restart"
    " security_opt stop_grace_period tmpfs user volumes".split()
)
HEALTH_KEYS = frozenset({"test", "interval", "timeout", "retries", "start_period"})
CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|AUTH$|API_?KEY|PRIVATE")
# In any text: ${NAME}, ${NAME:-default}, ${NAME:?message}, $NAME; but not $$NAME, which is the container's own.
REFERENCE = re.compile(r"(?<!\$)(?:\$\$)*\$(?:\{([A-Za-z_]\w*)(:?[-?+][^}]*)?\}|([A-Za-z_]\w*))")
LONG_RANDOM = re.compile(r"(?=[A-Za-z0-9+/]*[0-9])(?=[A-Za-z0-9+/]*[a-zA-Z])[A-Za-z0-9+/]{24,}={0,2}")


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from texts(inner, f"{path}[{number}]")
    elif isinstance(value, str):
        yield path, value


def words(command: Any) -> list[str]:
    return command.split() if isinstance(command, str) else [str(word) for word in command or []]


def is_one_shot(project: Project, name: str) -> bool:
    """Somebody waits for its end."""
    waits = [service.get("depends_on", {}).get(name) for service in project.services.values()]
    return {"condition": "service_completed_successfully"} in waits


def shape(project: Project) -> Iterator[str]:
    expected = {"postgres", "redis", "kafka", "signal-generator", "trigger-dispatcher", "worker"}
    for name in sorted(expected - set(project.services)):
        yield f"no service {name}"
    for key in set(project.compose) - {"name", "services", "volumes"}:
        if not key.startswith("x-"):
            yield f"unknown key {key}"
    for name, service in project.services.items():
        for key in sorted(set(service) - SERVICE_KEYS):
            yield f"{name}: unknown key {key}; if it is right, allow it in deploy/checks/compose.py"
        if "environment" in service and not isinstance(service["environment"], dict):
            yield f"{name}: environment is not a mapping"


def images(project: Project) -> Iterator[str]:
    for name, service in project.services.items():
        _, _, tag = service.get("image", "").rpartition("/")[2].partition(":")
        if not tag or tag == "latest":
            yield f"{name}: the image {service.get('image')} has no tag that pins it"
        elif "build" not in service and not re.search(r"\d", tag):
            yield f"{name}: the tag {tag} names no version"


def builds(project: Project) -> Iterator[str]:
    for name, service in project.services.items():
        build = service.get("build")
        if build is None:
            continue
        if build.get("context") != ".." or build.get("dockerfile") not in DOCKERFILES:
            yield f"{name}: is built from {build}, not from the root and one of {', '.join(DOCKERFILES)}"
            continue
        declared = set(re.findall(r"^ARG\s+(\w+)", project.text(build["dockerfile"]), re.MULTILINE))
        for argument in set(build.get("args", {})) - declared:
            yield f"{name}: {build['dockerfile']} takes no argument {argument}"


def health(project: Project) -> Iterator[str]:
    for name, service in project.services.items():
        check = service.get("healthcheck")
        if is_one_shot(project, name):
            continue
        if not check or check.get("disable") or words(check.get("test"))[:1] not in (["CMD"], ["CMD-SHELL"]):
            yield f"{name}: has no health check"
            continue
        if check["test"][0] == "CMD-SHELL" and len(check["test"]) != 2:
            yield f"{name}: CMD-SHELL takes one text"
        for key in sorted(set(check) - HEALTH_KEYS):
            yield f"{name}: unknown key {key} in the health check"
    for name, service in project.built_from(RUST).items():
        program = words(service.get("entrypoint", ["trigger-dispatcher"]))[0]
        test = words(service.get("healthcheck", {}).get("test"))
        if program == "trigger-dispatcher" and test[1:] != ["trigger-dispatcher", "health"]:
            yield f"{name}: the health check is not `trigger-dispatcher health`"


def limits(project: Project) -> Iterator[str]:
    for name, service in project.services.items():
        if not re.fullmatch(r"[1-9]\d*[bkmg]", str(service.get("mem_limit", ""))):
            yield f"{name}: mem_limit is {service.get('mem_limit')}, not a number with b, k, m or g"
        if service.get("restart") not in ("unless-stopped", "always", "on-failure"):
            yield f"{name}: restart is {service.get('restart')}"


def confined(project: Project) -> Iterator[str]:
    for dockerfile in DOCKERFILES:
        for name, service in project.built_from(dockerfile).items():
            if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
                yield f"{name}: is not read_only with all capabilities dropped"
            if service.get("user", "10001").split(":")[0] in ("0", "root"):
                yield f"{name}: runs as root"
    for name, service in project.services.items():
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name}: the port {port} is open to the network"


def secrets(project: Project) -> Iterator[str]:
    for path, text in texts(project.compose):
        name = path.rpartition(".")[2]
        plain = REFERENCE.sub("", text)
        if SECRET_NAME.search(name.upper()) and plain:
            yield f"{path}: a literal value"
        if re.search(r"://[^/@\s]*:[^/@\s]+@", plain):
            yield f"{path}: a literal password in a URL"
        if LONG_RANDOM.search(plain):
            yield f"{path}: looks like a key or a hash"
        if re.search(r"--?(?:requirepass|password|pass|token)[ =]+[^\s$]", plain):
            yield f"{path}: a literal password on a command line"
    for name, value in project.compose_variables.items():
        if SECRET_NAME.search(name) and value:
            yield f"deploy/.env.example: {name} has a value"


def references(project: Project) -> Iterator[str]:
    used = set()
    for path, text in texts(project.compose):
        if re.search(r"(?<!\$)(?:\$\$)*\$(?![\w{$])", text):
            yield f"{path}: a lone $"
        for braced, modifier, bare in REFERENCE.findall(text):
            name = braced or bare
            used.add(name)
            if name not in project.compose_variables:
                yield f"{path}: {name} is not in deploy/.env.example"
            elif not project.compose_variables[name] and not modifier:
                yield f"{path}: {name} has no default: write ${{{name}:?…}} or ${{{name}:-…}}"
            if SECRET_NAME.search(name) and not modifier.startswith(":?"):
                yield f"{path}: {name} is a secret: write ${{{name}:?…}}"
    for name in sorted(set(project.compose_variables) - used):
        yield f"deploy/.env.example: {name} is not used"


def environment(project: Project) -> Iterator[str]:
    generator = project.names_in_source("signal-generator/src", ".rs")
    worker = project.names_in_source("worker/src", ".py")
    for name, service in project.services.items():
        given = set(service.get("environment", {}))
        dockerfile = service.get("build", {}).get("dockerfile")
        program = words(service.get("entrypoint", ["trigger-dispatcher"]))[0]
        if dockerfile == WORKER:
            known, where = worker, "worker/src"
        elif dockerfile == RUST and program == "signal-generator":
            known, where = generator, "signal-generator/src"
        elif dockerfile == RUST:
            known, where = set(project.dispatcher_variables), ".env.example"
            for missing in sorted(name for name, required in project.dispatcher_variables.items() if required and name not in given):
                yield f"{name}: {missing} is required and not given"
        else:
            continue
        for variable in sorted(given - known):
            if not variable.startswith("KAFKA_CONFIG_"):
                yield f"{name}: {variable} is not known in {where}"
        for variable, value in service.get("environment", {}).items():
            if not isinstance(value, str):
                yield f"{name}: {variable} is not a text: put it in quotes"


def hosts(project: Project) -> Iterator[str]:
    for name, service in project.services.items():
        for variable, value in service.get("environment", {}).items():
            plain = REFERENCE.sub("x", str(value))
            if variable in ("POSTGRES_HOST", "KAFKA_BOOTSTRAP_SERVERS"):
                found = plain.split(":")[0]
            elif variable.startswith("CELERY_") and "://" in plain:
                found = urlsplit(plain).hostname
            else:
                continue
            if found not in project.services:
                yield f"{name}: {variable} names the host {found}, which is no service"


def order(project: Project) -> Iterator[str]:
    for name, service in project.services.items():
        for other, how in service.get("depends_on", {}).items():
            condition = how.get("condition")
            if other not in project.services:
                yield f"{name}: depends on {other}, which is no service"
            elif condition not in CONDITIONS:
                yield f"{name}: waits for {other} with the unknown condition {condition}"
            elif condition == "service_healthy" and "healthcheck" not in project.services[other]:
                yield f"{name}: waits for the health of {other}, which has no check"


def volumes(project: Project) -> Iterator[str]:
    declared, used = set(project.compose.get("volumes", {})), set()
    for name, service in project.services.items():
        for volume in service.get("volumes", []):
            source = str(volume).split(":")[0]
            if not source.startswith((".", "/")):
                used.add(source)
            elif not (project.root / "deploy" / source).exists():
                yield f"{name}: there is no {source}"
            elif not str(volume).endswith(":ro"):
                yield f"{name}: {source} can be written: end it with :ro"
    for source in sorted(declared ^ used):
        yield f"the volume {source} is {'not used' if source in declared else 'not declared'}"


def programs(project: Project) -> Iterator[str]:
    for name, service in project.built_from(RUST).items():
        program = words(service.get("entrypoint", ["trigger-dispatcher"]))[0]
        if program not in project.programs:
            yield f"{name}: runs {program}, which the workspace does not build"


def shutdown(project: Project) -> Iterator[str]:
    grace = float(re.search(r"^# SHUTDOWN_GRACE_SECONDS=(\S+)", project.text(".env.example"), re.MULTILINE)[1])
    for name, service in project.built_from(RUST).items():
        if words(service.get("entrypoint", ["trigger-dispatcher"]))[0] != "trigger-dispatcher":
            continue
        own = float(service.get("environment", {}).get("SHUTDOWN_GRACE_SECONDS", grace))
        seconds = re.fullmatch(r"(\d+)s", str(service.get("stop_grace_period", "10s")))
        if not seconds or float(seconds[1]) <= own:
            yield f"{name}: stop_grace_period is {service.get('stop_grace_period')}, not more than {own:g} s"


CHECKS = [
    Check("compose.yaml has the services and keys that we know", shape),
    Check("each image is pinned by a tag", images),
    Check("each build has a Dockerfile that takes its arguments", builds),
    Check("each service that stays has a health check", health),
    Check("each service has a memory limit and a restart policy", limits),
    Check("our services are confined, and no port is open to the network", confined),
    Check("no secret stands in a file", secrets),
    Check("each ${VARIABLE} is in deploy/.env.example, and secrets are required", references),
    Check("each variable is known to the program that gets it", environment),
    Check("each host in a variable is a service", hosts),
    Check("each dependency exists and can be waited for", order),
    Check("each volume is declared and each mounted path exists", volumes),
    Check("each entrypoint is a program of the workspace", programs),
    Check("a shutdown is given the time that it may take", shutdown),
]
