-- Items of one domain with the same title are told apart by their id.
CREATE TABLE item_names AS
SELECT
    domain, item_id, item_id AS kept_id,
    CASE WHEN count(*) OVER (PARTITION BY domain, title) > 1 THEN title || ' [' || item_id || ']' ELSE title END AS title
FROM titled_items
