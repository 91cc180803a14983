-- One row a user and domain, events in order. A list of structs is sorted, because an ordered array_agg loses its order on Spark.
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

CREATE TABLE pretrain_users AS
SELECT DISTINCT u.user FROM users_left u JOIN sources s ON u.domain = s.domain WHERE s.role = 'pretrain';

CREATE TABLE kept_targets AS
SELECT g.*, w.user IS NOT NULL AS seen FROM (
    SELECT *, row_number() OVER (PARTITION BY domain, phase ORDER BY draw, user) AS draw_rank FROM targets
) AS g
JOIN sources s ON g.domain = s.domain
LEFT JOIN pretrain_users w ON g.user = w.user
WHERE g.draw_rank <= CASE WHEN g.phase = 1 THEN s.max_valid ELSE s.max_test END;

-- All of the user's interactions in the domain before the target, training or not.
CREATE TABLE histories AS
SELECT
    g.domain, g.phase, g.user, g.draw_rank,
    list_sort(array_agg(struct_pack(time := p.time, nth := p.nth, item := p.item))) AS events,
    min(g.item) AS target, min(g.time) AS target_time, bool_and(g.untied) AS untied, bool_and(g.seen) AS seen
FROM kept_targets g
JOIN interactions p ON g.domain = p.domain AND g.user = p.user
WHERE p.time < g.time OR (p.time = g.time AND p.nth < g.nth)
GROUP BY g.domain, g.phase, g.user, g.draw_rank;

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
