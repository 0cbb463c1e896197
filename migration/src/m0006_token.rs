//! The keys that sign queue tokens. All replicas use the same keys.

crate::schema!(
    "
CREATE TABLE signing_key (
    key_id BIGINT NOT NULL PRIMARY KEY,
    secret TEXT NOT NULL,
    create_time BIGINT NOT NULL
);
"
);
