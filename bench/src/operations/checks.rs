//! Checks the statistics of the sale and a sample of the wallets after a run. All data comes from the API.

use std::sync::atomic::Ordering;

use boxoffice::rpc::proto;
use testkit::{Failure, PRICE, wallet};

use super::bench::CONCERT;
use crate::{
    calls::Calls,
    check::Check,
    world::{self, CHARGE, World},
};

/// Approximate number of wallets that are checked.
const SAMPLE: usize = 200;

/// Compares the statistics of the sale with the answers of the calls, and checks a sample of the wallets. `users` is
/// the number of users that took a token.
///
/// The wallets of the users before `open` are checked. The later users made the calls of the open loop, which the
/// server may have refused.
pub async fn run(world: &World, calls: &Calls, users: usize, open: usize) -> Result<Vec<Check>, Failure> {
    let stats = world.stats(CONCERT).await?;
    let (seats, money) = (calls.paid_seats.load(Ordering::Relaxed), calls.paid_money.load(Ordering::Relaxed));
    let mut checks = vec![
        Check::new(
            format!("{} seats sold, {seats} paid for", stats.sold_seat_count),
            stats.sold_seat_count as u64 == seats,
        ),
        Check::new(format!("revenue {}, payments {money}", stats.revenue), stats.revenue == money),
        Check::new(
            format!("{} tokens issued to {users} users", stats.issued_count),
            stats.issued_count == users as i64,
        ),
        Check::new(format!("{} tokens completed", stats.completed_count), stats.completed_count as u64 == seats),
    ];
    let (mut right, mut checked) = (0, 0);
    for index in (0..open).step_by((open / SAMPLE).max(1)) {
        checked += 1;
        right += usize::from(is_balanced(world, index).await?);
    }
    let what = format!("{right} of {checked} wallets hold the charge minus the payments");
    checks.push(Check::new(what, right == checked));
    Ok(checks)
}

async fn is_balanced(world: &World, index: usize) -> Result<bool, Failure> {
    let user_id = world.users[index].id.clone();
    let channel = world.channels[index % world.channels.len()].clone();
    let balance = wallet::balance(&channel, &user_id).await.map_err(world::told("GetBalance"))?;
    let request = proto::ListWalletEntriesRequest { user_id: user_id.clone(), ..Default::default() };
    let entries = world::wallets(channel.clone()).list_wallet_entries(request).await;
    let entries = entries.map_err(world::told("ListWalletEntries"))?.into_inner().entries;
    let request = proto::ListPaymentsRequest { user_id, ..Default::default() };
    let payments = world::payments(channel).list_payments(request).await.map_err(world::told("ListPayments"))?;
    let paid: i64 = payments.into_inner().payments.iter().map(|payment| payment.price).sum();
    let booked: i64 = entries.iter().map(|entry| entry.amount).sum();
    Ok(balance == booked && balance == CHARGE - paid && paid <= PRICE)
}
