//! The cursors of the sinks to which `boxoffice forward` sends the feed of events.
//!
//! All events up to `last_number` have reached the sink. The process with the id `lease_owner` sends the next events,
//! until `lease_expire_time` has passed.

crate::schema!(
    "
CREATE TABLE forward_cursor (
    sink TEXT NOT NULL PRIMARY KEY,
    last_number BIGINT NOT NULL CHECK (last_number >= 0),
    lease_owner {uuid},
    lease_expire_time BIGINT NOT NULL
) {clustered};
"
);
