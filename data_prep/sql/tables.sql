-- What adapters fill: one row per interaction (`place`: its row in the file, NULL without one), one row per item; ids are text as given.
CREATE TABLE raw_interactions (domain SMALLINT, user_id VARCHAR, item_id VARCHAR, time BIGINT, place BIGINT);
CREATE TABLE raw_items (domain SMALLINT, item_id VARCHAR, title VARCHAR);
CREATE TABLE sources (
    domain SMALLINT, name VARCHAR, role VARCHAR, platform VARCHAR, item_order VARCHAR, split VARCHAR,
    t1 BIGINT, t2 BIGINT, k_core INTEGER, seed BIGINT, min_history INTEGER,
    max_valid BIGINT, max_test BIGINT, ties VARCHAR, max_title INTEGER
);
-- What becomes of it (encode.sql): numbers, and what they stand for. `read_places` is only filled for sources that keep the order of their
-- file at one time: of exact duplicates the first counts.
CREATE TABLE read_interactions (domain SMALLINT, user BIGINT, code INTEGER, time BIGINT);
CREATE TABLE read_places (domain SMALLINT, user BIGINT, code INTEGER, time BIGINT, place BIGINT);
CREATE TABLE read_users (domain SMALLINT, user_id VARCHAR, user BIGINT);
CREATE TABLE read_items (domain SMALLINT, item_id VARCHAR, code INTEGER, n BIGINT);
CREATE TABLE clean_items (domain SMALLINT, item_id VARCHAR, title VARCHAR)
