"""The same job on Quix Streams, as a competent user of today would write it.

    service    Quix Streams' application: topic → match → sink, committed when the sink has flushed
    rules      an index ticker → pipelines                               pure
    sink       what matched since the last commit: one question to PostgreSQL, one round trip to Redis
    platform   PostgreSQL: the pipelines, and which of them are idle
    tasks      Celery's message, and a Redis pipeline of them

Unlike the dispatcher it has no ledger, no claims and no fence: what was enqueued is remembered in this process alone.
"""
