//! Experiments with a PostgreSQL server that fails over to its synchronous standby.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use testkit::{Postgres, patroni::Cluster, postgres, process::ScratchDir};

use crate::{
    crash::{FLAGS, is_of_the_sale},
    harness::{
        book::Book,
        check::check,
        crowd::{Crowd, SEATS},
        lab::Lab,
        preload::Preload,
        proxy::Proxy,
        site::Site,
    },
};

const VISITORS: usize = 12;
/// The name of the database in [`RESOLVER`].
const NAME: &str = "database.test";
/// The source of a C library that resolves [`NAME`] to the address in a file. The library is loaded before the library
/// of the system.
const RESOLVER: &str = "
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef int resolve(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    char address[64] = {0};
    if (name && strcmp(name, \"database.test\") == 0) {
        FILE *file = fopen(getenv(\"TEST_ADDRESS_FILE\"), \"r\");
        if (!file || !fgets(address, sizeof address, file)) return EAI_AGAIN;
        fclose(file);
        name = address;
    }
    return ((resolve *)dlsym(RTLD_NEXT, \"getaddrinfo\"))(name, service, hints, found);
}
";
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
    check(&lab, &url.replace(&hosts_of(&url), &host(&primary)), &[&book]).await;
    assert_followed(&mut site, slowest).await;
}

/// Patroni manages the primary and its synchronous standby. The primary and its Patroni are killed, or stopped cleanly
/// in every second round. The servers must follow without a restart, and no acknowledged request may be lost.
pub async fn a_failover_by_patroni_is_followed_and_loses_nothing(lab: Lab) {
    let mut cluster = Cluster::start().await.expect("a cluster");
    let mut primary = cluster.is_complete().await;
    let url = Postgres::at(&cluster.url(primary)).expect("a URL").fresh_database().await.expect("a database");
    let at = |cluster: &Cluster, member| url.replace(&hosts_of(&url), &hosts_of(&cluster.url(member)));
    let hosts = [0, 1].map(|member| hosts_of(&cluster.url(member))).join(",");
    let mut site = Site::at(&url.replace(&hosts_of(&url), &hosts), 2, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, mut slowest) = (Arc::new(Book::default()), Duration::ZERO);
    let (mut longest, mut p99) = (Duration::ZERO, Duration::ZERO);
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    while let Some(round) = lab.next_round(2, 10) {
        book.serves_again(100, RECOVERY_LIMIT).await;
        let struck = Instant::now();
        match round % 2 {
            1 => cluster.kill(primary).expect("a kill"),
            _ => cluster.stop(primary).expect("a stop"),
        }
        let stopped = primary;
        primary = 1 - stopped;
        cluster.is_promoted(primary).await;
        slowest = slowest.max(book.serves_again(1, RECOVERY_LIMIT).await);
        (longest, p99) = (longest.max(struck.elapsed()), p99.max(book.p99_since(struck)));
        cluster.start_again(stopped).await.expect("a standby");
    }
    book.serves_again(100, RECOVERY_LIMIT).await;
    crowd.leave().await;
    lab.note(format!(
        "served again at most {slowest:.1?} after the new primary was ready, and {longest:.1?} after the old primary \
         stopped; during a failover, the p99 of the callers was at most {p99:.1?}"
    ));
    // Patroni waits 20 s before it replaces a killed primary. Some callers give up before.
    let may_fail = |name: &str| name == "Unavailable STORAGE_UNAVAILABLE" || name == "DeadlineExceeded -";
    book.assert_failures(|name| may_fail(name) || is_of_the_sale(name));
    check(&lab, &at(&cluster, primary), &[&book]).await;
    assert_followed(&mut site, slowest).await;
}

/// The URL has one host name, whose address changes to the address of the promoted standby. The server must follow
/// without a restart, and no acknowledged request may be lost.
pub async fn a_name_whose_address_changes_is_followed(lab: Lab) {
    let primary = Postgres::start(postgres::FAST).await.expect("PostgreSQL");
    let standby = primary.standby(None).await.expect("a standby");
    let url = primary.fresh_database().await.expect("a database");
    // Both servers have the same port, and different addresses of this machine.
    let old = Proxy::start().await;
    old.aim(([127, 0, 0, 1], primary.port()).into());
    let new = Proxy::start_at(([127, 0, 0, 2], old.address.port()).into()).await;
    new.aim(([127, 0, 0, 1], standby.port()).into());
    let (resolver, dir) = (Preload::compile(RESOLVER), ScratchDir::new().expect("a directory"));
    let file = dir.path().join("address");
    std::fs::write(&file, "127.0.0.1").expect("an address");
    let script = format!("{}; export TEST_ADDRESS_FILE={}", resolver.script(), file.display());
    let named = url.replace(&hosts_of(&url), &format!("{NAME}:{}", old.address.port()));
    let mut site = Site::after(&script, &named, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let book = Arc::new(Book::default());
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    book.serves_again(100, RECOVERY_LIMIT).await;
    lab.next_round(1, 1);
    primary.kill().expect("a kill");
    standby.promote().await.expect("a promotion");
    std::fs::write(&file, "127.0.0.2").expect("an address");
    let took = book.serves_again(1, RECOVERY_LIMIT).await;
    book.serves_again(100, RECOVERY_LIMIT).await;
    crowd.leave().await;
    lab.note(format!("served again {took:.1?} after the change of the address"));
    book.assert_failures(|name| name == "Unavailable STORAGE_UNAVAILABLE" || is_of_the_sale(name));
    check(&lab, &url.replace(&hosts_of(&url), &hosts_of(standby.url().as_str())), &[&book]).await;
    assert_followed(&mut site, took).await;
}

/// Returns the hosts and ports in a URL with a user and without a password.
fn hosts_of(url: &str) -> String {
    let rest = url.split_once('@').expect("a user").1;
    rest.split_once('/').map_or(rest, |(hosts, _)| hosts).to_owned()
}

/// Checks that all servers still run, and that they served soon after the new primary was ready.
async fn assert_followed(site: &mut Site, slowest: Duration) {
    for replica in &mut site.replicas {
        assert!(replica.process().ended(Duration::ZERO).await.is_none(), "a server ended");
    }
    assert!(slowest < FOLLOW_LIMIT, "the servers served {slowest:?} after the new primary was ready");
}
