-- phase 0 training, 1 validation, 2 test; place = 1, 2, ... in the user's own order in this domain; untied: no other interaction of the
-- user in this domain at this time. All windows are one sort.
CREATE TABLE phased AS
SELECT
    p.domain, p.user, p.item, p.time, p.tie, p.place,
    (p.time_before IS NULL OR p.time_before <> p.time) AND (p.time_after IS NULL OR p.time_after <> p.time) AS untied,
    CASE
        WHEN s.split = 'time' THEN CASE WHEN p.time < s.t1 THEN 0 WHEN p.time < s.t2 THEN 1 ELSE 2 END
        -- Leave-one-out: the last and the second last of at least three.
        WHEN p.time_after IS NULL AND p.place >= 3 THEN 2
        WHEN p.time_after IS NOT NULL AND p.time_after_next IS NULL AND p.place >= 2 THEN 1
        ELSE 0
    END AS phase
FROM (
    SELECT
        domain, user, item, time, tie,
        row_number() OVER (PARTITION BY domain, user ORDER BY time, tie, item) AS place,
        lag(time) OVER (PARTITION BY domain, user ORDER BY time, tie, item) AS time_before,
        lead(time) OVER (PARTITION BY domain, user ORDER BY time, tie, item) AS time_after,
        lead(time, 2) OVER (PARTITION BY domain, user ORDER BY time, tie, item) AS time_after_next
    FROM interactions
) AS p
JOIN sources s ON p.domain = s.domain;

-- The first interaction of a user in each later phase is the target, if enough history stands before it.
CREATE TABLE targets AS
SELECT p.domain, p.phase, p.user, p.place, p.item AS target, p.time AS target_time, p.untied, hash60(s.seed || ':' || s.name || ':' || p.user) AS draw
FROM phased p
JOIN sources s ON p.domain = s.domain
JOIN (SELECT domain, user, phase, min(place) AS place FROM phased WHERE phase > 0 GROUP BY domain, user, phase) AS f
    ON p.domain = f.domain AND p.user = f.user AND p.place = f.place
WHERE p.place > s.min_history;

CREATE TABLE train AS SELECT domain, user, item, time, tie FROM phased WHERE phase = 0;

-- Counted before any filter: this is how often an item was seen, whoever saw it.
CREATE TABLE train_counts AS SELECT item, count(*) AS train_count FROM train GROUP BY item
