"""The worker's side of the Trigger Dispatcher: a guard to keep, and a sample to read.

`guard` lets one start per trigger happen, whatever Celery delivers twice; it
depends on `database` only, so that any Celery application can use it.
The rest is a sample worker: `app` (the task), `decision` (pure), `executions`
(SQL), `settings` (environment), `database` (connections).
"""
