//! Experiments with SQLite on a full disk, and with a damaged write-ahead log.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use boxoffice::{
    clock::Clock,
    rpc::proto::{GetConcertRequest, concert_service_client::ConcertServiceClient},
};
use rand::Rng;
use testkit::{invariants, wallet};
use uuid::Uuid;

use crate::{
    crash::{FLAGS, is_of_the_sale},
    harness::{
        book::{Book, Fact, Wish},
        check::check,
        crowd::{Crowd, SEATS},
        eventually,
        lab::Lab,
        site::{CONCERT, Site},
    },
};

const VISITORS: usize = 8;
/// Maximum time until a server recovers. A server that takes longer is broken.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// A shell script that limits files to 3,000 blocks of 512 bytes (1.5 MB). A write beyond this size then fails, but
/// does not kill the process.
const FULL_DISK: &str = "trap '' XFSZ; ulimit -f 3000";
/// The size in bytes of a frame in SQLite's write-ahead log: a page of 2,048 bytes with its header of 24 bytes.
const FRAME: usize = 2_048 + 24;

/// The disk is full. The server must refuse writes, lose no acknowledged write, and still serve reads.
pub async fn a_full_disk_refuses_writes_and_loses_none(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, door) = (Arc::new(Book::default()), site.replicas[0].channel());
    let user_id = wallet::open_new(&door, 1_000).await.expect("a wallet");
    while lab.next_round(1, 5).is_some() {
        site.replicas[0].wrap(Some(FULL_DISK));
        restart(&mut site).await;
        let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
        // The visitors may all wait for a promotion, which the server cannot store either. So this extra caller
        // continues to write.
        let charges = async || {
            let (request_id, wish) = (Uuid::now_v7(), Wish::Charge { user_id, amount: 1 });
            let call = async { wallet::charge(&door, user_id, 1, &request_id.to_string()).await.map(Fact::from) };
            book.ask(request_id, wish, call).await
        };
        eventually("the disk is full", async || charges().await.is_err()).await;
        tokio::time::sleep(lab.pick(Duration::from_secs(1), Duration::from_secs(5))).await;
        let request = GetConcertRequest { concert_code: CONCERT.to_owned() };
        ConcertServiceClient::new(door.clone()).get_concert(request).await.expect("a read on a full disk");
        crowd.leave().await;
        // The next process of the server has no limit for files.
        site.replicas[0].wrap(None);
        restart(&mut site).await;
        eventually("a write is served", async || charges().await.is_ok()).await;
    }
    let refused: u64 =
        book.failures().iter().filter(|(name, _)| name.starts_with("Unavailable")).map(|(_, count)| count).sum();
    lab.note(format!("{refused} calls refused because the database was unavailable"));
    check(&lab, &site.url, &[&book]).await;
    book.assert_failures(|name| name == "Unavailable STORAGE_UNAVAILABLE" || is_of_the_sale(name));
}

/// The server is killed, and invalid bytes follow the end of its log. The next process must find all acknowledged
/// writes and no incomplete write.
pub async fn a_damaged_log_is_opened_with_all_acknowledged_writes(lab: Lab) {
    let mut site = Site::open(&lab, 1, FLAGS).await;
    site.concert(SEATS, |_| ()).await;
    let (book, mut random) = (Arc::new(Book::default()), lab.random());
    let crowd = Crowd::gather(&lab, &site.doors(), VISITORS, &book);
    while lab.next_round(3, 30).is_some() {
        book.serves_again(50, RECOVERY_LIMIT).await;
        site.replicas[0].process().kill();
        let log = log_of(&site);
        let mut damaged = fs::read(&log).expect("a log");
        // Appends a copy of the last bytes of the log, without the end of the copy. After a power cut, a log can end
        // with old and incomplete frames like these.
        let count = random.random_range(1..4);
        let start = damaged.len().saturating_sub(count * FRAME);
        let again = damaged.split_off(start.max(32));
        damaged.clear();
        damaged.extend(&again[..again.len() - random.random_range(1..again.len().min(FRAME))]);
        OpenOptions::new()
            .append(true)
            .open(&log)
            .and_then(|mut file| file.write_all(&damaged))
            .expect("a damaged log");
        site.replicas[0].start_again().await;
        book.serves_again(20, RECOVERY_LIMIT).await;
    }
    crowd.leave().await;
    check(&lab, &site.url, &[&book]).await;

    // The disk loses the end of the log although it confirmed the writes. The last writes may be lost, but the
    // invariants must hold.
    site.replicas[0].process().kill();
    let log = log_of(&site);
    let length = fs::metadata(&log).expect("a log").len();
    let cut = random.random_range(1..=length.min(20 * FRAME as u64));
    OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(length - cut)).expect("a shorter log");
    site.replicas[0].start_again().await;
    site.replicas[0].process().ready().await.expect("ready");
    invariants::check(&site.url, &Clock::system()).await;
    lab.note(format!("each damaged log was opened, also one without its last {cut} bytes"));
}

fn log_of(site: &Site) -> PathBuf {
    let path = site.url.trim_start_matches("sqlite://").split('?').next().expect("a path");
    PathBuf::from(format!("{path}-wal"))
}

async fn restart(site: &mut Site) {
    let replica = &mut site.replicas[0];
    replica.process().kill();
    replica.start_again().await;
    replica.process().ready().await.expect("ready");
}
