//! Implements `boxoffice watch`: shows the sale of a concert in the terminal until Ctrl-C.
//!
//! | file | task |
//! |---|---|
//! | `frame.rs` | formats the counts of a sale as bars or as a line |
//! | `screen.rs` | writes them to a terminal or to a pipe |

mod frame;
mod screen;

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use self::screen::Screen;
use crate::{
    app::{
        cli::{Settings, WatchOptions},
        client::{Admin, AdminClient},
        failure::{Failure, ignore_closed_pipe},
    },
    clock::Clock,
    rpc::proto,
};

/// The backoff before the first reconnection. It doubles with each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Maximum backoff between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Shows a sale until Ctrl-C, or until the reader closes the pipe.
pub async fn run(settings: &Settings, options: WatchOptions) -> Result<(), Failure> {
    let admin = Admin::new(settings, options.admin.clone())?;
    let watch = Watch { concert_code: options.concert_code, interval: options.interval, screen: Screen::new() };
    let ended = tokio::select! {
        ended = watch.follow(&admin) => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    };
    ignore_closed_pipe(ended)
}

struct Watch {
    concert_code: String,
    interval: Duration,
    screen: Screen,
}

/// The cause of the end of a stream, and the retry delay from the server.
struct Interruption {
    reason: String,
    retry_delay: Option<Duration>,
}

impl Watch {
    /// Shows the sale, and connects again after each interruption. Fails if a connection fails before the first counts
    /// were shown, or if a further attempt cannot succeed.
    async fn follow(mut self, admin: &Admin) -> Result<(), Failure> {
        let (mut pause, mut has_shown) = (FIRST_PAUSE, false);
        loop {
            let mut count = 0;
            let interruption = match admin.connect().await {
                Ok(client) => self.show(client, &mut count).await?,
                Err(error) if !has_shown => return Err(error),
                Err(error) => Interruption { reason: error.to_string(), retry_delay: None },
            };
            if count > 0 {
                (pause, has_shown) = (FIRST_PAUSE, true);
            }
            let wait = pause.max(interruption.retry_delay.unwrap_or_default());
            let reason = interruption.reason.split(';').next().unwrap_or_default();
            self.screen.say(&format!("{reason}; trying again in {:.1} s", wait.as_secs_f64()))?;
            tokio::time::sleep(wait).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Shows the messages of one stream until it is interrupted, and counts them.
    async fn show(&mut self, mut client: AdminClient, count: &mut u64) -> Result<Interruption, Failure> {
        let clock = Clock::system();
        let opened = async {
            let request = proto::GetSaleRequest { concert_code: self.concert_code.clone() };
            let concert = client.get_sale(request).await?.into_inner().concert.unwrap_or_default();
            let interval = Some(proto::duration(self.interval));
            let request = proto::WatchSaleStatsRequest { concert_code: self.concert_code.clone(), interval };
            Ok((concert, client.watch_sale_stats(request).await?.into_inner()))
        };
        let (concert, mut stream) = match opened.await {
            Ok(opened) => opened,
            Err(status) => return interruption(status),
        };
        let title = format!("{}: {}", concert.concert_code, concert.name);
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    let stats = message.stats.unwrap_or_default();
                    self.screen.show(&title, clock.now(), &stats)?;
                    *count += 1;
                }
                Ok(None) => {
                    return Ok(Interruption { reason: "the server ended the stream".into(), retry_delay: None });
                }
                Err(status) => return interruption(status),
            }
        }
    }
}

/// Returns the cause of the end of a stream. Fails if a further attempt would fail in the same way.
fn interruption(status: Status) -> Result<Interruption, Failure> {
    let is_final = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented
    );
    if is_final {
        return Err(status.message().into());
    }
    // A status of the server has a reason. Any other status comes from the connection.
    let details = status.get_error_details();
    let is_of_server = details.error_info().is_some();
    let reason = if is_of_server { status.message() } else { "the connection to the server broke" };
    let retry_delay = details.retry_info().and_then(|info| info.retry_delay);
    Ok(Interruption { reason: reason.to_owned(), retry_delay })
}
