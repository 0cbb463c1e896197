//! Reservations and their extensions, and one row per seat that is held or sold.

crate::schema!(
    "
CREATE TABLE reservation (
    reservation_id {uuid} NOT NULL PRIMARY KEY,
    user_id {uuid} NOT NULL,
    concert_id BIGINT NOT NULL,
    queue_number BIGINT NOT NULL,
    performance_id BIGINT NOT NULL REFERENCES performance (performance_id),
    seat_numbers TEXT NOT NULL,
    total_price BIGINT NOT NULL CHECK (total_price >= 0),
    state TEXT NOT NULL CHECK (state IN ('HELD', 'PAID', 'RELEASED', 'EXPIRED', 'REFUNDED')),
    version BIGINT NOT NULL DEFAULT 1,
    hold_time BIGINT NOT NULL,
    first_expire_time BIGINT NOT NULL,
    expire_time BIGINT NOT NULL CHECK (expire_time >= first_expire_time),
    request_id {uuid}
) {clustered, roomy};
CREATE INDEX reservation_user ON reservation (user_id, hold_time, reservation_id);
CREATE INDEX reservation_expiry ON reservation (expire_time);
CREATE UNIQUE INDEX reservation_request ON reservation (request_id) WHERE request_id IS NOT NULL;
CREATE TABLE reservation_extension (
    reservation_id {uuid} NOT NULL REFERENCES reservation (reservation_id),
    extension_number INTEGER NOT NULL CHECK (extension_number BETWEEN 1 AND 2),
    expire_time BIGINT NOT NULL,
    request_id {uuid},
    PRIMARY KEY (reservation_id, extension_number)
) {clustered};
CREATE UNIQUE INDEX reservation_extension_request ON reservation_extension (request_id)
    WHERE request_id IS NOT NULL;
CREATE TABLE reserved_seat (
    performance_id BIGINT NOT NULL,
    seat_number INTEGER NOT NULL CHECK (seat_number > 0),
    reservation_id {uuid} NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('HELD', 'SOLD')),
    expire_time BIGINT NOT NULL,
    PRIMARY KEY (performance_id, seat_number)
) {clustered, roomy};
"
);
