# extract-load, dbt and Airflow in one image, from the same lock as everything else.
FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# What builds our own wheel stands in the lock for development; it is not needed in the image.
FROM base AS wheel
WORKDIR /build
COPY requirements/dev.txt requirements/dev.txt
RUN awk '/^(hatchling|packaging|pathspec|pluggy|trove-classifiers)==/ { pin = 1 } \
         pin { print } !/\\$/ { pin = 0 }' requirements/dev.txt > build.txt \
    && pip install --require-hashes --only-binary :all: --no-deps -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY extract_load extract_load
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base
COPY requirements/runtime.txt /tmp/runtime.txt
RUN pip install --require-hashes --only-binary :all: -r /tmp/runtime.txt && rm /tmp/runtime.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-deps /tmp/wheels/*.whl && rm -r /tmp/wheels

ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/extract-load/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__COSMOS__CACHE_DIR=/tmp/cosmos \
    AIRFLOW__COSMOS__ENABLE_TELEMETRY=False \
    DBT_PROJECT_DIR=/opt/extract-load/dbt_project \
    DBT_PROFILES_DIR=/opt/extract-load/profiles \
    DO_NOT_TRACK=1
# Directories that volumes are mounted on keep the owner they have here.
RUN useradd --uid 50000 --home-dir /opt/airflow --create-home airflow \
    && install -d -o airflow -g airflow /opt/airflow/logs /opt/airflow/auth /opt/extract-load
USER airflow
WORKDIR /opt/extract-load
COPY --chown=airflow:airflow profiles profiles
COPY --chown=airflow:airflow dbt_project dbt_project
COPY --chown=airflow:airflow dags dags
# The DAGs are drawn from this manifest. Parsing opens no connection: any address will do.
RUN POSTGRES_HOST=localhost POSTGRES_USER=nobody POSTGRES_PASSWORD=none POSTGRES_DB=none \
    dbt --quiet parse
