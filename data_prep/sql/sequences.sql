-- One row per user and domain, events in order. A list of structs is sorted, because an ordered array_agg loses its order on Spark.
CREATE TABLE domain_sequences AS
SELECT user, domain, list_sort(array_agg(struct_pack(time := time, nth := nth, item := item))) AS events
FROM train GROUP BY user, domain;

-- All pre-training domains of a user in one row; order-only domains have no clock to merge by.
CREATE TABLE mixed_sequences AS
SELECT user, CAST(-1 AS SMALLINT) AS domain, list_sort(events) AS events FROM (
    SELECT
        t.user AS user, min(t.domain) AS first_domain, max(t.domain) AS last_domain,
        array_agg(struct_pack(time := t.time, nth := t.nth, item := t.item, domain := t.domain)) AS events
    FROM train t JOIN sources s ON t.domain = s.domain
    WHERE s.role = 'pretrain' AND s.item_order = 'timestamp'
    GROUP BY t.user
) AS merged
WHERE first_domain < last_domain;

-- The files' columns.
CREATE VIEW domain_rows AS
SELECT user, domain,
    CAST(list_transform(events, lambda e: e.item) AS INTEGER[]) AS items,
    CAST(list_transform(events, lambda e: domain) AS SMALLINT[]) AS item_domains,
    CAST(list_transform(events, lambda e: e.time) AS BIGINT[]) AS times
FROM domain_sequences;

CREATE VIEW mixed_rows AS
SELECT user, domain,
    CAST(list_transform(events, lambda e: e.item) AS INTEGER[]) AS items,
    CAST(list_transform(events, lambda e: e.domain) AS SMALLINT[]) AS item_domains,
    CAST(list_transform(events, lambda e: e.time) AS BIGINT[]) AS times
FROM mixed_sequences;

CREATE VIEW target_rows AS
SELECT user, domain, phase,
    CAST(list_transform(events, lambda e: e.item) AS INTEGER[]) AS items,
    CAST(list_transform(events, lambda e: domain) AS SMALLINT[]) AS item_domains,
    CAST(list_transform(events, lambda e: e.time) AS BIGINT[]) AS times,
    target, target_time, untied, seen
FROM histories
