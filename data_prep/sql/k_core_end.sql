CREATE TABLE train_kept AS
SELECT t.* FROM train t
JOIN users_left u ON t.domain = u.domain AND t.user = u.user
JOIN items_left i ON t.item = i.item;

DROP TABLE train;

ALTER TABLE train_kept RENAME TO train
