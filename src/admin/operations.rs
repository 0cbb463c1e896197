//! The operations of AdminService: create, add, update, count. Write calls are rare, so each batch of writes runs its
//! commands one by one.

use std::{collections::HashMap, time::Duration};

use super::store;
use crate::{
    batch::{Batch, Called},
    clock::{self, Micros},
    db::{
        self, Database, Set, Write,
        entity::{
            concert::{self, DrawSeed},
            performance, section,
        },
    },
    queue,
    queue::Snapshots,
    rpc::{
        Error,
        proto::{self, stored::event::Kind},
    },
    token,
};

/// Length of the period before now in which recent admissions and payments are counted.
const LAST_MINUTE: Duration = Duration::from_secs(60);

/// A command that creates a venue.
pub struct CreateVenue {
    /// The id: `[a-z0-9][a-z0-9-]{0,63}`.
    pub venue_id: String,
    /// The name that clients show to users.
    pub name: String,
    /// The sections, in the order in which the seats are numbered. If a section has rows, its `seat_count` is the sum
    /// of their seats.
    pub sections: Vec<proto::Section>,
}

/// A command that creates a concert.
pub struct CreateConcert {
    /// The code: `[A-Z0-9][A-Z0-9_-]{0,63}`.
    pub concert_code: String,
    /// The name that clients show to users.
    pub name: String,
    /// The time at which admission starts. `None` means now.
    pub open_time: Option<Micros>,
    /// Maximum number of ACTIVE tokens. 0 means no maximum.
    pub max_active_count: i32,
    /// Maximum number of seats of the concert that one user may have. Held and paid seats count together.
    pub seats_per_user_limit: i32,
    /// Maximum time from the promotion until the first use of an admission, in microseconds. 0 means no limit. `None`
    /// means the server's default.
    pub claim_ttl: Option<Micros>,
    /// Maximum number of admissions per minute. 0 means no maximum.
    pub max_admissions_per_minute: i32,
    /// Whether a draw at the opening orders the tokens.
    pub has_draw: bool,
    /// The source of the salt of the draw, for display.
    pub draw_salt_source: String,
}

/// A command that adds a performance.
pub struct AddPerformance {
    /// The code of the concert.
    pub concert_code: String,
    /// The date, in ISO 8601.
    pub date: String,
    /// The start of the performance.
    pub start_time: Micros,
    /// The end of the sale. `None` means the start of the performance.
    pub sale_end_time: Option<Micros>,
    /// The id of the venue.
    pub venue_id: String,
    /// The price of a seat in the sections that `section_prices` does not name, in the smallest unit of the currency.
    pub price: i64,
    /// The prices of the sections whose price differs from `price`, by the name of the section.
    pub section_prices: HashMap<String, i64>,
}

/// A command that changes a sale. A field that is `None` stays unchanged.
pub struct UpdateSale {
    /// The code of the concert.
    pub concert_code: String,
    /// Whether admission is paused.
    pub paused: Option<bool>,
    /// The time at which admission starts.
    pub open_time: Option<Micros>,
    /// Maximum number of ACTIVE tokens. 0 means no maximum.
    pub max_active_count: Option<i32>,
    /// Maximum time from the promotion until the first use of an admission, in microseconds. 0 means no limit.
    pub claim_ttl: Option<Micros>,
    /// Maximum number of admissions per minute. 0 means no maximum.
    pub max_admissions_per_minute: Option<i32>,
    /// The salt of the draw.
    pub draw_salt: Option<String>,
}

/// Tells whether the database has at least one concert.
pub async fn has_concerts(write: &Write) -> Result<bool, db::Error> {
    store::has_concerts(write).await
}

/// Creates venues. A command fails with ALREADY_EXISTS if the id is taken.
pub async fn create_venues(write: &Write, commands: &[Called<CreateVenue>]) -> Batch<()> {
    let mut answers = Vec::with_capacity(commands.len());
    for c in commands {
        let created = store::insert_venue(write, &c.venue_id, &c.name, &c.sections).await?;
        answers.push(if created { Ok(()) } else { Err(taken("venue", &c.venue_id)) });
    }
    Ok(answers)
}

