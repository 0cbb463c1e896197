//! Adds the draw of a concert, and the maximum number of admissions per minute.
//!
//! - A concert has a draw exactly if it has a `draw_seed`. `participant_count` is set when the draw is held.
//! - `draw_time` of a counter is the time at which a draw is to be held. It is NULL if no draw is to be held any more,
//!   or if the concert has no draw. An IssueToken reads it with the counter, so it needs no further query.
//! - `paced_time` of a counter is the time of the last slot in which a user was admitted.
//! - `admission_second` counts the admissions of a concert in each second. After 64 seconds, another second uses the
//!   same row. Queue numbers cannot be used to count the admissions of the last minute: with a draw, the last admitted
//!   tokens do not have the highest numbers.

crate::schema!(
    "
ALTER TABLE concert ADD COLUMN max_admissions_per_minute INTEGER NOT NULL DEFAULT 0
    CHECK (max_admissions_per_minute >= 0);
ALTER TABLE concert ADD COLUMN draw_seed TEXT;
ALTER TABLE concert ADD COLUMN draw_salt TEXT NOT NULL DEFAULT '';
ALTER TABLE concert ADD COLUMN draw_salt_source TEXT NOT NULL DEFAULT '';
ALTER TABLE concert ADD COLUMN participant_count BIGINT
    CHECK (participant_count >= 0 AND (participant_count IS NULL OR draw_seed IS NOT NULL));

ALTER TABLE queue_counter ADD COLUMN draw_time BIGINT;
ALTER TABLE queue_counter ADD COLUMN paced_time BIGINT NOT NULL DEFAULT 0;
CREATE INDEX queue_counter_draw ON queue_counter (draw_time) WHERE draw_time IS NOT NULL;

CREATE TABLE admission_second (
    concert_id BIGINT NOT NULL,
    slot INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 63),
    second BIGINT NOT NULL,
    admission_count BIGINT NOT NULL CHECK (admission_count > 0),
    PRIMARY KEY (concert_id, slot)
) {clustered};
"
);
