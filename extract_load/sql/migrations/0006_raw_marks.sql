-- What a publish left in the raw table, so that the next one can tell whether anybody wrote into
-- it since. Without a mark the next full_sync reads every row.

alter table extract_load.watermarks
    add column raw_mark jsonb;
comment on column extract_load.watermarks.raw_mark is
'Rows, columns and writing transactions of the raw table as the last publish left it.';
