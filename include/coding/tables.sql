-- The project's tables as they are created in a new schema; tables.py migrates those of an earlier version. {schema} is
-- the quoted name of the schema, VARCHAR becomes the warehouse's type for texts of any length. Indexes are created only
-- in warehouses that have them.

CREATE SCHEMA IF NOT EXISTS {schema};

-- One row per migration; the highest version is the current one.
CREATE TABLE IF NOT EXISTS {schema}.schema_version (
    version       INTEGER NOT NULL,
    migrated_at   TIMESTAMP NOT NULL  -- UTC
);

-- One row per text, topic and model: the text as sent, and its result. A text is sent to a model once.
CREATE TABLE IF NOT EXISTS {schema}.coded_texts (
    text_key      VARCHAR NOT NULL,   -- 32 hexadecimal digits: 128 bits of SHA-256 of both texts
    topic         VARCHAR NOT NULL,   -- uriName of the classification
    model_id      VARCHAR NOT NULL,   -- GUID of the model that coded it
    model_version DOUBLE PRECISION,   -- the service's number of that model
    occp_text     VARCHAR NOT NULL,   -- job title as sent
    tasks_text    VARCHAR NOT NULL,   -- tasks as sent
    outcome       VARCHAR NOT NULL,   -- coded, uncoded, rejected
    code          VARCHAR,            -- of the classification, at any level; NULL if uncoded
    label         VARCHAR,            -- its title
    confidence    DOUBLE PRECISION,   -- as the service gives it
    level         INTEGER,            -- digits of the code, 1 to 6; NULL for a code of another form
    suggestions   VARCHAR,            -- JSON array of codeCategory, codeLabel, codeConfidence; NULL if none
    operation_id  VARCHAR NOT NULL,   -- GUID of the operation
    run_id        VARCHAR NOT NULL,   -- Airflow run that stored it; `dag_id/run_id` if it is of another DAG than
                                      -- recode_occupations. So it is in all tables
    coded_at      TIMESTAMP NOT NULL, -- when it was stored, UTC
    reason        VARCHAR             -- why it has no result: no_result, refused_by_service; NULL if it has one
);

CREATE UNIQUE INDEX IF NOT EXISTS coded_texts_key ON {schema}.coded_texts (text_key, model_id, topic);

-- One row per source record, topic and model. A run replaces the rows of its dates, topic and model.
CREATE TABLE IF NOT EXISTS {schema}.coded_records (
    record_id     VARCHAR NOT NULL,   -- id in the source; '' if it has none
    occurrence    INTEGER NOT NULL,   -- 1, 2, ... if a record id occurs more than once on a date
    response_date DATE NOT NULL,
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    model_version DOUBLE PRECISION,
    outcome       VARCHAR NOT NULL,   -- coded, uncoded, rejected
    code          VARCHAR,            -- the columns code to suggestions: as in coded_texts
    label         VARCHAR,
    confidence    DOUBLE PRECISION,
    level         INTEGER,
    suggestions   VARCHAR,
    reason        VARCHAR,            -- why it was rejected: no_record_id, blank, not_printable_ascii, too_long,
                                      -- refused_by_service; or why it is uncoded: no_result
    text_key      VARCHAR,            -- key of its text in coded_texts; NULL if it was rejected before sending
    operation_id  VARCHAR,            -- operation that coded its text, possibly of an earlier run
    run_id        VARCHAR NOT NULL,   -- Airflow run that wrote this row
    coded_at      TIMESTAMP NOT NULL  -- when its text was coded, or when it was rejected; UTC
);

CREATE INDEX IF NOT EXISTS coded_records_dates ON {schema}.coded_records (response_date, model_id);

-- One row per operation of the service.
CREATE TABLE IF NOT EXISTS {schema}.coding_operations (
    operation_id  VARCHAR NOT NULL,
    run_id        VARCHAR NOT NULL,
    part          INTEGER NOT NULL,   -- number of the part in its run, from 0; extra operations follow
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    records       BIGINT NOT NULL,    -- texts sent; 0 if it is abandoned without input
    bytes         BIGINT NOT NULL,    -- of the input file
    state         VARCHAR NOT NULL,   -- complete, failed, timed_out, deadline, refused; unknown if not recorded;
                                      -- abandoned: opened, and never used for results
    error         VARCHAR,            -- why the part as a whole is incomplete, in the words of the service if it
                                      -- failed the operation (they can quote a text); NULL if it is complete
    usable        BIGINT NOT NULL,    -- results that were stored
    discarded_lines BIGINT NOT NULL,  -- output lines that could not be used
    metadata      VARCHAR,            -- content of the metadata file, usually JSON; NULL if too long for a column
    landed_at     TIMESTAMP NOT NULL, -- when this row was written, UTC
    seconds       DOUBLE PRECISION    -- from the upload to the end of the operation; NULL if unknown
);

