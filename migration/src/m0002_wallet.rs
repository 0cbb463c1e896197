//! Prepaid money: a wallet per user and a ledger of every movement, numbered per wallet.
//!
//! What a wallet holds is what its last entry says: it is written once, and two that would book on the same balance book the same number,
//! which the key refuses.

crate::schema!(
    "
CREATE TABLE wallet (
    user_id {uuid} NOT NULL PRIMARY KEY,
    open_time BIGINT NOT NULL
) {clustered};
CREATE TABLE ledger_entry (
    user_id {uuid} NOT NULL,
    entry_number BIGINT NOT NULL CHECK (entry_number > 0),
    kind TEXT NOT NULL CHECK (kind IN ('CHARGE', 'PAYMENT', 'REFUND')),
    amount BIGINT NOT NULL,
    balance_after BIGINT NOT NULL CHECK (balance_after >= 0),
    payment_id {uuid},
    request_id {uuid},
    create_time BIGINT NOT NULL,
    PRIMARY KEY (user_id, entry_number)
) {clustered};
CREATE UNIQUE INDEX ledger_entry_request ON ledger_entry (request_id) WHERE request_id IS NOT NULL;
"
);
