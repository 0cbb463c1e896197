//! What the page is made of, shared by all open pages.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    gauges,
    sampler::{Picture, Sampler},
};
use crate::{
    catalogue::{Catalogue, Performance},
    clock::Micros,
    concert::{Boards, States},
    db::Database,
    edge::{Limit, PageAccess},
    rpc::Error,
};

/// What the page is made of.
pub struct Site {
    /// Counts the sales.
    pub sampler: Arc<Sampler>,
    /// Finds the seats of a date.
    pub catalogue: Arc<Catalogue>,
    /// Reads the states of the seats.
    pub boards: Arc<Boards>,
    /// Tells the time.
    pub db: Database,
    /// ISO 4217 code of the currency.
    pub currency: String,
    /// Who may see the page.
    pub access: PageAccess,
    /// Counts the open pages.
    pub pages: Arc<Limit>,
    /// Cancelled when the server begins to drain.
    pub stopping: CancellationToken,
}

/// The date that a page shows.
pub struct Chosen {
    /// The performance.
    pub performance: Arc<Performance>,
    /// The states of its seats.
    pub states: watch::Receiver<States>,
}

impl Site {
    /// Returns the gauges of the sales in the text format of Prometheus.
    pub fn gauges(&self) -> String {
        gauges::render(&self.sampler.picture())
    }

    /// Lets a client with this API key pass, or fails with CREDENTIAL_MISSING, CREDENTIAL_INVALID or
    /// ADMIN_RIGHT_MISSING.
    pub fn check_key(&self, shown: Option<&[u8]>) -> Result<(), Error> {
        match &self.access {
            PageAccess::Checked(check) => check.check_key(shown),
            PageAccess::Refused(_) => Err(Error::CredentialMissing),
        }
    }

    /// Returns the date that a page shows; `None` if nothing is on sale.
    pub async fn choose(&self, concert_code: Option<&str>, date: Option<&str>) -> Result<Option<Chosen>, Error> {
        let picture = self.sampler.picture();
        let Some(performance_id) = choose(&picture, self.db.now(), concert_code, date)? else { return Ok(None) };
        let performance = self.catalogue.performance_by_id(performance_id).await?;
        let states = self.boards.watch(&performance).await?;
        Ok(Some(Chosen { performance, states }))
    }
}

/// Returns the key of the performance that a page shows.
///
/// The caller may choose. Otherwise it is where most goes on, or else the sale that opens next.
fn choose(
    picture: &Picture,
    now: Micros,
    concert_code: Option<&str>,
    date: Option<&str>,
) -> Result<Option<i64>, Error> {
    let sales = picture.sales.values();
    let sale = match concert_code {
        None => sales.max_by_key(|sale| (sale.bustle(), sale.open_time > now, -sale.open_time)),
        Some(code) => Some(
            sales
                .into_iter()
                .find(|sale| sale.concert.concert_code == code)
                .ok_or_else(|| Error::ConcertNotFound { concert_code: code.to_owned() })?,
        ),
    };
    let Some(sale) = sale else { return Ok(None) };
    let chosen = match date {
        None => sale.dates.first(),
        Some(date) => Some(sale.dates.iter().find(|known| known.date == date).ok_or_else(|| {
            Error::PerformanceNotFound { concert_code: sale.concert.concert_code.clone(), date: date.to_owned() }
        })?),
    };
    Ok(chosen.map(|date| date.performance_id))
}
