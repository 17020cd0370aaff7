# One image for every Airflow process, the one-shot steps and the local coding service.
FROM apache/airflow:3.3.2

USER root
# an empty named volume takes over owner and mode of the folder that it is mounted on
RUN install --directory --owner=airflow --group=root --mode=0770 \
    /opt/airflow/coding_service /opt/airflow/service /opt/airflow/staging \
 && install --directory --owner=airflow --group=root --mode=0755 /opt/secrets
USER airflow

# --no-deps: the lock names everything, so there is nothing to resolve
COPY --chown=airflow:root requirements.lock /opt/airflow/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r /opt/airflow/requirements.lock

COPY --chown=airflow:root dags /opt/airflow/dags
COPY --chown=airflow:root plugins /opt/airflow/plugins
COPY --chown=airflow:root include /opt/airflow/include
# Airflow puts its plugins on the path of imports, but not the folder that `include` lies in
ENV PYTHONPATH=/opt/airflow
