-- Only for sources that keep the order of their file at one time: of exact duplicates the first counts.
CREATE TABLE file_ties AS
SELECT u.domain, u.user, n.item, r.time, min(r.place) AS place
FROM raw_interactions r
JOIN sources s ON r.domain = s.domain
JOIN raw_users u ON r.domain = u.domain AND r.user_id = u.user_id
JOIN item_numbers n ON r.domain = n.domain AND r.item_id = n.item_id
WHERE s.ties = 'file'
GROUP BY u.domain, u.user, n.item, r.time;

-- Known items only, users and items as numbers.
CREATE TABLE known AS
SELECT r.domain, u.user, n.item, r.time
FROM raw_interactions r
JOIN raw_users u ON r.domain = u.domain AND r.user_id = u.user_id
JOIN item_numbers n ON r.domain = n.domain AND r.item_id = n.item_id;

-- `tie` orders what a user did at one time, in whatever domain, by a seeded hash, since files often list ties by item id and that order leaks
-- (see docs/data-formats.md). The order of the file is an option, for figures that were published with it. `n` counts exact duplicates.
CREATE TABLE ties AS
SELECT
    k.domain, k.user, k.item, k.time, k.n,
    coalesce(
        f.place,
        hash60(s.seed || ':' || s.platform || chr(31) || u.user_id || chr(31) || s.name || chr(31) || c.item_id)
    ) AS tie
FROM (
    SELECT a.domain, a.user, a.item, a.time, count(*) AS n
    FROM known a
    JOIN (SELECT user, time FROM known GROUP BY user, time HAVING count(*) > 1) AS b ON a.user = b.user AND a.time = b.time
    GROUP BY a.domain, a.user, a.item, a.time
) AS k
JOIN sources s ON k.domain = s.domain
JOIN raw_users u ON k.domain = u.domain AND k.user = u.user
JOIN catalogue c ON k.item = c.item
LEFT JOIN file_ties f ON k.domain = f.domain AND k.user = f.user AND k.item = f.item AND k.time = f.time;

DROP TABLE file_ties;

DROP TABLE raw_users;

-- The same item again with nothing between says nothing about what comes next: the earliest of a run is kept. Exact duplicates (user, item,
-- time) have the same tie and so stand side by side: one sort finds them, too.
CREATE TABLE interactions AS
SELECT domain, user, item, time, tie FROM (
    SELECT
        k.domain, k.user, k.item, k.time, coalesce(t.tie, 0) AS tie,
        lag(k.item) OVER (PARTITION BY k.domain, k.user ORDER BY k.time, t.tie, k.item) AS previous
    FROM known k
    LEFT JOIN ties t ON k.domain = t.domain AND k.user = t.user AND k.item = t.item AND k.time = t.time
) AS ordered
WHERE previous IS NULL OR previous <> item;

DROP TABLE known;

CREATE TABLE user_counts AS
SELECT domain, user, count(*) AS n FROM interactions GROUP BY domain, user
