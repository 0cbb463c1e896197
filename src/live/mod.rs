//! The live page, which shows the current sales in a browser.
//!
//! One sampler per server reads the counts of the sales once per second. All pages read its last sample. A page also
//! reads the seats of one date from the board that WatchSeats uses. So a second page on the same date causes no further
//! queries of the seats.
//!
//! | file | task |
//! |---|---|
//! | `sampler.rs` | counts the sales and keeps the counts of the last 10 minutes |
//! | `feed.rs` | streams server-sent events to one page |
//! | `events.rs` | writes these events as JSON |
//! | `site.rs` | holds the state that all pages share, and chooses the date that a page shows |
//! | `store.rs` | queries the dates on sale |
//! | `routes.rs` | serves the page and its stream |
//! | `gauges.rs` | writes the counts for Prometheus |
//! | `page.html` | the page, in one file without a build step |

mod events;
mod feed;
mod gauges;
mod routes;
mod sampler;
mod site;
mod store;

pub use routes::{MAX_PAGES, routes};
pub use sampler::{INTERVAL, Sampler};
pub use site::Site;
