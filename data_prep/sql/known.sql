-- Interactions with known items.
CREATE TABLE known AS
SELECT r.domain, r.user, c.item, r.time
FROM read_interactions r
JOIN (SELECT i.code, n.item FROM read_items i JOIN item_numbers n ON i.domain = n.domain AND i.item_id = n.item_id) AS c
    ON r.code = c.code
