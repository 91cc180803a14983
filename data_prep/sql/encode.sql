-- Run by the loader after every source: texts are grouped while they are few, and every later step has numbers. `user` is the corpus's number
-- of a person, the same in all domains of a platform; `code` is a number of an item id that no file shows.
CREATE TABLE new_users AS
SELECT r.domain, r.user_id, hash60(s.platform || chr(31) || r.user_id) AS user
FROM (SELECT DISTINCT domain, user_id FROM raw_interactions) AS r
JOIN sources s ON r.domain = s.domain;

CREATE TABLE new_items AS
SELECT domain, item_id, CAST(row_number() OVER () + (SELECT count(*) FROM read_items) AS INTEGER) AS code, n
FROM (SELECT domain, item_id, count(*) AS n FROM raw_interactions GROUP BY domain, item_id) AS r;

INSERT INTO read_interactions
SELECT r.domain, u.user, i.code, r.time
FROM raw_interactions r
JOIN new_users u ON r.domain = u.domain AND r.user_id = u.user_id
JOIN new_items i ON r.domain = i.domain AND r.item_id = i.item_id;

INSERT INTO read_places
SELECT r.domain, u.user, i.code, r.time, min(r.place)
FROM raw_interactions r
JOIN sources s ON r.domain = s.domain
JOIN new_users u ON r.domain = u.domain AND r.user_id = u.user_id
JOIN new_items i ON r.domain = i.domain AND r.item_id = i.item_id
WHERE s.ties = 'file'
GROUP BY r.domain, u.user, i.code, r.time;

INSERT INTO read_users SELECT * FROM new_users;

INSERT INTO read_items SELECT * FROM new_items;

DROP TABLE new_users;

DROP TABLE new_items;

TRUNCATE raw_interactions
