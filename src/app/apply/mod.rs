//! Implements `boxoffice apply`: declares the venues, concerts and performances of a file on a running server.
//!
//! The command reads the venues and concerts from the server, plans the calls, and makes them. It makes no change
//! before the plan is complete, so a file that contradicts the server changes nothing. A second run continues a failed
//! run.
//!
//! | file | task |
//! |---|---|
//! | `sale.rs` | reads and checks the file |
//! | `plan.rs` | compares the file with the server |

mod plan;
mod sale;

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use tonic::{Code, Request, Status};

use self::{
    plan::{Call, Change, Present, Step},
    sale::Sale,
};
use crate::{
    app::{
        cli::{ApplyOptions, Settings},
        client::{Admin, AdminClient},
        failure::{Failure, read},
    },
    rpc::proto,
};

/// Maximum time of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Applies a file to a running server, and prints a line for each declaration. With `--dry-run`, only prints the lines.
pub async fn run(settings: &Settings, options: ApplyOptions) -> Result<(), Failure> {
    let (name, text) = match options.file.display().to_string() {
        name if name == "-" => ("the standard input".to_owned(), read_stdin()?),
        name => (name, read(&options.file)?),
    };
    let text = String::from_utf8(text).map_err(|_| format!("{name} is not UTF-8 text"))?;
    let refuse = |problems: Vec<String>| -> Failure {
        format!("{name} cannot be applied, and nothing was changed:\n  {}", problems.join("\n  ")).into()
    };
    let sale = sale::parse(&text).map_err(refuse)?;
    let mut client = Admin::new(settings, options.admin)?.connect().await?;
    let present = look(&mut client, &sale).await.map_err(|status| format!("{}; nothing was changed", say(&status)))?;
    let steps = plan::plan(&sale, &present).map_err(refuse)?;
    let mut output = io::stdout();
    for step in steps {
        let line = describe(&step, options.dry_run);
        if !options.dry_run {
            let Step { thing, calls, .. } = step;
            for call in calls {
                perform(&mut client, call)
                    .await
                    .map_err(|status| format!("{thing}: {}; run the command again to apply the rest", say(&status)))?;
            }
        }
        writeln!(output, "{line}")?;
    }
    Ok(())
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    Ok(text)
}

/// Reads from the server the venues and concerts that a file names.
async fn look(client: &mut AdminClient, sale: &Sale) -> Result<Present, Status> {
    let mut present = Present::default();
    let performances = sale.concerts.iter().flat_map(|concert| &concert.performances);
    let of_performances = performances.map(|performance| &performance.venue_id);
    let mut venue_ids: Vec<&String> = sale.venues.iter().map(|venue| &venue.venue_id).chain(of_performances).collect();
    venue_ids.sort_unstable();
    venue_ids.dedup();
    for venue_id in venue_ids {
        let request = limited(proto::GetVenueRequest { venue_id: venue_id.clone() });
        if let Some(venue) = found(client.get_venue(request).await)?.and_then(|response| response.venue) {
            present.venues.insert(venue_id.clone(), venue);
        }
    }
    for concert in &sale.concerts {
        let concert_code = concert.concert_code.clone();
        let request = limited(proto::GetSaleRequest { concert_code: concert_code.clone() });
        if let Some(sale) = found(client.get_sale(request).await)? {
            present.sales.insert(concert_code, sale);
        }
    }
    Ok(present)
}

/// Returns the response of a call. Returns `None` if the call fails with NOT_FOUND.
fn found<T>(answer: Result<tonic::Response<T>, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

async fn perform(client: &mut AdminClient, call: Call) -> Result<(), Status> {
    match call {
        Call::CreateVenue(request) => client.create_venue(limited(request)).await.map(drop),
        Call::CreateConcert(request) => client.create_concert(limited(request)).await.map(drop),
        Call::UpdateSale(request) => client.update_sale(limited(request)).await.map(drop),
        Call::AddPerformance(request) => client.add_performance(limited(request)).await.map(drop),
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn describe(step: &Step, is_dry_run: bool) -> String {
    let Step { thing, change, .. } = step;
    match (change, is_dry_run) {
        (Change::Unchanged, _) => format!("unchanged {thing}"),
        (Change::Created, false) => format!("created {thing}"),
        (Change::Created, true) => format!("would create {thing}"),
        (Change::Changed(differences), false) => format!("changed {thing}: {differences}"),
        (Change::Changed(differences), true) => format!("would change {thing}: {differences}"),
    }
}

/// Returns the message of a failed call. For a refused API key, adds the names of the settings that hold the key.
fn say(status: &Status) -> String {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            format!("{} (BOXOFFICE_API_KEY or --api-key)", status.message())
        }
        _ => status.message().to_owned(),
    }
}
