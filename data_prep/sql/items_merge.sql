-- Items of one domain with the same title become one, named by the smallest id.
CREATE TABLE item_names AS
SELECT domain, item_id, title, min(item_id) OVER (PARTITION BY domain, title) AS kept_id FROM titled_items
