-- What a user did at one time, in whatever domain, is ordered by a seeded hash, since files often list ties by item id and that order leaks
-- (see docs/data-formats.md). The order of the file is an option, for figures that were published with it. `nth` = 1, 2, ... is the place
-- among what has the same time; `n` counts exact duplicates.
CREATE TABLE ties AS
SELECT
    domain, user, item, time, n, CAST(row_number() OVER (PARTITION BY user, time ORDER BY tie, item) AS INTEGER) AS nth
FROM (
    SELECT
        k.domain, k.user, k.item, k.time, k.n,
        coalesce(
            f.place,
            hash60(s.seed || ':' || s.platform || chr(31) || u.user_id || chr(31) || s.name || chr(31) || c.item_id)
        ) AS tie
    FROM (
        SELECT a.domain, a.user, a.item, a.time, count(*) AS n
        FROM known a
        JOIN tied_moments b ON a.user = b.user AND a.time = b.time
        GROUP BY a.domain, a.user, a.item, a.time
    ) AS k
    JOIN sources s ON k.domain = s.domain
    JOIN read_users u ON k.domain = u.domain AND k.user = u.user
    JOIN catalogue c ON k.item = c.item
    LEFT JOIN (
        SELECT p.domain, p.user, n.item, p.time, min(p.place) AS place
        FROM read_places p
        JOIN read_items i ON p.code = i.code
        JOIN item_numbers n ON i.domain = n.domain AND i.item_id = n.item_id
        GROUP BY p.domain, p.user, n.item, p.time
    ) AS f ON k.domain = f.domain AND k.user = f.user AND k.item = f.item AND k.time = f.time
) AS hashed;

-- The same item again with nothing between says nothing about what comes next: the earliest of a run is kept. Exact duplicates (user, item,
-- time) have the same place and so stand side by side: one sort finds them, too.
CREATE TABLE interactions AS
SELECT domain, user, item, time, nth FROM (
    SELECT
        k.domain, k.user, k.item, k.time, coalesce(t.nth, 0) AS nth,
        lag(k.item) OVER (PARTITION BY k.domain, k.user ORDER BY k.time, t.nth) AS previous
    FROM known k
    LEFT JOIN ties t ON k.domain = t.domain AND k.user = t.user AND k.item = t.item AND k.time = t.time
) AS ordered
WHERE previous IS NULL OR previous <> item;

DROP TABLE tied_moments;

CREATE TABLE user_counts AS
SELECT domain, user, count(*) AS n FROM interactions GROUP BY domain, user
