-- A batch with more slots than one statement should decide is decided in parts; only with the last one its offsets move.
-- Here stands what was decided already: the publications of these parts, and up to where their records go.
alter table dispatcher.progress
    add column parts uuid[] not null default '{}',
    add column parts_until bigint;
