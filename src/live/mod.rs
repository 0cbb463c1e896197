//! The live page: sales as they move, for people to look at in a browser.
//!
//! One sampler per server counts the sales that move, once per second and however many pages are open. A page gets the
//! result, and the states of the seats of one date from the board that WatchSeats reads too. So a page costs no query.
//!
//! | file | task |
//! |---|---|
//! | `sampler.rs` | counts the sales and remembers ten minutes of them |
//! | `feed.rs` | the stream of one page: server-sent events |
//! | `events.rs` | the texts of these events |
//! | `site.rs` | holds what the pages share, and chooses what a page shows |
//! | `routes.rs` | serves the page and its stream |
//! | `gauges.rs` | the counts as Prometheus reads them |
//! | `page.html` | the page: one file, without a build step |

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
