# Two images: `airflow` (the default target) for every Airflow process and the one-shot steps of docker-compose.yaml, and
# `coding-service` for the local coding service, which alone needs scikit-learn.
FROM apache/airflow:3.3.2-python3.11 AS base

USER root
# an empty named volume takes owner and mode from the folder at its mount point
RUN install --directory --owner=airflow --group=root --mode=0700 \
    /opt/airflow/coding_service /opt/airflow/logs /opt/airflow/service /opt/airflow/source-files /opt/airflow/staging \
 && install --directory --owner=airflow --group=root --mode=0755 /opt/secrets
USER airflow

# --no-deps: the lock pins every package, so there is nothing to resolve
COPY --chown=airflow:root requirements.lock /opt/airflow/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r /opt/airflow/requirements.lock

# Airflow adds its plugins folder to the import path, but not the parent folder of `include`
ENV PYTHONPATH=/opt/airflow

# The entry point of the base image sets a umask with which the group can write. Files here are for their owner only.
ENTRYPOINT ["/usr/bin/dumb-init", "--", "/entrypoint", "bash", "-c", "umask 077 && exec \"$@\"", "owner-only"]


FROM base AS coding-service

COPY --chown=airflow:root requirements-local.lock /opt/airflow/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r /opt/airflow/requirements-local.lock
COPY --chown=airflow:root include /opt/airflow/include


FROM base AS airflow

# The provider is installed as a package: Airflow looks for its connection type before it knows the plugins folder. The
# lock contains setuptools, which builds it.
COPY --chown=airflow:root pyproject.toml /opt/airflow/provider/
COPY --chown=airflow:root plugins/coding_service /opt/airflow/provider/plugins/coding_service
RUN pip install --no-cache-dir --disable-pip-version-check --no-index --no-deps --no-build-isolation /opt/airflow/provider

COPY --chown=airflow:root dags /opt/airflow/dags
COPY --chown=airflow:root plugins/occupation_coding_plugin.py /opt/airflow/plugins/
COPY --chown=airflow:root include /opt/airflow/include
# what the page Help shows
COPY --chown=airflow:root docs/runbook.md /opt/airflow/docs/
