//! Payments: at most one per reservation. The migration `m0008_slim` moves the payments into the rows of the
//! reservations.

crate::schema!(
    "
CREATE TABLE payment (
    payment_id {uuid} NOT NULL PRIMARY KEY,
    reservation_id {uuid} NOT NULL UNIQUE,
    user_id {uuid} NOT NULL,
    concert_id BIGINT NOT NULL,
    price BIGINT NOT NULL CHECK (price >= 0),
    state TEXT NOT NULL CHECK (state IN ('PAID', 'REFUNDED')),
    pay_time BIGINT NOT NULL,
    refund_time BIGINT,
    request_id {uuid},
    refund_request_id {uuid},
    CHECK ((state = 'REFUNDED') = (refund_time IS NOT NULL))
) {clustered};
CREATE INDEX payment_concert ON payment (concert_id, pay_time);
CREATE UNIQUE INDEX payment_request ON payment (request_id) WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX payment_refund_request ON payment (refund_request_id) WHERE refund_request_id IS NOT NULL;
"
);