/// Creates concerts with their queues, and fixes the seeds of their draws. A command fails with ALREADY_EXISTS if the
/// code is taken.
pub async fn create_concerts(write: &Write, commands: &[Called<CreateConcert>]) -> Batch<concert::Model> {
    let mut answers = Vec::with_capacity(commands.len());
    for c in commands {
        let seed = if c.has_draw { Some(token::new_secret()) } else { None };
        let draw_seed = match seed.transpose() {
            Ok(seed) => seed.map(|seed| DrawSeed(hex::encode(seed))),
            Err(error) => {
                answers.push(Err(Error::internal(error)));
                continue;
            }
        };
        let row = concert::ActiveModel {
            concert_code: Set(c.concert_code.clone()),
            name: Set(c.name.clone()),
            open_time: Set(c.open_time.unwrap_or(write.now())),
            paused: Set(false),
            max_active_count: Set(c.max_active_count),
            seats_per_user_limit: Set(c.seats_per_user_limit),
            claim_ttl: Set(c.claim_ttl),
            max_admissions_per_minute: Set(c.max_admissions_per_minute),
            draw_seed: Set(draw_seed),
            draw_salt_source: Set(c.draw_salt_source.clone()),
            ..Default::default()
        };
        let created = store::insert_concert(write, &c.concert_code, row).await?;
        if let Some(row) = &created {
            let concert = Some(row.clone().into());
            write.record(&c.event(row.concert_id, Kind::ConcertCreated(proto::ConcertCreated { concert })));
        }
        answers.push(created.ok_or_else(|| taken("concert", &c.concert_code)));
    }
    Ok(answers)
}

/// Adds performances.
///
/// A command fails with CONCERT_NOT_FOUND or VENUE_NOT_FOUND. It fails with INVALID_ARGUMENT if a price is for a
/// section that the venue does not have. It fails with ALREADY_EXISTS if the concert already has a performance on this
/// date.
pub async fn add_performances(write: &Write, commands: &[Called<AddPerformance>]) -> Batch<()> {
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        answers.push(add_performance(write, command).await?);
    }
    Ok(answers)
}

async fn add_performance(
    write: &Write,
    command: &Called<AddPerformance>,
) -> Result<Result<(), Error>, crate::db::Error> {
    let Some(concert) = store::find_concert(write, &command.concert_code).await? else {
        return Ok(Err(concert_not_found(&command.concert_code)));
    };
    let sections = store::sections(write, &command.venue_id).await?;
    if sections.is_empty() {
        return Ok(Err(Error::VenueNotFound { venue_id: command.venue_id.clone() }));
    }
    let unknown = command.section_prices.keys().any(|name| sections.iter().all(|s| s.name != *name));
    if unknown {
        return Ok(Err(Error::invalid("section_prices", "must name only sections of the venue")));
    }
    let prices: Vec<i64> = sections
        .iter()
        .map(|section| command.section_prices.get(&section.name).copied().unwrap_or(command.price))
        .collect();
    let row = performance::ActiveModel {
        concert_id: Set(concert.concert_id),
        date: Set(command.date.clone()),
        start_time: Set(command.start_time),
        sale_end_time: Set(command.sale_end_time.unwrap_or(command.start_time)),
        venue_id: Set(command.venue_id.clone()),
        seat_count: Set(sections.iter().map(|section| section.seat_count).sum()),
        sold_seat_count: Set(0),
        completed_token_count: Set(0),
        revenue: Set(0),
        ..Default::default()
    };
    let added = store::insert_performance(write, concert.concert_id, &command.date, row, &prices).await?;
    if added {
        let added = performance_added(command, &sections, &prices);
        write.record(&command.event(concert.concert_id, Kind::PerformanceAdded(added)));
    }
    let what = format!("{} on {}", command.concert_code, command.date);
    Ok(if added { Ok(()) } else { Err(taken("performance", &what)) })
}

fn performance_added(command: &AddPerformance, sections: &[section::Model], prices: &[i64]) -> proto::PerformanceAdded {
    let priced = |(section, price): (&section::Model, &i64)| proto::PricedSection {
        section: section.name.clone(),
        seat_count: section.seat_count,
        price: *price,
    };
    proto::PerformanceAdded {
        date: command.date.clone(),
        start_time: Some(proto::timestamp(command.start_time)),
        sale_end_time: Some(proto::timestamp(command.sale_end_time.unwrap_or(command.start_time))),
        venue_id: command.venue_id.clone(),
        sections: sections.iter().zip(prices).map(priced).collect(),
    }
}

/// Changes sales, and returns the changed concerts. A command fails with CONCERT_NOT_FOUND if there is no such concert.
/// A command fails with DRAW_HELD or INVALID_ARGUMENT if it must not change the draw; see [`change_draw`].
pub async fn update_sales(write: &Write, commands: &[Called<UpdateSale>]) -> Batch<concert::Model> {
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        answers.push(update_sale(write, command).await?);
    }
    Ok(answers)
}

