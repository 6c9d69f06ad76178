{#
    dbt-postgres stamps snapshots with `timestamp without time zone` in the session's zone: the
    same run would write other times from another machine. These two make it timestamptz.
#}
{% macro postgres__snapshot_get_time() -%}
    cast({{ current_timestamp() }} as timestamptz)
{%- endmacro %}

{% macro postgres__snapshot_string_as_time(timestamp) -%}
    {{ return("cast('" ~ timestamp ~ "' as timestamptz)") }}
{%- endmacro %}
