//! The load: visitors that charge wallets, join the queue, and hold, release, pay and refund seats. If the result of a
//! call with a `request_id` is unknown, the visitor retries it with the same `request_id`, at most 3 times.

use std::{future::Future, sync::Arc, time::Duration};

use boxoffice::rpc::proto::QueueState;
use rand::{Rng, SeedableRng, rngs::StdRng};
use testkit::{Caller, PRICE, wallet};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use uuid::Uuid;

use super::{
    book::{Book, Fact, Promise, Wish, is_refusal},
    lab::Lab,
    site::{CONCERT, DATE},
};

/// Maximum number of retries of a call with a `request_id`.
const RETRIES: usize = 3;
/// Number of seats of the concert. The visitors buy fewer seats even in the longest run.
pub const SEATS: i32 = 100_000;

/// Visitors that buy seats until [`Crowd::leave`] is called.
pub struct Crowd {
    leaving: CancellationToken,
    visitors: JoinSet<()>,
}

impl Crowd {
    /// Starts `size` visitors. Each call uses a random channel of `doors`. The concert [`CONCERT`] must have [`SEATS`]
    /// seats.
    pub fn gather(lab: &Lab, doors: &[Channel], size: usize, book: &Arc<Book>) -> Self {
        let (leaving, mut visitors) = (CancellationToken::new(), JoinSet::new());
        for number in 0..size {
            let random = StdRng::seed_from_u64(lab.seed.wrapping_add(number as u64));
            let mut visitor = Visitor { doors: doors.to_vec(), random, book: book.clone() };
            let leaving = leaving.clone();
            visitors.spawn(async move { visitor.stay(&leaving).await });
        }
        Self { leaving, visitors }
    }

    /// Stops the visitors and waits for them. A visitor first finishes its visit, unless it waits in the queue.
    pub async fn leave(mut self) {
        self.leaving.cancel();
        while let Some(visitor) = self.visitors.join_next().await {
            visitor.expect("a visitor");
        }
    }
}

struct Visitor {
    doors: Vec<Channel>,
    random: StdRng,
    book: Arc<Book>,
}

impl Visitor {
    /// Makes one visit after another until `leaving` is cancelled. After a failed call the visitor continues as a new
    /// user, because it does not know the holds of the old user.
    async fn stay(&mut self, leaving: &CancellationToken) {
        let mut user_id = None;
        while !leaving.is_cancelled() {
            let door = self.door();
            let visit = async {
                let id = match user_id {
                    Some(id) => id,
                    None => self.open_wallet(&door).await?,
                };
                self.buy(id, leaving).await.map(|()| id)
            };
            user_id = visit.await.ok();
            if user_id.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn open_wallet(&self, door: &Channel) -> Result<Uuid, Status> {
        let user_id = self.book.look(wallet::open_new(door, 0)).await?;
        self.book.keep(Promise::Wallet { user_id });
        Ok(user_id)
    }

    /// Makes one visit: charges the wallet, joins the queue, holds seats, then releases or pays them, and may refund
    /// the payment. Returns the error of the first call that fails, after its retries if it has any.
    async fn buy(&mut self, user_id: Uuid, leaving: &CancellationToken) -> Result<(), Status> {
        let amount = self.random.random_range(1..5) * PRICE;
        self.settle(Wish::Charge { user_id, amount }, |door, request_id| async move {
            wallet::charge(&door, user_id, amount, &request_id).await.map(Fact::from)
        })
        .await?;
        let door = self.door();
        let caller = self.book.look(Caller::join(door, CONCERT, user_id)).await?;
        self.book.keep(Promise::Place { user_id, queue_number: caller.queue_number });
        while self.is_waiting(&caller).await? {
            if leaving.is_cancelled() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let reservation_id = self.hold(&caller).await?;
        if self.random.random_bool(0.2) {
            let release = caller.via(self.door());
            self.book.look(release.release(&reservation_id.to_string())).await?;
            self.book.keep(Promise::Released { reservation_id });
            return Ok(());
        }
        let payment_id = self.pay(&caller, reservation_id).await?;
        if self.random.random_bool(0.6) {
            self.settle(Wish::Refund { payment_id }, |door, request_id| {
                let caller = caller.via(door);
                async move { caller.refund_as(&payment_id.to_string(), &request_id).await.map(|_| Fact::Refunded) }
            })
            .await?;
        }
        Ok(())
    }

    async fn is_waiting(&mut self, caller: &Caller) -> Result<bool, Status> {
        let caller = caller.via(self.door());
        Ok(self.book.look(caller.position()).await?.state() == QueueState::Waiting)
    }

    async fn hold(&mut self, caller: &Caller) -> Result<Uuid, Status> {
        let first = self.random.random_range(1..SEATS);
        let seat_numbers = if self.random.random_bool(0.5) { vec![first] } else { vec![first, first + 1] };
        let wish = Wish::Hold { user_id: caller.uuid(), seat_numbers: seat_numbers.clone() };
        let held = self.settle(wish, |door, request_id| {
            let (caller, seat_numbers) = (caller.via(door), seat_numbers.clone());
            async move { caller.hold_as(DATE, &seat_numbers, &request_id).await.map(Fact::from) }
        });
        match held.await? {
            Fact::Held { reservation_id } => Ok(reservation_id),
            other => unreachable!("the answer to a hold is {other:?}"),
        }
    }

    async fn pay(&mut self, caller: &Caller, reservation_id: Uuid) -> Result<Uuid, Status> {
        let paid = self.settle(Wish::Pay { user_id: caller.uuid() }, |door, request_id| {
            let caller = caller.via(door);
            async move { caller.pay_as(&reservation_id.to_string(), &request_id).await.map(Fact::from) }
        });
        match paid.await? {
            Fact::Paid { payment_id } => Ok(payment_id),
            other => unreachable!("the answer to a payment is {other:?}"),
        }
    }

    /// Makes a call, and retries it until its result is known or no retries are left.
    async fn settle<F>(&mut self, wish: Wish, call: impl Fn(Channel, String) -> F) -> Result<Fact, Status>
    where
        F: Future<Output = Result<Fact, Status>>,
    {
        let request_id = Uuid::now_v7();
        let mut retries = 0;
        loop {
            let door = self.door();
            let answer = self.book.ask(request_id, wish.clone(), call(door, request_id.to_string())).await;
            match &answer {
                Err(status) if !is_refusal(status) && retries < RETRIES => retries += 1,
                _ => return answer,
            }
            tokio::time::sleep(Duration::from_millis(self.random.random_range(5..50))).await;
        }
    }

    fn door(&mut self) -> Channel {
        let door = self.random.random_range(0..self.doors.len());
        self.doors[door].clone()
    }
}
