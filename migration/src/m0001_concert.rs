//! The catalogue: venues with their sections, concerts, performances and prices.

crate::schema!(
    "
CREATE TABLE venue (
    venue_id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL
);
CREATE TABLE section (
    venue_id TEXT NOT NULL REFERENCES venue (venue_id),
    section_number INTEGER NOT NULL CHECK (section_number > 0),
    name TEXT NOT NULL,
    seat_count INTEGER NOT NULL CHECK (seat_count > 0),
    PRIMARY KEY (venue_id, section_number),
    UNIQUE (venue_id, name)
);
CREATE TABLE concert (
    concert_id {identity},
    concert_code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    open_time BIGINT NOT NULL,
    paused BOOLEAN NOT NULL,
    max_active_count INTEGER NOT NULL CHECK (max_active_count >= 0),
    seats_per_user_limit INTEGER NOT NULL CHECK (seats_per_user_limit > 0),
    claim_ttl BIGINT CHECK (claim_ttl >= 0)
);
CREATE TABLE performance (
    performance_id {identity},
    concert_id BIGINT NOT NULL REFERENCES concert (concert_id),
    date TEXT NOT NULL,
    start_time BIGINT NOT NULL,
    venue_id TEXT NOT NULL REFERENCES venue (venue_id),
    seat_count INTEGER NOT NULL CHECK (seat_count > 0),
    sold_seat_count INTEGER NOT NULL DEFAULT 0 CHECK (sold_seat_count BETWEEN 0 AND seat_count),
    UNIQUE (concert_id, date)
);
CREATE TABLE section_price (
    performance_id BIGINT NOT NULL REFERENCES performance (performance_id),
    section_number INTEGER NOT NULL,
    price BIGINT NOT NULL CHECK (price >= 0),
    PRIMARY KEY (performance_id, section_number)
);
"
);
