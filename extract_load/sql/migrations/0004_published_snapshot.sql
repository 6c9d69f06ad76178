-- Watermarks remember the snapshot they were read in also where it is no low bound.

alter table extract_load.watermarks add column snapshot_xid numeric(20);
comment on column extract_load.watermarks.snapshot_xid is
'64-bit xmin of the published snapshot: rows written since are no difference for verify.';
