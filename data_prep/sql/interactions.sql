-- Known items only, users and items as numbers, exact duplicates (user, item, time) once; `tie` orders what has the same time, by a
-- seeded hash, since files often list ties by item id and that order leaks (see docs/data-formats.md). The order of the file is an option,
-- for figures that were published with it.
CREATE TABLE known AS
SELECT
    r.domain, hash60(s.platform || chr(31) || r.user_id) AS user, n.item, r.time,
    CASE
        WHEN s.ties = 'file' AND r.place IS NOT NULL THEN r.place
        ELSE hash60(s.seed || ':' || s.platform || chr(31) || r.user_id || chr(31) || s.name || chr(31) || n.kept_id)
    END AS tie
FROM raw_interactions r
JOIN sources s ON r.domain = s.domain
JOIN item_numbers n ON r.domain = n.domain AND r.item_id = n.item_id;

CREATE TABLE deduplicated AS SELECT domain, user, item, time, min(tie) AS tie FROM known GROUP BY domain, user, item, time;

-- The same item again with nothing between says nothing about what comes next: the earliest of a run is kept.
CREATE TABLE interactions AS
SELECT domain, user, item, time, tie FROM (
    SELECT domain, user, item, time, tie, lag(item) OVER (PARTITION BY domain, user ORDER BY time, tie, item) AS previous
    FROM deduplicated
) AS with_previous
WHERE previous IS NULL OR previous <> item
