//! The keys that queue tokens are signed with, shared by all replicas.

crate::schema!(
    "
CREATE TABLE signing_key (
    key_id BIGINT NOT NULL PRIMARY KEY,
    secret TEXT NOT NULL,
    create_time BIGINT NOT NULL
);
"
);
