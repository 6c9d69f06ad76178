-- Watermarks of cursors remember how far back rows may still come from.

alter table extract_load.watermarks add column open_for interval;
comment on column extract_load.watermarks.open_for is
'How long the oldest transaction open in the published snapshot had been running; null where unknown.';
