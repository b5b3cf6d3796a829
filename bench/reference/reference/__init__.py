"""The service that the Trigger Dispatcher replaces, written anew from what is published about it (see ../README.md).

asyncio, kafka-python, SQLAlchemy and Celery's `send_task`; one batch after the other:

    service    the loop: batch → match → status → tasks → commit
    intake     Kafka, in a thread of its own
    matching   a scan of all pipelines for each signal           pure
    platform   PostgreSQL: the pipelines, and who is running
    tasks      Celery

Its weaknesses are part of it and marked with FLAW. It must never get better than what it stands for, but for its speed.
"""
