-- Checkpoints tell where and in which snapshot their rows were read, so that the next run can go
-- on from them. Those of older versions tell it not and are dropped with their rows.

alter table extract_load.chunks
    add column leaf_oid bigint,
    add column file_node bigint,
    add column start_block bigint,
    add column stop_block bigint,
    add column reading text,
    add column snapshot text,
    add column snapshot_xmin numeric(20),
    add column lsn pg_lsn,
    add column loaded_xid numeric(20);
comment on column extract_load.chunks.file_node is
'The file of the leaf it was read from: after VACUUM FULL or TRUNCATE blocks mean something else.';
comment on column extract_load.chunks.reading is
'A digest of what was read: columns, types, predicate, window, server.';
comment on column extract_load.chunks.snapshot_xmin is
'64-bit xmin of the snapshot it was read in: a repair begins at the oldest.';
comment on column extract_load.chunks.loaded_xid is
'The transaction in this server that loaded its rows: they are found again by it.';

alter table extract_load_scratch.chunks
    add column leaf_oid bigint,
    add column file_node bigint,
    add column start_block bigint,
    add column stop_block bigint,
    add column reading text,
    add column snapshot text,
    add column snapshot_xmin numeric(20),
    add column lsn pg_lsn,
    add column loaded_xid numeric(20);
