//! Makes the cost of calls and passes depend on the live rows, not on the number of past sales.
//!
//! New columns store counts and sums. For a concert: the tokens that expired, and the tokens that left after their
//! admission. For a performance: the completed tokens and the revenue. `sale_end_time` is the end of the sale of a
//! date. `live` marks a reservation that is held or paid. A payment does not change `live`, so a payment changes no
//! index of `reservation`. `pass_cursor` stores the progress of a background pass. `answered_request` stores the ids of
//! requests that succeeded but changed nothing, because no other row contains these ids.

crate::schema!(
    "
ALTER TABLE performance ADD COLUMN sale_end_time BIGINT NOT NULL DEFAULT 0;
ALTER TABLE performance ADD COLUMN completed_token_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE performance ADD COLUMN revenue BIGINT NOT NULL DEFAULT 0;
UPDATE performance SET sale_end_time = start_time;
UPDATE performance SET completed_token_count = taken.tokens, revenue = taken.revenue
FROM (SELECT v.performance_id, COUNT(*) AS tokens,
             COALESCE(SUM(CASE WHEN p.state = 'PAID' THEN p.price END), 0) AS revenue
      FROM payment p JOIN reservation v ON v.reservation_id = p.reservation_id GROUP BY v.performance_id) AS taken
WHERE performance.performance_id = taken.performance_id;
CREATE INDEX performance_sale ON performance (sale_end_time, concert_id);

ALTER TABLE queue_counter ADD COLUMN left_admitted_count BIGINT NOT NULL DEFAULT 0;
ALTER TABLE queue_counter ADD COLUMN expired_count BIGINT NOT NULL DEFAULT 0;
UPDATE queue_counter SET left_admitted_count = ended.departed, expired_count = ended.expired
FROM (SELECT concert_id, COUNT(CASE WHEN state = 'LEFT' THEN 1 END) AS departed,
             COUNT(CASE WHEN state = 'EXPIRED' THEN 1 END) AS expired
      FROM queue_token WHERE admit_time IS NOT NULL GROUP BY concert_id) AS ended
WHERE queue_counter.concert_id = ended.concert_id;

DROP INDEX queue_token_active;
CREATE INDEX queue_token_expiry ON queue_token (expire_time, concert_id) WHERE state = 'ACTIVE';
CREATE INDEX queue_token_departed ON queue_token (concert_id, queue_number) WHERE departure_number IS NOT NULL;
CREATE INDEX queue_token_issued ON queue_token (issue_time);

ALTER TABLE reservation ADD COLUMN seat_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE reservation ADD COLUMN live BOOLEAN NOT NULL DEFAULT true;
UPDATE reservation SET seat_count = {json_array_length}, live = (state IN ('HELD', 'PAID'));
DROP INDEX reservation_user;
CREATE INDEX reservation_user ON reservation (user_id, live, hold_time, reservation_id);

CREATE TABLE pass_cursor (
    name TEXT NOT NULL PRIMARY KEY,
    reached_time BIGINT NOT NULL
);
INSERT INTO pass_cursor (name, reached_time)
SELECT 'holds', COALESCE(MIN(expire_time) - 1, 0) FROM reservation WHERE state = 'HELD';
INSERT INTO pass_cursor (name, reached_time) VALUES ('unpaid reservations', 0);

CREATE TABLE answered_request (
    request_id {uuid} NOT NULL,
    rpc TEXT NOT NULL,
    request TEXT NOT NULL,
    answer_id {uuid} NOT NULL,
    expire_time BIGINT,
    create_time BIGINT NOT NULL,
    PRIMARY KEY (request_id, rpc)
) {clustered};
CREATE INDEX answered_request_age ON answered_request (create_time);
"
);
