//! The invariants of the data, except for the order of draws. Each invariant has a query that finds a violating row.
//!
//! A query returns the columns `id`, a UUID or NULL, and `detail`, a text. It returns at most one row. The database
//! does all the work, so the memory of the process does not depend on the size of the tables.
//!
//! These placeholders hide the differences between SQLite and PostgreSQL:
//!
//! | placeholder | meaning |
//! |---|---|
//! | `{seats}` | a table `n` with the seat numbers of the reservation `r`, in the column `value` |
//! | `{payment_id}` | the id of the payment for the reservation `r` |
//! | `{no_id}` | NULL as a UUID |
//! | `{now}` | the current time, in microseconds |
//!
//! The tidy pass deletes old tokens and old unpaid reservations. So the stored counts of a queue must equal the counts
//! of the rows only while the queue still has all its tokens. Afterwards the stored counts must not be lower.

/// An invariant, and the query that finds a violation.
pub struct Invariant {
    /// The sentence that must be true.
    pub rule: &'static str,
    /// The query.
    pub sql: &'static str,
}

const fn invariant(rule: &'static str, sql: &'static str) -> Invariant {
    Invariant { rule, sql }
}

/// All invariants, grouped by seats, money and queues.
pub const INVARIANTS: &[Invariant] = &[
    invariant(
        "a SOLD seat belongs to a PAID payment",
        "SELECT s.reservation_id AS id, 'performance ' || s.performance_id || ', seat ' || s.seat_number AS detail
         FROM reserved_seat s WHERE s.state = 'SOLD' AND NOT EXISTS (
            SELECT 1 FROM reservation r
            WHERE r.reservation_id = s.reservation_id AND r.state = 'PAID' AND r.performance_id = s.performance_id)
         LIMIT 1",
    ),
    invariant(
        "every seat of a PAID payment is SOLD to it",
        "SELECT r.reservation_id AS id, 'performance ' || r.performance_id || ', seat ' || n.value AS detail
         FROM reservation r, {seats} WHERE r.state = 'PAID' AND NOT EXISTS (
            SELECT 1 FROM reserved_seat s
            WHERE s.performance_id = r.performance_id AND s.seat_number = CAST(n.value AS INTEGER)
              AND s.reservation_id = r.reservation_id AND s.state = 'SOLD')
         LIMIT 1",
    ),
    invariant(
        "the reservation of a seat contains the seat and is not RELEASED",
        "SELECT s.reservation_id AS id, 'performance ' || s.performance_id || ', seat ' || s.seat_number AS detail
         FROM reserved_seat s WHERE NOT EXISTS (
            SELECT 1 FROM reservation r, {seats}
            WHERE r.reservation_id = s.reservation_id AND r.performance_id = s.performance_id
              AND r.state <> 'RELEASED' AND CAST(n.value AS INTEGER) = s.seat_number)
         LIMIT 1",
    ),
    invariant(
        "every seat of a live hold is reserved for it",
        "SELECT r.reservation_id AS id, 'performance ' || r.performance_id || ', seat ' || n.value AS detail
         FROM reservation r, {seats} WHERE r.state = 'HELD' AND r.expire_time > {now} AND NOT EXISTS (
            SELECT 1 FROM reserved_seat s
            WHERE s.performance_id = r.performance_id AND s.seat_number = CAST(n.value AS INTEGER)
              AND s.reservation_id = r.reservation_id)
         LIMIT 1",
    ),
    invariant(
        "the counts and the revenue of a performance equal its seats and payments",
        "SELECT {no_id} AS id, 'performance ' || p.performance_id || ': ' || COALESCE(s.sold, 0) || ' SOLD seats, '
                || COALESCE(r.payments, 0) || ' payments, revenue ' || COALESCE(r.revenue, 0) AS detail
         FROM performance p
         LEFT JOIN (SELECT performance_id, COUNT(*) AS sold FROM reserved_seat WHERE state = 'SOLD'
                    GROUP BY performance_id) s ON s.performance_id = p.performance_id
         LEFT JOIN (SELECT performance_id, COUNT(*) AS payments,
                           SUM(CASE WHEN state = 'PAID' THEN total_price ELSE 0 END) AS revenue
                    FROM reservation WHERE state IN ('PAID', 'REFUNDED')
                    GROUP BY performance_id) r ON r.performance_id = p.performance_id
         WHERE p.sold_seat_count <> COALESCE(s.sold, 0) OR p.completed_token_count <> COALESCE(r.payments, 0)
            OR p.revenue <> COALESCE(r.revenue, 0)
         LIMIT 1",
    ),
    invariant(
        "the entries of a wallet are numbered from 1 without gaps, and each balance is the sum so far",
        "SELECT e.user_id AS id, 'entry ' || e.entry_number || ', balance ' || e.balance_after AS detail
         FROM ledger_entry e LEFT JOIN ledger_entry b
           ON b.user_id = e.user_id AND b.entry_number = e.entry_number - 1
         WHERE e.entry_number < 1 OR (e.entry_number > 1 AND b.entry_number IS NULL)
            OR e.balance_after <> e.amount + COALESCE(b.balance_after, 0)
         LIMIT 1",
    ),
    invariant(
        "the balance of a wallet is never below 0",
        "SELECT user_id AS id, 'entry ' || entry_number || ', balance ' || balance_after AS detail
         FROM ledger_entry WHERE balance_after < 0 LIMIT 1",
    ),
    invariant(
        "a ledger entry belongs to a wallet",
        "SELECT e.user_id AS id, 'entry ' || e.entry_number AS detail FROM ledger_entry e
         WHERE NOT EXISTS (SELECT 1 FROM wallet w WHERE w.user_id = e.user_id) LIMIT 1",
    ),
    invariant(
        "a charge is above 0 and belongs to no payment",
        "SELECT user_id AS id, 'entry ' || entry_number || ', amount ' || amount AS detail
         FROM ledger_entry WHERE kind = 'CHARGE' AND (amount <= 0 OR payment_id IS NOT NULL) LIMIT 1",
    ),
    invariant(
        "a payment has exactly one entry with its price in the wallet of its user",
        "SELECT r.reservation_id AS id, 'price ' || r.total_price AS detail FROM reservation r
         WHERE r.state IN ('PAID', 'REFUNDED') AND 1 <> (
            SELECT COUNT(*) FROM ledger_entry e WHERE e.user_id = r.user_id AND e.kind = 'PAYMENT'
              AND e.payment_id = {payment_id} AND e.amount = -r.total_price)
         LIMIT 1",
    ),
    invariant(
        "a refund has exactly one entry with its price in the wallet of its user",
        "SELECT r.reservation_id AS id, 'price ' || r.total_price AS detail FROM reservation r
         WHERE r.state = 'REFUNDED' AND 1 <> (
            SELECT COUNT(*) FROM ledger_entry e WHERE e.user_id = r.user_id AND e.kind = 'REFUND'
              AND e.payment_id = {payment_id} AND e.amount = r.total_price)
         LIMIT 1",
    ),
    invariant(
        "an entry of a payment or of a refund belongs to a payment of the same user",
        "SELECT e.user_id AS id, 'entry ' || e.entry_number || ', ' || e.kind || ', amount ' || e.amount AS detail
         FROM ledger_entry e WHERE e.kind <> 'CHARGE' AND NOT EXISTS (
            SELECT 1 FROM reservation r WHERE r.user_id = e.user_id AND e.payment_id = {payment_id}
              AND (r.state = 'REFUNDED' OR (r.state = 'PAID' AND e.kind = 'PAYMENT')))
         LIMIT 1",
    ),
    invariant(
        "the tokens of a queue without a draw are admitted in the order of their numbers",
        "SELECT t.user_id AS id, 'concert ' || t.concert_id || ', number ' || t.queue_number || ', '
                || t.state AS detail
         FROM queue_token t JOIN queue_counter c ON c.concert_id = t.concert_id
         JOIN concert k ON k.concert_id = t.concert_id
         WHERE k.draw_seed IS NULL AND (
               (t.admit_time IS NOT NULL AND t.queue_number > c.admitted_number)
            OR (t.state = 'WAITING' AND t.queue_number <= c.admitted_number))
         LIMIT 1",
    ),
    invariant(
        "no token is admitted before the draw of its concert",
        "SELECT t.user_id AS id, 'concert ' || t.concert_id || ', number ' || t.queue_number || ', '
                || t.state AS detail
         FROM queue_token t JOIN concert k ON k.concert_id = t.concert_id
         WHERE k.draw_seed IS NOT NULL AND k.participant_count IS NULL AND t.admit_time IS NOT NULL
         LIMIT 1",
    ),
    invariant(
        "the numbers of a queue end with the last issued number",
        "SELECT t.user_id AS id, 'concert ' || t.concert_id || ', number ' || t.queue_number AS detail
         FROM queue_token t JOIN queue_counter c ON c.concert_id = t.concert_id
         WHERE t.queue_number > c.issued_number LIMIT 1",
    ),
    invariant(
        "a user is in a queue at most once",
        "SELECT user_id AS id, 'concert ' || concert_id || ', ' || COUNT(*) || ' live tokens' AS detail
         FROM queue_token WHERE state IN ('WAITING', 'ACTIVE')
         GROUP BY user_id, concert_id HAVING COUNT(*) > 1 LIMIT 1",
    ),
    invariant(
        "a token belongs to a wallet",
        "SELECT t.user_id AS id, 'concert ' || t.concert_id || ', number ' || t.queue_number AS detail
         FROM queue_token t WHERE NOT EXISTS (SELECT 1 FROM wallet w WHERE w.user_id = t.user_id) LIMIT 1",
    ),
    invariant(
        "a reservation belongs to the user of its token",
        "SELECT r.reservation_id AS id, 'concert ' || r.concert_id || ', number ' || r.queue_number AS detail
         FROM reservation r JOIN queue_token t
           ON t.concert_id = r.concert_id AND t.queue_number = r.queue_number
         WHERE t.user_id <> r.user_id LIMIT 1",
    ),
    invariant(
        "the counts of a queue equal its tokens",
        "SELECT {no_id} AS id, 'concert ' || c.concert_id || ': ' || t.total || ' tokens, ' || t.admitted
                || ' admitted, ' || t.departed || ' left, ' || t.expired || ' expired' AS detail
         FROM queue_counter c JOIN (
            SELECT concert_id, COUNT(*) AS total,
                   SUM(CASE WHEN admit_time IS NOT NULL THEN 1 ELSE 0 END) AS admitted,
                   SUM(CASE WHEN state = 'LEFT' THEN 1 ELSE 0 END) AS departed,
                   SUM(CASE WHEN state = 'LEFT' AND admit_time IS NOT NULL THEN 1 ELSE 0 END) AS left_admitted,
                   SUM(CASE WHEN state = 'EXPIRED' THEN 1 ELSE 0 END) AS expired
            FROM queue_token GROUP BY concert_id) t ON t.concert_id = c.concert_id
         WHERE t.total > c.issued_number OR t.admitted > c.admitted_count OR t.departed > c.departed_count
            OR t.left_admitted > c.left_admitted_count OR t.expired > c.expired_count
            OR (t.total = c.issued_number AND (
                t.admitted < c.admitted_count OR t.departed < c.departed_count
                OR t.left_admitted < c.left_admitted_count OR t.expired < c.expired_count))
         LIMIT 1",
    ),
    invariant(
        "a COMPLETED token has a payment",
        "SELECT {no_id} AS id, 'concert ' || t.concert_id || ': ' || t.total || ' COMPLETED tokens' AS detail
         FROM (SELECT concert_id, COUNT(*) AS total FROM queue_token WHERE state = 'COMPLETED' GROUP BY concert_id) t
         LEFT JOIN (SELECT concert_id, COUNT(*) AS total FROM reservation WHERE state IN ('PAID', 'REFUNDED')
                    GROUP BY concert_id) p ON p.concert_id = t.concert_id
         WHERE t.total > COALESCE(p.total, 0) LIMIT 1",
    ),
];

/// Finds all draws that were held.
pub const DRAWS: &str = "SELECT k.concert_id, k.draw_seed, k.draw_salt, k.participant_count, c.admitted_number
     FROM concert k JOIN queue_counter c ON c.concert_id = k.concert_id
     WHERE k.participant_count IS NOT NULL ORDER BY k.concert_id";

/// Finds up to `{limit}` tokens of a concert that wait or were admitted, after the queue number `{after}`.
pub const TOKENS: &str = "SELECT queue_number,
            CAST(CASE WHEN admit_time IS NULL THEN 0 ELSE 1 END AS BIGINT) AS was_admitted,
            CAST(CASE WHEN state = 'WAITING' THEN 1 ELSE 0 END AS BIGINT) AS is_waiting
     FROM queue_token WHERE concert_id = {concert_id} AND queue_number > {after}
       AND (admit_time IS NOT NULL OR state = 'WAITING')
     ORDER BY queue_number LIMIT {limit}";
