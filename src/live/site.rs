//! The state that all open pages share, and the choice of the date that a page shows.

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
    edge::{Limit, PageAccess, credential::Group},
    rpc::Error,
};

/// The state that all open pages share.
pub struct Site {
    /// The sampler of the sales.
    pub sampler: Arc<Sampler>,
    /// The catalogue, which has the sections and prices of each performance.
    pub catalogue: Arc<Catalogue>,
    /// The boards with the states of the seats.
    pub boards: Arc<Boards>,
    /// The database, whose clock gives the current time.
    pub db: Database,
    /// ISO 4217 code of the currency.
    pub currency: String,
    /// The rule for access to the page.
    pub access: PageAccess,
    /// The limit on the number of open pages.
    pub pages: Arc<Limit>,
    /// A token that is cancelled when the server starts to drain.
    pub stopping: CancellationToken,
}

/// The performance that a page shows, with the states of its seats.
pub struct Chosen {
    /// The performance, which has the sections and their prices.
    pub performance: Arc<Performance>,
    /// The states of the seats, as the seat board publishes them.
    pub states: watch::Receiver<States>,
}

impl Site {
    /// Returns the gauges of the sales in the text format of Prometheus.
    pub fn gauges(&self) -> String {
        gauges::render(&self.sampler.picture())
    }

    /// Accepts a client with this API key, or fails with CREDENTIAL_MISSING, CREDENTIAL_INVALID or ADMIN_RIGHT_MISSING.
    /// `shown` is `None` if the client sent no key.
    pub fn check_key(&self, shown: Option<&[u8]>) -> Result<(), Error> {
        match &self.access {
            PageAccess::Checked(check) => check.check_key(shown, Group::Admin).map(drop),
            PageAccess::Refused(_) => Err(Error::CredentialMissing),
        }
    }

    /// Returns the performance that a page shows; `None` if no concert is on sale. Fails with CONCERT_NOT_FOUND or
    /// PERFORMANCE_NOT_FOUND if the concert or the date is not on sale.
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
/// The client may name a concert and a date. Without a concert, the server chooses the sale with the most waiting and
/// admitted tokens. If no tokens wait or are admitted, the server chooses the sale that opens next. If all sales have
/// opened, the server chooses the sale that opened first. Without a date, the server chooses the earliest date on sale.
fn choose(
    picture: &Picture,
    now: Micros,
    concert_code: Option<&str>,
    date: Option<&str>,
) -> Result<Option<i64>, Error> {
    let sales = picture.sales.values();
    let sale = match concert_code {
        None => sales.max_by_key(|sale| (sale.live_token_count(), sale.open_time > now, -sale.open_time)),
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
