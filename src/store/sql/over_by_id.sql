-- Whether the trigger that holds the slot `s` has an execution of its own.
coalesce((select true from executions e where {id_is_trigger} limit 1), false)
