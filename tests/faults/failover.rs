//! Experiments with a PostgreSQL server that fails over to its synchronous standby.

use std::{sync::Arc, time::Duration};

use testkit::{Postgres, postgres};

use crate::{
    crash::{FLAGS, is_of_the_sale},
    harness::{
        book::Book,
        check::check,
        crowd::{Crowd, SEATS},
        lab::Lab,
        site::Site,
    },
};

const VISITORS: usize = 12;
/// Maximum time from the readiness of the new primary to the first served write.
const FOLLOW_LIMIT: Duration = Duration::from_secs(10);
/// Maximum time until servers serve before a round. Servers that take longer are broken.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// The primary is killed, or stopped cleanly in every second round. Then its synchronous standby is promoted. The
/// servers must follow without a restart, and no acknowledged request may be lost. A new standby then replaces the old
/// primary.
pub async fn a_failover_is_followed_and_loses_nothing(lab: Lab) {
    let mut primary = Postgres::start(postgres::FAST).await.expect("PostgreSQL");
    let url = primary.fresh_database().await.expect("a database");
    let mut standby = primary.standby(None).await.expect("a standby");
    let host = |server: &Postgres| format!("127.0.0.1:{}", server.port());
    let hosts = format!("{},{}", host(&standby), host(&primary));
    let both = format!("{}?target_session_attrs=read-write", url.replace(&host(&primary), &hosts));
    let mut site = Site::at(&both, 2, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, mut slowest) = (Arc::new(Book::default()), Duration::ZERO);
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    while let Some(round) = lab.next_round(2, 10) {
        book.serves_again(100, RECOVERY_LIMIT).await;
        if round % 2 == 1 {
            primary.kill().expect("a kill");
        } else {
            primary.stop().await.expect("a stop");
        }
        standby.promote().await.expect("a promotion");
        slowest = slowest.max(book.serves_again(1, RECOVERY_LIMIT).await);
        let port = primary.port();
        // The old server is removed before a new server uses its port.
        drop(primary);
        primary = standby;
        standby = primary.standby(Some(port)).await.expect("a standby");
    }
    book.serves_again(100, RECOVERY_LIMIT).await;
    crowd.leave().await;
    lab.note(format!("served again at most {slowest:.1?} after the new primary was ready"));
    book.assert_failures(|name| name == "Unavailable STORAGE_UNAVAILABLE" || is_of_the_sale(name));
    let now = both.replace(&hosts, &host(&primary)).replace("?target_session_attrs=read-write", "");
    check(&lab, &now, &[&book]).await;
    for replica in &mut site.replicas {
        assert!(replica.process().ended(Duration::ZERO).await.is_none(), "a server ended");
    }
    assert!(slowest < FOLLOW_LIMIT, "the servers served {slowest:?} after the new primary was ready");
}
