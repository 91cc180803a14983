-- One round: drop users, then items, with fewer than k_core training interactions in their domain. Repeated until nothing is dropped; the
-- fixed point does not depend on the order. Only the counts are kept up to date, by what the dropped ones had with what was still there.
CREATE TABLE few_users AS
SELECT u.domain, u.user FROM users_left u JOIN sources s ON u.domain = s.domain WHERE u.n < s.k_core;

CREATE TABLE items_after AS
SELECT i.domain, i.item, i.n - coalesce(lost.n, 0) AS n
FROM items_left i
LEFT JOIN (
    SELECT t.item, count(*) AS n
    FROM train t
    JOIN few_users f ON t.domain = f.domain AND t.user = f.user
    JOIN items_left j ON t.item = j.item
    GROUP BY t.item
) AS lost ON i.item = lost.item;

CREATE TABLE few_items AS
SELECT i.item FROM items_after i JOIN sources s ON i.domain = s.domain WHERE i.n < s.k_core;

CREATE TABLE users_after AS
SELECT u.domain, u.user, u.n - coalesce(lost.n, 0) AS n
FROM (SELECT u.* FROM users_left u JOIN sources s ON u.domain = s.domain WHERE u.n >= s.k_core) AS u
LEFT JOIN (
    SELECT t.domain, t.user, count(*) AS n
    FROM train t
    JOIN few_items f ON t.item = f.item
    JOIN (SELECT w.* FROM users_left w JOIN sources s ON w.domain = s.domain WHERE w.n >= s.k_core) AS v
        ON t.domain = v.domain AND t.user = v.user
    GROUP BY t.domain, t.user
) AS lost ON u.domain = lost.domain AND u.user = lost.user;

DROP TABLE users_left;

DROP TABLE items_left;

CREATE TABLE items_left AS
SELECT i.* FROM items_after i JOIN sources s ON i.domain = s.domain WHERE i.n >= s.k_core;

ALTER TABLE users_after RENAME TO users_left;

DROP TABLE items_after;

DROP TABLE few_users;

DROP TABLE few_items
