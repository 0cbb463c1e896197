//! Experiments with backups of a SQLite database during a sale.

use std::{collections::HashSet, sync::Arc, time::Duration};

use testkit::{
    process::{self, ScratchDir},
    server,
};
use tokio::time::Instant;

use crate::{
    crash::{FLAGS, is_of_the_sale},
    harness::{
        book::{Book, SoFar},
        check::check,
        crowd::{Crowd, SEATS},
        lab::Lab,
        site::{Replica, Site},
    },
};

const VISITORS: usize = 12;
/// Maximum duration of a backup, with its verification.
const BACKUP_LIMIT: Duration = Duration::from_secs(60);

/// Backups are made during a sale. A server must start on each backup. The backup must have all requests that were
/// acknowledged before the command began, and its invariants must hold.
pub async fn a_backup_during_a_sale_has_all_that_was_acknowledged(lab: Lab) {
    let site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, dir) = (Arc::new(Book::default()), ScratchDir::new().expect("a directory"));
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    let mut backups: Vec<(String, SoFar)> = Vec::new();
    let (mut slowest, mut served) = (Duration::ZERO, HashSet::new());
    while let Some(round) = lab.next_round(2, 8) {
        book.serves_again(100, BACKUP_LIMIT).await;
        let file = dir.path().join(format!("{round}.db")).display().to_string();
        let (so_far, started, before) = (book.so_far(), Instant::now(), book.acknowledged());
        let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
        command.args(["--database-url", &site.url, "backup", &file]);
        let output = process::output(&mut command, BACKUP_LIMIT).await.expect("a backup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        slowest = slowest.max(started.elapsed());
        served.insert(book.acknowledged() - before);
        backups.push((file, so_far));
    }
    crowd.leave().await;
    for (file, so_far) in &backups {
        let url = format!("sqlite://{file}");
        let mut restored = Replica::start(&url, FLAGS).await;
        restored.process().ready().await.expect("ready");
        restored.process().kill();
        check(&lab, &url, &[&book.as_of(so_far)]).await;
    }
    let during = served.iter().min().expect("a backup");
    lab.note(format!("a backup took at most {slowest:.1?}; at least {during} calls were served during it"));
    check(&lab, &site.url, &[&book]).await;
    book.assert_failures(is_of_the_sale);
    assert!(*during > 0, "no call was served during a backup");
}
