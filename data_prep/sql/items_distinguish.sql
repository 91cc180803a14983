-- Items of one domain with the same title are told apart by their id, for which the title is cut where both are too long.
CREATE TABLE item_names AS
SELECT
    domain, item_id, item_id AS kept_id,
    CASE
        WHEN sharing > 1 THEN rtrim(substr(title, 1, greatest(1, max_title - length(item_id) - 3))) || ' [' || item_id || ']'
        ELSE title
    END AS title
FROM (
    SELECT t.domain, t.item_id, t.title, s.max_title, count(*) OVER (PARTITION BY t.domain, t.title) AS sharing
    FROM titled_items t JOIN sources s ON t.domain = s.domain
) AS counted
