-- One round: drop users and items with fewer than k_core training interactions in their domain. Repeated until nothing is dropped.
CREATE TABLE train_kept AS
SELECT t.* FROM train t
JOIN sources s ON t.domain = s.domain
JOIN (SELECT domain, user, count(*) AS n FROM train GROUP BY domain, user) AS u ON t.domain = u.domain AND t.user = u.user
JOIN (SELECT item, count(*) AS n FROM train GROUP BY item) AS i ON t.item = i.item
WHERE u.n >= s.k_core AND i.n >= s.k_core;

DROP TABLE train;

ALTER TABLE train_kept RENAME TO train
