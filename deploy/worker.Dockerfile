# syntax=docker/dockerfile:1
# The sample Celery worker. Build from the root of the repository:
#   docker build -f deploy/worker.Dockerfile -t trigger-dispatcher-worker .

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY scripts/python/requirements.txt ./
COPY worker/pyproject.toml worker/README.md worker/
COPY worker/src worker/src
# The versions that the tests run with; a list of constraints knows no extras.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed 's/\[[^]]*\]//' requirements.txt > constraints.txt \
 && python -m venv /venv \
 && /venv/bin/pip install --disable-pip-version-check --constraint constraints.txt ./worker

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["celery", "-A", "trigger_dispatcher_worker.app"]
CMD ["worker", "-l", "info"]
