//! Experiments with a database whose host vanishes without a packet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use boxoffice::rpc::proto::{self, wallet_service_client::WalletServiceClient};
use testkit::wallet;
use tonic::{Code, Request, transport::Channel};
use uuid::Uuid;

use crate::{
    crash::{FLAGS, is_of_the_sale},
    harness::{
        book::Book,
        check::check,
        crowd::{Crowd, SEATS},
        lab::Lab,
        proxy::Weather,
        site::Site,
    },
};

/// Maximum time until a server recovers.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);
const VISITORS: usize = 12;
/// The deadline of the calls that are made while the database is silent.
const DEADLINE: Duration = Duration::from_secs(2);

/// The host of the database vanishes: all its connections, idle or busy, stay open and silent forever.
/// Calls must fail within their deadline. After the host is back, all lanes must serve again within 15 seconds, without
/// a restart.
///
/// In every second round the host is back after one second, before the server can notice the silence.
pub async fn a_server_recovers_when_its_database_vanishes_without_a_packet(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, door) = (Arc::new(Book::default()), site.replicas[0].channel());
    let user_id = wallet::open_new(&door, 0).await.expect("a wallet");
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    let (mut slowest, mut back, mut refused) = (Duration::ZERO, Duration::ZERO, 0);
    while let Some(round) = lab.next_round(2, 6) {
        book.serves_again(100, 4 * RECOVERY_LIMIT).await;
        let line = site.replicas[0].line.as_ref().expect("a proxy to the database");
        line.set(Weather::Vanished);
        let silence = if round % 2 == 0 { Duration::from_secs(1) } else { Duration::from_secs(10) };
        let until = Instant::now() + silence;
        while Instant::now() < until {
            if let Some(waited) = refusal(&door, user_id).await {
                slowest = slowest.max(waited);
                refused += 1;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        line.set(Weather::Fair);
        back = back.max(book.serves_again(100, RECOVERY_LIMIT).await);
    }
    crowd.leave().await;
    assert!(refused > 0, "no call was refused");
    lab.note(format!("{refused} calls refused within {slowest:.1?}, 100 calls served {back:.1?} after the return"));
    assert!(slowest < DEADLINE + Duration::from_secs(1), "a refusal took {slowest:?}");
    let may_fail = |name: &str| name.starts_with("Unavailable") || name.starts_with("DeadlineExceeded");
    book.assert_failures(|name| may_fail(name) || is_of_the_sale(name));
    check(&lab, &site.url, &[&book]).await;
    assert!(site.replicas[0].process().ended(Duration::ZERO).await.is_none(), "the server ended");
}

/// Makes a call while the database is silent, and returns the time until its refusal. Returns `None` if the host came
/// back during the call and the call was served.
async fn refusal(door: &Channel, user_id: Uuid) -> Option<Duration> {
    let asked = Instant::now();
    let mut request = Request::new(proto::GetBalanceRequest { user_id: user_id.to_string() });
    request.set_timeout(DEADLINE);
    let refused = WalletServiceClient::new(door.clone()).get_balance(request).await.err()?;
    // The client ends the call as cancelled if its own timer is faster than the answer.
    let codes = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];
    assert!(codes.contains(&refused.code()), "{refused:?}");
    Some(asked.elapsed())
}
