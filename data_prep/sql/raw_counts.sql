-- Texts are grouped once: every later step has numbers. `user` is the corpus's number of a person, the same in all domains of a platform.
CREATE TABLE raw_users AS
SELECT r.domain, r.user_id, hash60(s.platform || chr(31) || r.user_id) AS user
FROM (SELECT DISTINCT domain, user_id FROM raw_interactions) AS r
JOIN sources s ON r.domain = s.domain;

CREATE TABLE raw_item_counts AS
SELECT domain, item_id, count(*) AS n FROM raw_interactions GROUP BY domain, item_id
