-- Tables of version 2 as a run of that version of the project created and filled them, and the source that it read. DuckDB
-- and PostgreSQL execute these statements. One operation has discarded lines (column set_aside), and run-2 found its
-- records published by run-1 (column rows_of). No value contains a semicolon.

CREATE SCHEMA coding;

CREATE TABLE coding.schema_version (
    version       INTEGER NOT NULL,
    migrated_at   TIMESTAMP NOT NULL
);

CREATE TABLE coding.coded_texts (
    text_key      VARCHAR NOT NULL,
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    model_version DOUBLE PRECISION,
    occp_text     VARCHAR NOT NULL,
    tasks_text    VARCHAR NOT NULL,
    outcome       VARCHAR NOT NULL,
    code          VARCHAR,
    label         VARCHAR,
    confidence    DOUBLE PRECISION,
    level         INTEGER,
    suggestions   VARCHAR,
    operation_id  VARCHAR NOT NULL,
    run_id        VARCHAR NOT NULL,
    coded_at      TIMESTAMP NOT NULL
);

CREATE UNIQUE INDEX coded_texts_key ON coding.coded_texts (text_key, model_id, topic);

CREATE TABLE coding.coded_records (
    record_id     VARCHAR NOT NULL,
    occurrence    INTEGER NOT NULL,
    response_date DATE NOT NULL,
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    model_version DOUBLE PRECISION,
    outcome       VARCHAR NOT NULL,
    code          VARCHAR,
    label         VARCHAR,
    confidence    DOUBLE PRECISION,
    level         INTEGER,
    suggestions   VARCHAR,
    reason        VARCHAR,
    text_key      VARCHAR,
    operation_id  VARCHAR,
    run_id        VARCHAR NOT NULL,
    coded_at      TIMESTAMP NOT NULL
);

CREATE INDEX coded_records_dates ON coding.coded_records (response_date, model_id);

CREATE TABLE coding.coding_operations (
    operation_id  VARCHAR NOT NULL,
    run_id        VARCHAR NOT NULL,
    part          INTEGER NOT NULL,
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    records       BIGINT NOT NULL,
    bytes         BIGINT NOT NULL,
    state         VARCHAR NOT NULL,
    error         VARCHAR,
    usable        BIGINT NOT NULL,
    set_aside     BIGINT NOT NULL,
    metadata      VARCHAR,
    landed_at     TIMESTAMP NOT NULL,
    seconds       DOUBLE PRECISION
);

CREATE TABLE coding.coding_runs (
    run_id        VARCHAR NOT NULL,
    topic         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    model_version DOUBLE PRECISION,
    source        VARCHAR NOT NULL,
    selection     VARCHAR NOT NULL,
    from_date     DATE NOT NULL,
    to_date       DATE NOT NULL,
    read_at       TIMESTAMP NOT NULL,
    checksum      VARCHAR,
    rows_of       VARCHAR NOT NULL,
    records       BIGINT NOT NULL,
    coded         BIGINT NOT NULL,
    uncoded       BIGINT NOT NULL,
    rejected      BIGINT NOT NULL,
    texts         BIGINT NOT NULL,
    texts_sent    BIGINT NOT NULL,
    operations    INTEGER NOT NULL,
    landed_at     TIMESTAMP NOT NULL
);

CREATE TABLE coding.pinned_models (
    backfill      VARCHAR NOT NULL,
    topic         VARCHAR NOT NULL,
    model         VARCHAR NOT NULL,
    model_id      VARCHAR NOT NULL,
    model_version DOUBLE PRECISION,
    pinned_at     TIMESTAMP NOT NULL
);

CREATE VIEW coding.current_codes AS
SELECT * FROM (
    SELECT *, row_number() OVER (
        PARTITION BY topic, response_date, record_id, occurrence
        ORDER BY model_version DESC NULLS LAST, coded_at DESC, model_id
    ) AS newest
    FROM coding.coded_records
) AS ranked
WHERE newest = 1;

INSERT INTO coding.schema_version VALUES
    (2, TIMESTAMP '2026-11-26 11:55:46.254693');

