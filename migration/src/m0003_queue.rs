//! The queue of a concert: its counters, and one row per token.
//!
//! `ended` repeats a part of `state` for the index of live tokens. A promotion changes `state` but not `ended`, so a
//! promotion does not change the index. The index is ordered by user, so its changes would write many pages. The
//! migration `m0008_slim` removes `ended`.

crate::schema!(
    "
CREATE TABLE queue_counter (
    concert_id BIGINT NOT NULL PRIMARY KEY REFERENCES concert (concert_id),
    issued_number BIGINT NOT NULL DEFAULT 0,
    admitted_number BIGINT NOT NULL DEFAULT 0,
    admitted_count BIGINT NOT NULL DEFAULT 0,
    departed_count BIGINT NOT NULL DEFAULT 0,
    CHECK (admitted_number BETWEEN 0 AND issued_number),
    CHECK (admitted_count BETWEEN 0 AND admitted_number),
    CHECK (departed_count BETWEEN 0 AND issued_number)
);
CREATE TABLE queue_token (
    concert_id BIGINT NOT NULL,
    queue_number BIGINT NOT NULL CHECK (queue_number > 0),
    user_id {uuid} NOT NULL REFERENCES wallet (user_id),
    state TEXT NOT NULL CHECK (state IN ('WAITING', 'ACTIVE', 'EXPIRED', 'COMPLETED', 'LEFT')),
    ended BOOLEAN NOT NULL DEFAULT false,
    issue_time BIGINT NOT NULL,
    admit_time BIGINT,
    expire_time BIGINT,
    claimed_expire_time BIGINT CHECK (claimed_expire_time >= expire_time),
    departure_number BIGINT,
    PRIMARY KEY (concert_id, queue_number),
    CHECK (ended = (state NOT IN ('WAITING', 'ACTIVE'))),
    CHECK (state IN ('WAITING', 'LEFT') OR (admit_time IS NOT NULL AND expire_time IS NOT NULL)),
    CHECK ((state = 'LEFT') = (departure_number IS NOT NULL))
) {clustered};
CREATE UNIQUE INDEX queue_token_live ON queue_token (user_id, concert_id) WHERE NOT ended;
CREATE INDEX queue_token_active ON queue_token (concert_id, expire_time) WHERE state = 'ACTIVE';
CREATE UNIQUE INDEX queue_token_departure ON queue_token (concert_id, departure_number)
    WHERE departure_number IS NOT NULL;
"
);
