-- One round: drop users, then items, with fewer than k_core training interactions in their domain. Repeated until nothing is dropped; the
-- fixed point does not depend on the order.
CREATE TABLE train_of_users AS
SELECT t.* FROM train t
LEFT JOIN (
    SELECT c.domain, c.user FROM (SELECT domain, user, count(*) AS n FROM train GROUP BY domain, user) AS c
    JOIN sources s ON c.domain = s.domain WHERE c.n < s.k_core
) AS few ON t.domain = few.domain AND t.user = few.user
WHERE few.user IS NULL;

DROP TABLE train;

CREATE TABLE train AS
SELECT t.* FROM train_of_users t
LEFT JOIN (
    SELECT c.item FROM (SELECT domain, item, count(*) AS n FROM train_of_users GROUP BY domain, item) AS c
    JOIN sources s ON c.domain = s.domain WHERE c.n < s.k_core
) AS few ON t.item = few.item
WHERE few.item IS NULL;

DROP TABLE train_of_users