INSERT INTO coding.coded_texts VALUES
    ('4a3645ba34f39c085e29d0204dd43565', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'cafe driver', 'drives', 'coded', '7', 'Machinery Operators and Drivers', 0.61, 1, NULL, 'run-1-operation-0', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('522a98ba821672e6fc71836e437d8948', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'Chef''s assistant', 'washes, cleans', 'coded', '351311', 'Chef', 0.92, 6, NULL, 'run-1-operation-0', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('685c53f609b6682aa1773b685836ff42', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'baker', '', 'uncoded', NULL, NULL, NULL, NULL, '[{"codeCategory":"3512","codeLabel":"Bakers and Pastrycooks","codeConfidence":0.4}]', 'run-1-operation-0', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('fbc31b1749b06782e4181a8ca9db16b4', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'chef', 'cooks', 'coded', '351311', 'Chef', 0.92, 6, NULL, 'run-1-operation-1', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720');

INSERT INTO coding.coded_records VALUES
    ('', 1, DATE '2026-10-06', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'rejected', NULL, NULL, NULL, NULL, NULL, 'no_record_id', NULL, NULL, 'run-1', TIMESTAMP '2026-11-26 11:55:48.635634'),
    ('R1', 1, DATE '2026-10-05', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'coded', '351311', 'Chef', 0.92, 6, NULL, NULL, 'fbc31b1749b06782e4181a8ca9db16b4', 'run-1-operation-1', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('R2', 1, DATE '2026-10-05', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'coded', '351311', 'Chef', 0.92, 6, NULL, NULL, '522a98ba821672e6fc71836e437d8948', 'run-1-operation-0', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('R3', 1, DATE '2026-10-05', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'coded', '351311', 'Chef', 0.92, 6, NULL, NULL, 'fbc31b1749b06782e4181a8ca9db16b4', 'run-1-operation-1', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('R4', 1, DATE '2026-10-06', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'uncoded', NULL, NULL, NULL, NULL, '[{"codeCategory":"3512","codeLabel":"Bakers and Pastrycooks","codeConfidence":0.4}]', NULL, '685c53f609b6682aa1773b685836ff42', 'run-1-operation-0', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('R5', 1, DATE '2026-10-06', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'rejected', NULL, NULL, NULL, NULL, NULL, 'blank', NULL, NULL, 'run-1', TIMESTAMP '2026-11-26 11:55:48.635634'),
    ('R6', 1, DATE '2026-10-06', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'rejected', NULL, NULL, NULL, NULL, NULL, 'not_printable_ascii', NULL, NULL, 'run-1', TIMESTAMP '2026-11-26 11:55:48.635634'),
    ('R7', 1, DATE '2026-10-06', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'coded', '7', 'Machinery Operators and Drivers', 0.61, 1, NULL, NULL, '4a3645ba34f39c085e29d0204dd43565', 'run-1-operation-0', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720'),
    ('R7', 2, DATE '2026-10-06', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'coded', '351311', 'Chef', 0.92, 6, NULL, NULL, 'fbc31b1749b06782e4181a8ca9db16b4', 'run-1-operation-1', 'run-1', TIMESTAMP '2026-11-26 11:55:48.482720');

INSERT INTO coding.coding_operations VALUES
    ('run-1-operation-0', 'run-1', 0, 'osca', '11111111-1111-4111-8111-111111111111', 3, 289, 'complete', NULL, 3, 2, '{"modelId": "11111111-1111-4111-8111-111111111111", "note": "café"}', TIMESTAMP '2026-11-26 11:55:48.564626', 41.5),
    ('run-1-operation-1', 'run-1', 1, 'osca', '11111111-1111-4111-8111-111111111111', 1, 88, 'complete', NULL, 1, 0, '{"modelId": "11111111-1111-4111-8111-111111111111", "note": "café"}', TIMESTAMP '2026-11-26 11:55:48.573996', 42.5);

INSERT INTO coding.coding_runs VALUES
    ('run-1', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'survey_responses', 'uncoded', DATE '2026-10-05', DATE '2026-10-06', TIMESTAMP '2026-11-26 11:55:46.998707', 'd0be31f4ad8887eecde458fdef4f785b4d02c05339157ca8ab9d32627829356e', 'run-1', 9, 5, 1, 3, 4, 4, 2, TIMESTAMP '2026-11-26 11:55:48.657384'),
    ('run-2', 'osca', '11111111-1111-4111-8111-111111111111', 1.0, 'survey_responses', 'uncoded', DATE '2026-10-05', DATE '2026-10-06', TIMESTAMP '2026-11-26 11:55:49.731923', 'd0be31f4ad8887eecde458fdef4f785b4d02c05339157ca8ab9d32627829356e', 'run-1', 9, 5, 1, 3, 4, 0, 0, TIMESTAMP '2026-11-26 11:55:50.499416');

INSERT INTO coding.pinned_models VALUES
    ('7 of 2026-10-07T01:02:03', 'osca', 'latest', '11111111-1111-4111-8111-111111111111', 1.0, TIMESTAMP '2026-11-26 11:55:46.459346');

CREATE TABLE survey_responses (record_id VARCHAR, response_date DATE, occp_text VARCHAR, tasks_text VARCHAR);

INSERT INTO survey_responses VALUES
    ('R1', DATE '2026-10-05', 'chef', 'cooks'),
    ('R2', DATE '2026-10-05', ' Chef''s  assistant', 'washes, cleans'),
    ('R3', DATE '2026-10-05', 'chef', 'cooks'),
    ('R4', DATE '2026-10-06', 'baker', NULL),
    ('R5', DATE '2026-10-06', '', NULL),
    ('R6', DATE '2026-10-06', '护士', 'cares'),
    ('R7', DATE '2026-10-06', 'café driver', 'drives'),
    ('R7', DATE '2026-10-06', 'chef', 'cooks'),
    (NULL, DATE '2026-10-06', 'nurse', ''),
    ('R8', NULL, 'clerk', '');
