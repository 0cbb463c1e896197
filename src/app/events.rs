//! Implements `boxoffice events`: prints the feed as JSON lines, one event per line.

use std::io::{self, Write};

use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    app::{
        cli::{EventsOptions, Settings},
        client::{Admin, EventClient},
        failure::{Failure, ignore_closed_pipe},
    },
    rpc::proto::{Event, ListEventsRequest, WatchEventsRequest},
};

/// Maximum number of events of one ListEvents call.
const PAGE: i32 = 1_000;

/// Prints the events after a number, by default all events that are kept. With `--follow`, also prints each new event
/// until Ctrl-C. Ends without an error if the reader of the output closes the pipe.
pub async fn run(settings: &Settings, options: EventsOptions) -> Result<(), Failure> {
    let client = Admin::new(settings, options.admin.clone())?.connect_events().await?;
    let printed = tokio::select! {
        printed = print(client, options) => printed,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    };
    ignore_closed_pipe(printed)
}

async fn print(mut client: EventClient, options: EventsOptions) -> Result<(), Failure> {
    let EventsOptions { after, follow, concert: concert_code, kinds, .. } = options;
    let mut after_event_number = match after {
        Some(after) => after,
        None => before_the_oldest(&mut client).await?,
    };
    let concert_code = concert_code.unwrap_or_default();
    if follow {
        let request = WatchEventsRequest { after_event_number, concert_code, kinds };
        let mut stream = client.watch_events(request).await.map_err(describe)?.into_inner();
        while let Some(message) = stream.message().await.map_err(describe)? {
            write_lines(&message.events)?;
        }
        return Ok(());
    }
    loop {
        let (concert_code, kinds) = (concert_code.clone(), kinds.clone());
        let request = ListEventsRequest { after_event_number, page_size: PAGE, concert_code, kinds };
        let page = client.list_events(request).await.map_err(describe)?.into_inner();
        write_lines(&page.events)?;
        after_event_number = page.next_after_event_number;
        if after_event_number >= page.last_event_number {
            return Ok(());
        }
    }
}

/// Returns the number of the event before the oldest event that is kept.
async fn before_the_oldest(client: &mut EventClient) -> Result<i64, Failure> {
    let request = ListEventsRequest { page_size: 1, ..ListEventsRequest::default() };
    match client.list_events(request).await {
        Ok(_) => Ok(0),
        Err(status) if status.code() == Code::OutOfRange => {
            let details = status.get_error_details();
            let oldest = details.error_info().and_then(|info| info.metadata.get("oldest_event_number"));
            let oldest = oldest.and_then(|number| number.parse::<i64>().ok());
            oldest.map(|number| number - 1).ok_or_else(|| describe(status))
        }
        Err(status) => Err(describe(status)),
    }
}

fn write_lines(events: &[Event]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    for event in events {
        writeln!(output, "{}", serde_json::to_string(event)?)?;
    }
    Ok(output.flush()?)
}

/// Returns the message of the server. A broken connection has no such message.
fn describe(status: tonic::Status) -> Failure {
    match status.code() {
        Code::Unknown => {
            "the connection to the server broke; start again with --after and the last printed event_number".into()
        }
        _ => status.message().into(),
    }
}