-- One row per run whose dates are published. An older reading of the source never replaces a newer one.
CREATE TABLE IF NOT EXISTS {schema}.coding_runs (
    run_id        VARCHAR NOT NULL,
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    model_version DOUBLE PRECISION,
    source        VARCHAR NOT NULL,   -- table, view or URI that was read
    selection     VARCHAR NOT NULL,   -- uncoded, all
    from_date     DATE NOT NULL,      -- first response date
    to_date       DATE NOT NULL,      -- last response date
    read_at       TIMESTAMP NOT NULL, -- when the source was read, UTC
    checksum      VARCHAR,            -- of the records; NULL if not all were published, or texts were coded again
    published_by_run VARCHAR NOT NULL, -- run that wrote the rows: this one, or an earlier one with the same records
    records       BIGINT NOT NULL,    -- records read: coded + uncoded + rejected
    coded         BIGINT NOT NULL,
    uncoded       BIGINT NOT NULL,
    rejected      BIGINT NOT NULL,
    texts         BIGINT NOT NULL,    -- distinct texts of the records that were not rejected
    texts_sent    BIGINT NOT NULL,    -- by all operations of the run; a text that was sent twice counts twice
    operations    INTEGER NOT NULL,
    landed_at     TIMESTAMP NOT NULL, -- when this row was written, UTC
    excluded_dates VARCHAR,           -- dates from from_date to to_date that were not read, ISO 8601, with commas; or NULL
    file_checksum VARCHAR             -- of the file and of how it was read; NULL if the next run has to read the source again
);

-- One row per topic and response date that nights leave as it is, because it exceeds a limit for publishing. The run that
-- publishes the date removes the row. Until then, every night reads the date again, however old it is; if the row is
-- deleted, only the nights whose look-back includes the date do.
CREATE TABLE IF NOT EXISTS {schema}.dates_over_limit (
    topic         VARCHAR NOT NULL,
    response_date DATE NOT NULL,
    since         TIMESTAMP NOT NULL, -- when a run left it first, UTC
    run_id        VARCHAR NOT NULL,   -- run that left it last
    limits        VARCHAR NOT NULL    -- the limits that it exceeds, with its counts
);

-- The response dates that runs in progress code, one row per run and span of dates; other runs leave these dates to it.
-- The rows of a run that has ended mean nothing.
CREATE TABLE IF NOT EXISTS {schema}.date_claims (
    run_id        VARCHAR NOT NULL,   -- Airflow run that codes the dates
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    texts         VARCHAR NOT NULL,   -- hash of the source and of how its texts are read
    from_date     DATE NOT NULL,      -- first response date
    to_date       DATE NOT NULL,      -- last response date
    claimed_at    TIMESTAMP NOT NULL  -- when the run planned, UTC
);

-- One row per text that a run in progress sends; runs that prepare later leave it to that run, and send it themselves only
-- if there is no result after a while. The rows of a run that has ended mean nothing.
CREATE TABLE IF NOT EXISTS {schema}.text_claims (
    text_key      VARCHAR NOT NULL,   -- as in coded_texts
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    run_id        VARCHAR NOT NULL,   -- Airflow run that sends it
    claimed_at    TIMESTAMP NOT NULL  -- when the run prepared it, UTC
);

-- One row per topic: the DAG that codes it. Runs of other DAGs are refused, because they would replace the rows of another
-- survey. Delete a row to hand the topic over: the next run that plans then takes it.
CREATE TABLE IF NOT EXISTS {schema}.topic_owners (
    topic         VARCHAR NOT NULL,
    dag_id        VARCHAR NOT NULL,   -- Airflow DAG
    since         TIMESTAMP NOT NULL  -- when its first run planned, UTC
);

-- One row per backfill and requested model: the model that all its runs use.
CREATE TABLE IF NOT EXISTS {schema}.pinned_models (
    backfill      VARCHAR NOT NULL,   -- number of the backfill in Airflow, and when it was created
    topic         VARCHAR NOT NULL,
    model         VARCHAR NOT NULL,   -- the requested model: latest, or a GUID
    model_id      VARCHAR NOT NULL,   -- GUID of the model
    model_version DOUBLE PRECISION,
    pinned_at     TIMESTAMP NOT NULL  -- UTC
);

-- For each topic and response date, all rows of the newest model that is published for that date, and no others. A record
-- that was withdrawn or moved to another date before that model coded the date is not among them, even if an older model
-- has a row of it. Filter it by response_date: then the warehouse reads these dates only. Versions of the project before
-- this definition have a column `newest` as well, and it stays (always 1), so that views and grants of users stay valid.
CREATE OR REPLACE VIEW {schema}.current_codes AS
SELECT record_id, occurrence, response_date, topic, model_id, records.model_version, outcome, code, label, confidence,
    level, suggestions, reason, text_key, operation_id, run_id, records.coded_at, newest
FROM (
    SELECT topic, response_date, model_id, row_number() OVER (
        PARTITION BY topic, response_date
        ORDER BY max(model_version) DESC NULLS LAST, max(coded_at) DESC, model_id
    ) AS newest
    FROM {schema}.coded_records GROUP BY topic, response_date, model_id
) AS models
JOIN {schema}.coded_records AS records USING (topic, response_date, model_id)
WHERE newest = 1;
