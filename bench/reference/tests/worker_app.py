"""The platform's worker: writes down what it was started with."""

import json
import os

import redis
from celery import Celery

from tests.support import SECONDS, TASK

app = Celery("worker", broker=os.environ["CELERY_BROKER_URL"])
seen = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"], socket_timeout=SECONDS)


@app.task(name=TASK, ignore_result=True, bind=True)
def execute_pipeline(self, **arguments):
    seen.rpush(os.environ["SEEN"], json.dumps({**arguments, "task_id": self.request.id}))
