"""One start per trigger, whatever Celery delivers twice.

`one_start` decorates a task; `PostgresStarts` or `RedisStarts` remembers who started what.
Reading order: `starts` (the words and the store's contract), `one_start` (the decision),
`keeper` (leases and the dead), then the two stores.
"""

from .one_start import Abandoned, StartRefused, one_start
from .postgres import PostgresStarts
from .redis import RedisStarts
from .starts import Begun, Starts, StoreUnavailable

__all__ = [
    "Abandoned",
    "Begun",
    "PostgresStarts",
    "RedisStarts",
    "StartRefused",
    "Starts",
    "StoreUnavailable",
    "one_start",
]
