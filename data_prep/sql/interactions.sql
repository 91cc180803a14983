-- Only for sources that keep the order of their file at one time: of exact duplicates the first counts.
CREATE TABLE file_ties AS
SELECT r.domain, r.user_id, n.item, r.time, min(r.place) AS place
FROM raw_interactions r
JOIN sources s ON r.domain = s.domain
JOIN item_numbers n ON r.domain = n.domain AND r.item_id = n.item_id
WHERE s.ties = 'file'
GROUP BY r.domain, r.user_id, n.item, r.time;

-- Known items only, users and items as numbers. `tie` orders what has the same time, by a seeded hash, since files often list ties by item
-- id and that order leaks (see docs/data-formats.md). The order of the file is an option, for figures that were published with it.
CREATE TABLE known AS
SELECT
    r.domain, hash60(s.platform || chr(31) || r.user_id) AS user, n.item, r.time,
    coalesce(
        f.place,
        hash60(s.seed || ':' || s.platform || chr(31) || r.user_id || chr(31) || s.name || chr(31) || n.kept_id)
    ) AS tie
FROM raw_interactions r
JOIN sources s ON r.domain = s.domain
JOIN item_numbers n ON r.domain = n.domain AND r.item_id = n.item_id
LEFT JOIN file_ties f ON r.domain = f.domain AND r.user_id = f.user_id AND n.item = f.item AND r.time = f.time;

DROP TABLE file_ties;

-- Exact duplicates (user, item, time) have the same tie and so stand side by side: one sort finds them and consecutive repeats.
CREATE TABLE ordered AS
SELECT
    domain, user, item, time, tie,
    lag(item) OVER (PARTITION BY domain, user ORDER BY time, tie, item) AS previous,
    lag(time) OVER (PARTITION BY domain, user ORDER BY time, tie, item) AS previous_time
FROM known;

DROP TABLE known;

-- The same item again with nothing between says nothing about what comes next: the earliest of a run is kept.
CREATE TABLE interactions AS
SELECT domain, user, item, time, tie FROM ordered WHERE previous IS NULL OR previous <> item
