with

source as (

    select * from {{ source('digitalocean', 'stocks') }}

),

renamed as (

    select

        ---------- ids
        시장구분 as market_code,
        종목코드 as stock_code,
        기준일자 as price_date,
        통화 as currency_code,

        ---------- strings
        종목명 as stock_name,
        업종 as industry_name,

        ---------- numerics
        종가 as close_price_amount,
        상장주식수 as listed_share_count,

        ---------- timestamps
        수정일시 as updated_at,

        ---------- load metadata
        _loaded_at

    from source

)

select * from renamed