async fn update_sale(write: &Write, c: &Called<UpdateSale>) -> Result<Result<concert::Model, Error>, db::Error> {
    if let Err(error) = change_draw(write, c).await? {
        return Ok(Err(error));
    }
    let Some(before) = store::find_concert(write, &c.concert_code).await? else {
        return Ok(Err(concert_not_found(&c.concert_code)));
    };
    let mut row = concert::ActiveModel::from(before.clone());
    if let Some(paused) = c.paused {
        row.paused = Set(paused);
    }
    if let Some(open_time) = c.open_time {
        row.open_time = Set(open_time);
    }
    if let Some(max_active_count) = c.max_active_count {
        row.max_active_count = Set(max_active_count);
    }
    if c.claim_ttl.is_some() {
        row.claim_ttl = Set(c.claim_ttl);
    }
    if let Some(max_admissions_per_minute) = c.max_admissions_per_minute {
        row.max_admissions_per_minute = Set(max_admissions_per_minute);
    }
    if let Some(draw_salt) = &c.draw_salt {
        row.draw_salt = Set(draw_salt.clone());
    }
    let after = store::update_concert(write, row).await?;
    if after != before {
        let concert = Some(after.clone().into());
        write.record(&c.event(after.concert_id, Kind::SaleUpdated(proto::SaleUpdated { concert })));
    }
    Ok(Ok(after))
}

/// Checks that a command may change the salt and the time of a draw, and moves the draw to the new time. The lock of
/// the queue counter keeps the draw from being held until the end of the transaction.
///
/// Fails with INVALID_ARGUMENT if the command has a salt and the concert has no draw. Fails with DRAW_HELD if the draw
/// was held and the command has another salt or another time.
async fn change_draw(write: &Write, c: &UpdateSale) -> Result<Result<(), Error>, db::Error> {
    let Some(row) = store::find_concert(write, &c.concert_code).await? else {
        return Ok(Err(concert_not_found(&c.concert_code)));
    };
    if row.draw_seed.is_none() {
        let refusal = Error::invalid("draw_salt", "must be unset: the admission order of the concert is FIRST_COME");
        return Ok(if c.draw_salt.is_some() { Err(refusal) } else { Ok(()) });
    }
    if c.draw_salt.is_none() && c.open_time.is_none() {
        return Ok(Ok(()));
    }
    if !queue::operations::is_draw_held(write, row.concert_id).await? {
        if let Some(open_time) = c.open_time {
            queue::operations::move_draw(write, row.concert_id, open_time).await?;
        }
        return Ok(Ok(()));
    }
    // The salt and the time may have changed before the counter was locked. They do not change after the draw.
    let row = store::find_concert(write, &c.concert_code).await?.unwrap_or(row);
    let is_same = c.draw_salt.as_ref().is_none_or(|salt| *salt == row.draw_salt)
        && c.open_time.is_none_or(|open_time| open_time == row.open_time);
    let concert_code = c.concert_code.clone();
    Ok(if is_same { Ok(()) } else { Err(Error::DrawHeld { concert_code, open_time: row.open_time }) })
}

/// Returns the counts of the sale of each concert. Commands for the same concert share one query. While the
/// participants of a draw are admitted, the queue in memory tells which token is next. A command fails with INTERNAL if
/// the concert has no queue.
pub async fn count(db: &Database, snapshots: &Snapshots, concert_ids: &[i64]) -> Batch<store::Counts> {
    let now = db.now();
    let since = now - clock::micros(LAST_MINUTE);
    let mut counted: HashMap<i64, store::Counts> = HashMap::new();
    for concert_id in concert_ids {
        if !counted.contains_key(concert_id) {
            let mut counts = store::counts(db, *concert_id, now, since).await?;
            if let (Some(counts), Some(view)) =
                (&mut counts, snapshots.view(*concert_id).filter(|view| view.is_mixed()))
            {
                counts.oldest_issue_time = match view.next_number() {
                    Some(number) => store::issue_time(db, *concert_id, number).await?,
                    None => None,
                };
            }
            counted.extend(counts.map(|counts| (*concert_id, counts)));
        }
    }
    let missing = |id| Error::internal(format!("concert {id} has no queue"));
    Ok(concert_ids.iter().map(|id| counted.get(id).cloned().ok_or_else(|| missing(id))).collect())
}

fn taken(kind: &str, name: &str) -> Error {
    Error::AlreadyExists { what: format!("{kind} {name}") }
}

fn concert_not_found(concert_code: &str) -> Error {
    Error::ConcertNotFound { concert_code: concert_code.to_owned() }
}
