-- Dense item numbers over all domains, in the order of (domain, id).
CREATE TABLE catalogue AS
SELECT CAST(row_number() OVER (ORDER BY domain, item_id) - 1 AS INTEGER) AS item, item_id, domain, title
FROM item_names WHERE item_id = kept_id;

CREATE TABLE item_numbers AS
SELECT n.domain, n.item_id, n.kept_id, c.item
FROM item_names n JOIN catalogue c ON n.domain = c.domain AND n.kept_id = c.item_id;

DROP TABLE titled_items;

DROP TABLE item_names
