-- Option: whoever is tested on a downstream set stays out of pre-training.
CREATE TABLE train_kept AS
SELECT t.* FROM train t
JOIN sources s ON t.domain = s.domain
LEFT JOIN (
    SELECT DISTINCT g.user FROM targets g JOIN sources d ON g.domain = d.domain WHERE g.phase = 2 AND d.role = 'downstream'
) AS x ON t.user = x.user
WHERE s.role = 'downstream' OR x.user IS NULL;

DROP TABLE train;

ALTER TABLE train_kept RENAME TO train;

DROP TABLE users_left;

DROP TABLE items_left;

CREATE TABLE users_left AS SELECT domain, user, count(*) AS n FROM train GROUP BY domain, user;

CREATE TABLE items_left AS SELECT domain, item, count(*) AS n FROM train GROUP BY domain, item
