-- phase 0 training, 1 validation, 2 test; place = 1, 2, ... in the user's own order in this domain; untied: no other interaction of the
-- user in this domain at this time. Leave-one-out: the last and the second last of at least three. All windows are one sort.
CREATE TABLE left_out AS
SELECT
    domain, user, item, time, nth, place,
    (time_before IS NULL OR time_before <> time) AND (time_after IS NULL OR time_after <> time) AS untied,
    CASE
        WHEN time_after IS NULL AND place >= 3 THEN 2
        WHEN time_after IS NOT NULL AND time_after_next IS NULL AND place >= 2 THEN 1
        ELSE 0
    END AS phase
FROM (
    SELECT
        i.domain, i.user, i.item, i.time, i.nth,
        row_number() OVER (PARTITION BY i.domain, i.user ORDER BY i.time, i.nth) AS place,
        lag(i.time) OVER (PARTITION BY i.domain, i.user ORDER BY i.time, i.nth) AS time_before,
        lead(i.time) OVER (PARTITION BY i.domain, i.user ORDER BY i.time, i.nth) AS time_after,
        lead(i.time, 2) OVER (PARTITION BY i.domain, i.user ORDER BY i.time, i.nth) AS time_after_next
    FROM interactions i
    JOIN sources s ON i.domain = s.domain
    WHERE s.split = 'leave_one_out'
) AS p;

-- By time: only what comes after the training period needs an order, and that is little.
CREATE TABLE later AS
SELECT
    i.domain, i.user, i.item, i.time, i.nth, CASE WHEN i.time < s.t2 THEN 1 ELSE 2 END AS phase
FROM interactions i
JOIN sources s ON i.domain = s.domain
WHERE s.split = 'time' AND i.time >= s.t1;

-- The first interaction of a user in each later phase.
CREATE TABLE firsts AS
SELECT domain, user, item, time, nth, place, untied, phase FROM left_out WHERE phase > 0
UNION ALL
SELECT
    f.domain, f.user, f.item, f.time, f.nth,
    CAST(1 + CASE WHEN f.phase = 1 THEN b.before_t1 ELSE b.before_t2 END AS BIGINT) AS place,
    f.time_after IS NULL OR f.time_after <> f.time AS untied, f.phase
FROM (
    SELECT
        domain, user, item, time, nth, phase,
        row_number() OVER (PARTITION BY domain, user, phase ORDER BY time, nth) AS turn,
        lead(time) OVER (PARTITION BY domain, user, phase ORDER BY time, nth) AS time_after
    FROM later
) AS f
JOIN (
    SELECT
        u.domain, u.user, min(u.n) - count(*) AS before_t1,
        min(u.n) - sum(CASE WHEN l.phase = 2 THEN 1 ELSE 0 END) AS before_t2
    FROM later l
    JOIN user_counts u ON l.domain = u.domain AND l.user = u.user
    GROUP BY u.domain, u.user
) AS b ON f.domain = b.domain AND f.user = b.user
WHERE f.turn = 1;

DROP TABLE later;

-- It is the target, if enough history stands before it.
CREATE TABLE targets AS
SELECT f.*, hash60(s.seed || ':' || s.name || ':' || f.user) AS draw
FROM firsts f JOIN sources s ON f.domain = s.domain
WHERE f.place > s.min_history;

CREATE TABLE train AS
SELECT domain, user, item, time, nth FROM left_out WHERE phase = 0
UNION ALL
SELECT i.domain, i.user, i.item, i.time, i.nth
FROM interactions i JOIN sources s ON i.domain = s.domain
WHERE s.split = 'time' AND i.time < s.t1;

DROP TABLE left_out;

CREATE TABLE users_left AS SELECT domain, user, count(*) AS n FROM train GROUP BY domain, user;

CREATE TABLE items_left AS SELECT domain, item, count(*) AS n FROM train GROUP BY domain, item;

-- Counted before any filter: this is how often an item was seen, whoever saw it.
CREATE TABLE train_counts AS SELECT item, n AS train_count FROM items_left
