//! Wallets, and the ledger of all movements of money. The entries of a wallet are numbered from 1.
//!
//! The balance of a wallet is the `balance_after` of its last entry, so the row of the wallet does not store it. Two
//! transactions that start from the same balance write the same entry number, and the primary key rejects the second
//! entry.

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
