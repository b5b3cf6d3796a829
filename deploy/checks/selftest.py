"""Checks that the checks can fail: each mistake is planted in a copy, and must be found by the rule it breaks, by name."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from project import Check, Project

COMPOSE, RUST, WORKER = "deploy/compose.yaml", "deploy/Dockerfile", "deploy/worker.Dockerfile"


@dataclass(frozen=True)
class Mistake:
    rule: str
    """The beginning of the name of the check that must find it."""
    file: str
    old: str
    new: str
    told: str
    """What the report must say."""


MISTAKES = [
    Mistake("compose.yaml has", COMPOSE, "    mem_limit: 1g", "    memory_limit: 1g", "unknown key memory_limit"),
    Mistake("compose.yaml has", COMPOSE, "  worker:\n", "  trigger-dispatcher:\n", "twice in one mapping: trigger-dispatcher"),
    Mistake("compose.yaml has", COMPOSE, "  kafka:\n    <<", "  kafka: [\n    <<", "ParserError"),
    Mistake("each image", COMPOSE, "redis:7.2-bookworm", "redis", "has no tag"),
    Mistake("each image", COMPOSE, "postgres:15-bookworm", "postgres:latest", "has no tag"),
    Mistake("each build", COMPOSE, "FEATURES: ${FEATURES:-}", "FEATURE: ${FEATURES:-}", "takes no argument FEATURE"),
    Mistake("each service that stays", COMPOSE, '"CMD", "pg_isready"', '"NONE", "pg_isready"', "postgres: has no health check"),
    Mistake("each service that stays", COMPOSE, '"trigger-dispatcher", "health"', '"true"', "not `trigger-dispatcher health`"),
    Mistake("each service has", COMPOSE, "    mem_limit: 128m\n", "", "signal-generator: mem_limit is None"),
    Mistake("each service has", COMPOSE, "restart: on-failure", 'restart: "no"', "topics: restart is no"),
    Mistake("our services are", COMPOSE, "  read_only: true\n", "", "worker: is not read_only"),
    Mistake("our services are", COMPOSE, "- 127.0.0.1:${HTTP", "- ${HTTP", "open to the network"),
    Mistake("no secret", COMPOSE, "${POSTGRES_PASSWORD:?set it in deploy/.env}", "hunter2", "POSTGRES_PASSWORD: a literal value"),
    Mistake("no secret", COMPOSE, "redis://:${REDIS_PASSWORD:?set it in deploy/.env}@redis:6379/0", "redis://:pw@redis:6379/0", "in a URL"),
    Mistake("no secret", COMPOSE, "KAFKA_NODE_ID: \"1\"", "KAFKA_NODE_ID: 27b1b095bbdd8822ff3c30146547edc1", "looks like a key"),
    Mistake("no secret", "deploy/.env.example", "REDIS_PASSWORD=", "REDIS_PASSWORD=x", "REDIS_PASSWORD has a value"),
    Mistake("each ${VARIABLE}", COMPOSE, "${SIGNALS_PER_SECOND:-5}", "${RATE:-5}", "RATE is not in deploy/.env.example"),
    Mistake("each ${VARIABLE}", COMPOSE, "REDISCLI_AUTH: ${REDIS_PASSWORD:?set", "REDISCLI_AUTH: ${REDIS_PASSWORD:-set", "is a secret"),
    Mistake("each ${VARIABLE}", COMPOSE, "$$REDISCLI_AUTH", "$REDISCLI_AUTH", "REDISCLI_AUTH is not in deploy/.env.example"),
    Mistake("each variable", COMPOSE, "HTTP_ADDRESS:", "HTTP_ADRESS:", "HTTP_ADRESS is not known in .env.example"),
    Mistake("each variable", COMPOSE, "CELERY_TASK_QUEUE:", "CELERY_QUEUE:", "CELERY_QUEUE is not known in worker/src"),
    Mistake("each variable", COMPOSE, "KAFKA_SIGNAL_TOPIC:", "KAFKA_TOPIC:", "KAFKA_TOPIC is not known in signal-generator/src"),
    Mistake("each variable", COMPOSE, "  POSTGRES_HOST: postgres\n", "", "POSTGRES_HOST is required"),
    Mistake("each host", COMPOSE, "SERVERS: kafka:9092", "SERVERS: kafak:9092", "kafak, which is no service"),
    Mistake("each dependency", COMPOSE, "topics: {condition: service_comp", "topic: {condition: service_comp", "topic, which is no service"),
    Mistake("each volume", COMPOSE, "- ./sample.sql", "- ./samples.sql", "there is no ./samples.sql"),
    Mistake("each volume", COMPOSE, "  redis-data:\n", "", "redis-data is not declared"),
    Mistake("each entrypoint", COMPOSE, 'entrypoint: ["signal-generator"]', 'entrypoint: ["generator"]', "runs generator"),
    Mistake("a shutdown", COMPOSE, "stop_grace_period: 30s", "stop_grace_period: 25s", "not more than 25 s"),
    Mistake("each Dockerfile", RUST, "FROM debian:bookworm-slim", "FROM debian", "has no tag"),
    Mistake("each COPY", RUST, "COPY src src", "COPY source src", "there is no source"),
    Mistake("each COPY", ".dockerignore", "!Cargo.lock\n", "", "Cargo.lock is left out"),
    Mistake("each COPY", WORKER, "--from=build", "--from=builder", "builder, which is no stage"),
    Mistake("no secret, repository", ".dockerignore", "\n*\n", "\n", "lets .git in"),
    Mistake("no image runs", RUST, "USER 10001:10001\n", "", "ends as root"),
    Mistake("no image runs", WORKER, "USER 10001:10001", "USER 0", "ends as 0"),
    Mistake("each ENTRYPOINT", RUST, 'ENTRYPOINT ["trigger-dispatcher"]', 'ENTRYPOINT ["dispatcher"]', "dispatcher is no program"),
    Mistake("each ENTRYPOINT", WORKER, "trigger_dispatcher_worker.app", "trigger_dispatcher_worker.main", "there is no worker/src"),
    Mistake("the build ", RUST, "/release/signal-generator", "/release/generator", "does not ship signal-generator"),
    Mistake("the build ", RUST, "-p signal-generator", "-p generator", "builds generator, which is no package"),
    Mistake("the builder gets the whole", RUST, "COPY bench/Cargo.toml bench/\n", "", "does not copy bench/Cargo.toml"),
    Mistake("the builder gets every", "src/tasks/redis.rs", '"publish.lua"', '"../../deploy/publish.lua"', "includes ../../deploy/publish.lua"),
]

# What the rules look at.
PARTS = ["deploy", "src", "signal-generator", "bench", "chaos", "kafka-batch", "worker", "Cargo.toml", "Cargo.lock", ".env.example", ".dockerignore"]
PARTS += ["scripts/python/requirements.txt"]


def run(root: Path, checks: list[Check]) -> list[tuple[str, list[str]]]:
    """One result for each mistake: nothing if it was found, and else what was missed."""
    with tempfile.TemporaryDirectory(prefix="trigger-dispatcher-check-") as folder:
        copy = Path(folder)
        for part in PARTS:
            source, target = root / part, copy / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("target", "__pycache__", ".pytest_cache", ".env"))
            else:
                shutil.copyfile(source, target)
        return [(f"found when planted: {mistake.told}", missed(copy, checks, mistake)) for mistake in MISTAKES]


def missed(copy: Path, checks: list[Check], mistake: Mistake) -> list[str]:
    check = next(check for check in checks if check.name.startswith(mistake.rule))
    path = copy / mistake.file
    right = path.read_text(encoding="utf-8")
    if mistake.old not in right:
        return [f"{mistake.file} has no {mistake.old!r} any more: the mistake cannot be planted"]
    if check.problems(Project(copy)):
        return [f"{check.name!r} fails before anything is planted"]
    try:
        path.write_text(right.replace(mistake.old, mistake.new), encoding="utf-8")
        found = check.problems(Project(copy))
    finally:
        path.write_text(right, encoding="utf-8")
    if any(mistake.told in problem for problem in found):
        return []
    return [f"{check.name!r} did not tell {mistake.told!r} of {mistake.new!r} in {mistake.file}, but: {found}"]
