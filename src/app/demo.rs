//! Implements `serve --demo`: fills an empty database with a small, realistic catalogue, and writes a tour of grpcurl
//! calls.

use std::{collections::HashMap, net::SocketAddr};

use uuid::Uuid;

use crate::{
    admin::operations::{self as admin, AddPerformance, CreateConcert, CreateVenue},
    batch::Called,
    clock::Micros,
    db::{self, Database, Write},
    rpc::proto,
    wallet,
};

/// The id of the user of the tour. The wallet of this user is open and empty.
pub const USER_ID: &str = "0192f0c1-0000-7000-8000-000000000001";
const OTHER_USER_IDS: [&str; 2] = ["0192f0c1-0000-7000-8000-000000000002", "0192f0c1-0000-7000-8000-000000000003"];

/// The start of the first performance, in microseconds: 19:00 in Seoul on 2034-06-18. The start times of the other
/// performances depend on this time.
const FIRST_START_TIME: Micros = 2_034_237_600_000_000;
const DAY: Micros = 86_400_000_000;

/// Fills the database if it has no concerts. Returns true if this call filled the database.
pub async fn fill(db: &Database) -> Result<bool, db::Error> {
    match db.write(|write| Box::pin(fill_empty(write))).await {
        // Another server started at the same time and has filled the database.
        Err(db::Error::Lost) => Ok(false),
        filled => filled,
    }
}

async fn fill_empty(write: &Write) -> Result<bool, db::Error> {
    if admin::has_concerts(write).await? {
        return Ok(false);
    }
    let concerts = [
        concert("IU-2034", "IU: The Golden Hour", 0),
        concert("BTS-2034", "BTS: Yet To Come", 500),
        concert("JAZZ-2034", "Seoul Jazz Night", 0),
    ];
    let created = admin::create_concerts(write, &concerts.map(Called::by_server)).await?;
    if created.iter().any(Result::is_err) {
        return Err(db::Error::Lost);
    }
    let club = sections(&[("Floor", 5)], 10);
    let arena = sections(&[("VIP", 10), ("R", 30), ("S", 60)], 50);
    let venues = [
        CreateVenue { venue_id: "blue-club".into(), name: "Blue Club".into(), sections: club },
        CreateVenue { venue_id: "jamsil-arena".into(), name: "Jamsil Arena".into(), sections: arena },
    ];
    require(admin::create_venues(write, &venues.map(Called::by_server)).await?)?;
    let dates = [
        performance("IU-2034", 0, "blue-club", 150_000, &[]),
        performance("IU-2034", 1, "blue-club", 150_000, &[]),
        performance("BTS-2034", 0, "jamsil-arena", 132_000, &[("VIP", 220_000), ("R", 165_000)]),
        performance("BTS-2034", 7, "jamsil-arena", 132_000, &[("VIP", 220_000), ("R", 165_000)]),
        performance("JAZZ-2034", 3, "blue-club", 55_000, &[]),
    ];
    require(admin::add_performances(write, &dates.map(Called::by_server)).await?)?;
    let users = std::iter::once(USER_ID).chain(OTHER_USER_IDS).filter_map(|id| id.parse::<Uuid>().ok());
    let users: Vec<_> = users.map(Called::by_server).collect();
    require(wallet::operations::open(write, &users).await?)?;
    Ok(true)
}

fn concert(concert_code: &str, name: &str, max_active_count: i32) -> CreateConcert {
    CreateConcert {
        concert_code: concert_code.to_owned(),
        name: name.to_owned(),
        open_time: None,
        max_active_count,
        seats_per_user_limit: 4,
        claim_ttl: None,
        max_admissions_per_minute: 0,
        has_draw: false,
        draw_salt_source: String::new(),
    }
}

/// Returns sections, each with its name and its number of rows. The row numbers start at 1 in the first section, and
/// continue in the next sections.
fn sections(sections: &[(&str, i32)], seats_per_row: i32) -> Vec<proto::Section> {
    let mut numbers = 1..;
    let row = |number: i32| proto::SectionRow { name: number.to_string(), seat_count: seats_per_row };
    let section = |(name, row_count): &(&str, i32)| proto::Section {
        name: (*name).to_owned(),
        seat_count: row_count * seats_per_row,
        rows: numbers.by_ref().take(*row_count as usize).map(row).collect(),
    };
    sections.iter().map(section).collect()
}

fn performance(concert_code: &str, day: i64, venue_id: &str, price: i64, others: &[(&str, i64)]) -> AddPerformance {
    let start_time = FIRST_START_TIME + day * DAY;
    let date = chrono::DateTime::from_timestamp_micros(start_time).unwrap_or_default();
    AddPerformance {
        concert_code: concert_code.to_owned(),
        date: date.format("%Y-%m-%d").to_string(),
        start_time,
        sale_end_time: None,
        venue_id: venue_id.to_owned(),
        price,
        section_prices: others.iter().map(|(name, price)| ((*name).to_owned(), *price)).collect::<HashMap<_, _>>(),
    }
}

fn require<T>(answers: Vec<Result<T, crate::rpc::Error>>) -> Result<(), db::Error> {
    match answers.into_iter().find_map(Result::err) {
        Some(error) => Err(db::Error::Defect(format!("the demo cannot be added to this database: {error}"))),
        None => Ok(()),
    }
}

/// Returns the tour: calls that a reader can copy into a shell without changes, if the server has no TLS and no API
/// keys. `filled` is the result of [`fill`].
pub fn tour(filled: bool, address: SocketAddr, admin_address: SocketAddr) -> String {
    let filled = if filled { "The empty database now has a demo." } else { "The database already has concerts." };
    format!(
        r#"
{filled} Run these calls in another terminal.

List the services and the concerts:

  grpcurl -plaintext {address} list
  grpcurl -plaintext {address} boxoffice.v1.ConcertService/ListConcerts

Take a queue token, then repeat GetPosition until the state is QUEUE_STATE_ACTIVE:

  TOKEN=$(grpcurl -plaintext -d '{{"concert_code":"IU-2034","user_id":"{USER_ID}"}}' \
    {address} boxoffice.v1.QueueService/IssueToken | sed -n 's/.*"token": *"\(ey[^"]*\)".*/\1/p')
  grpcurl -plaintext -H "authorization: Bearer $TOKEN" \
    -d '{{"concert_code":"IU-2034","user_id":"{USER_ID}"}}' \
    {address} boxoffice.v1.QueueService/GetPosition

Choose a date and hold the best two seats that are together:

  grpcurl -plaintext -H "authorization: Bearer $TOKEN" \
    -d '{{"concert_code":"IU-2034","user_id":"{USER_ID}"}}' \
    {address} boxoffice.v1.ConcertService/ListPerformances
  grpcurl -plaintext -H "authorization: Bearer $TOKEN" \
    -d '{{"concert_code":"IU-2034","user_id":"{USER_ID}","date":"2034-06-18","best_available":{{"seat_count":2}}}}' \
    {address} boxoffice.v1.ReservationService/HoldSeats

Charge the wallet, pay the seats, and look at the sale:

  grpcurl -plaintext -d '{{"user_id":"{USER_ID}","amount":300000}}' \
    {address} boxoffice.v1.WalletService/ChargeWallet
  grpcurl -plaintext -H "authorization: Bearer $TOKEN" -d '{{"user_id":"{USER_ID}"}}' \
    {address} boxoffice.v1.PaymentService/Pay
  grpcurl -plaintext -d '{{"concert_code":"IU-2034"}}' {admin_address} boxoffice.v1.AdminService/GetSaleStats
"#
    )
}
