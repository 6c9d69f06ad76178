{#
    Deletes the rows of this model whose unique key is in another relation.

    As a post-hook of an incremental model, with the deletions of its table: it runs in the
    transaction that merged the new rows. It looks at every deletion, not at those since the last
    build: a bound would have to come from the same look at the raw table as the new rows, and a
    publish may come between the two statements.
#}
{% macro delete_keys_in(deletions) -%}
    delete from {{ this }} as kept
    using {{ deletions }} as deleted
    where
    {%- for column in config.get('unique_key') %}
        kept.{{ column }} = deleted.{{ column }}
        {{- ' and' if not loop.last }}
    {%- endfor %}
{%- endmacro %}
