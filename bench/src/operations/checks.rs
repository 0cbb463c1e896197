//! What has to hold after all that: the books of the sale and of a sample of wallets, read through the API.

use std::sync::atomic::Ordering;

use boxoffice::rpc::proto;
use serde::Serialize;

use super::calls::{CONCERT, Calls};
use crate::{
    Failure,
    world::{self, CHARGE, PRICE, World},
};

/// How many wallets are looked into.
const SAMPLE: usize = 200;

/// Something that has to hold.
#[derive(Debug, Serialize)]
pub struct Check {
    /// In words.
    pub what: String,
    /// Whether it holds.
    pub holds: bool,
}

/// Checks the books of a sale to so many users.
pub async fn run(world: &World, calls: &Calls, users: usize) -> Result<Vec<Check>, Failure> {
    let stats = world.stats(CONCERT).await?;
    let (seats, money) = (calls.paid_seats.load(Ordering::Relaxed), calls.paid_money.load(Ordering::Relaxed));
    let check = |what: String, holds: bool| Check { what, holds };
    let mut checks = vec![
        check(format!("{} seats sold, {seats} paid for", stats.sold_seat_count), stats.sold_seat_count as u64 == seats),
        check(format!("revenue {}, payments {money}", stats.revenue), stats.revenue == money),
        check(format!("{} tokens issued to {users} users", stats.issued_count), stats.issued_count == users as i64),
        check(format!("{} tokens completed", stats.completed_count), stats.completed_count as u64 == seats),
    ];
    let (mut right, mut looked) = (0, 0);
    for index in (0..world.users.len()).step_by((world.users.len() / SAMPLE).max(1)) {
        looked += 1;
        right += usize::from(is_balanced(world, index).await?);
    }
    checks.push(check(format!("{right} of {looked} wallets hold charges less payments"), right == looked));
    Ok(checks)
}

async fn is_balanced(world: &World, index: usize) -> Result<bool, Failure> {
    let user_id = world.users[index].id.clone();
    let channel = world.channels[index % world.channels.len()].clone();
    let request = proto::GetBalanceRequest { user_id: user_id.clone() };
    let balance = world::wallets(channel.clone()).get_balance(request).await.map_err(world::told("GetBalance"))?;
    let request = proto::ListWalletEntriesRequest { user_id: user_id.clone(), ..Default::default() };
    let entries = world::wallets(channel.clone()).list_wallet_entries(request).await;
    let entries = entries.map_err(world::told("ListWalletEntries"))?.into_inner().entries;
    let request = proto::ListPaymentsRequest { user_id, ..Default::default() };
    let payments = world::payments(channel).list_payments(request).await.map_err(world::told("ListPayments"))?;
    let paid: i64 = payments.into_inner().payments.iter().map(|payment| payment.price).sum();
    let balance = balance.into_inner().balance;
    let booked: i64 = entries.iter().map(|entry| entry.amount).sum();
    Ok(balance == booked && balance == CHARGE - paid && paid <= PRICE)
}
