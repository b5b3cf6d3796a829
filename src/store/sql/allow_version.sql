-- Removes the versions of the schema that are later than $1, if programs that know version $1 can work with all of them.
-- Answers the removed versions, and those that are not for such programs.
with
later as materialized (
    select version, coalesce(works_with, version) <= $1 as fits from dispatcher.schema_versions where version > $1
),
removed as (
    delete from dispatcher.schema_versions v using later l
    where v.version = l.version and (select bool_and(fits) from later)
    returning v.version
)
select
    coalesce((select array_agg(version order by version) from removed), '{}') as removed,
    coalesce((select array_agg(version order by version) from later where not fits), '{}') as unfit
