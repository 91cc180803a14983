-- The users to test on, with what they did before the target.
CREATE TABLE pretrain_users AS
SELECT DISTINCT u.user FROM users_left u JOIN sources s ON u.domain = s.domain WHERE s.role = 'pretrain';

CREATE TABLE kept_targets AS
SELECT g.*, w.user IS NOT NULL AS seen FROM (
    SELECT *, row_number() OVER (PARTITION BY domain, phase ORDER BY draw, user) AS draw_rank FROM targets
) AS g
JOIN sources s ON g.domain = s.domain
LEFT JOIN pretrain_users w ON g.user = w.user
WHERE g.draw_rank <= CASE WHEN g.phase = 1 THEN s.max_valid ELSE s.max_test END;

-- All of the user's interactions in the domain before the target, training or not.
CREATE TABLE histories AS
SELECT
    g.domain, g.phase, g.user, g.draw_rank,
    list_sort(array_agg(struct_pack(time := p.time, nth := p.nth, item := p.item))) AS events,
    min(g.item) AS target, min(g.time) AS target_time, bool_and(g.untied) AS untied, bool_and(g.seen) AS seen
FROM kept_targets g
JOIN interactions p ON g.domain = p.domain AND g.user = p.user
WHERE p.time < g.time OR (p.time = g.time AND p.nth < g.nth)
GROUP BY g.domain, g.phase, g.user, g.draw_rank
