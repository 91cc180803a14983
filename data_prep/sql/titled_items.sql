-- One title an item id. Files may name an item twice: the smallest title is kept, so that the order of rows plays no part.
CREATE TABLE titled_items AS
SELECT domain, item_id, min(title) AS title FROM clean_items WHERE title IS NOT NULL GROUP BY domain, item_id
