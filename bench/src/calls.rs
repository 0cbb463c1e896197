//! The measured calls. Each call checks its answer. IssueToken stores the token of the user for later calls. HoldSeats
//! for a user's own seat stores the id of the reservation for Pay.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use boxoffice::rpc::proto::{self, concert_service_client::ConcertServiceClient};
use prost::Message;
use testkit::PRICE;
use tonic::{Response, Status};

use crate::{
    load::{self, Call, Miss},
    world::{self, CHARGE, User},
};

/// The date on which each user holds a different seat.
pub const LARGE_DATE: &str = "2034-06-18";
/// The date whose seats are listed. Its venue is small.
pub const SMALL_DATE: &str = "2034-06-19";
/// The date on which all users of a round want the same seat.
pub const CONTESTED_DATE: &str = "2034-06-20";
/// Number of seats of the small venue.
pub const SMALL_SEATS: u32 = 50;

/// Creates the calls of users for one concert.
pub struct Calls {
    concert: String,
    users: Arc<Vec<Arc<User>>>,
    request_ids: bool,
    /// The number of paid seats in the answers of Pay.
    pub paid_seats: Arc<AtomicU64>,
    /// The sum of the prices in the answers of Pay.
    pub paid_money: Arc<AtomicI64>,
}

/// The sizes of one call of an operation, in bytes. The echo uses the same sizes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The size of the metadata with the token; 0 without a token.
    pub token: usize,
    /// The size of the request message.
    pub request: usize,
    /// The size of the response message. For an error, the size of its message and its details.
    pub reply: usize,
}

/// The sizes of the first call of one operation. Clones share the value.
#[derive(Clone, Default)]
pub struct Measure(Arc<OnceLock<Sizes>>);

impl Measure {
    /// Returns the sizes; `None` before the first answer.
    pub fn sizes(&self) -> Option<Sizes> {
        self.0.get().copied()
    }

    fn note<A: Message>(&self, (token, request): (usize, usize), answer: &Result<Response<A>, Status>) {
        self.0.get_or_init(|| {
            let reply = match answer {
                Ok(answer) => answer.get_ref().encoded_len(),
                // gRPC sends the details of an error in base64.
                Err(status) => status.message().len() + status.details().len().div_ceil(3) * 4,
            };
            Sizes { token, request, reply }
        });
    }
}

/// The users that got a contested seat. Clones share the list.
#[derive(Clone, Default)]
pub struct Winners(Arc<Mutex<Vec<(usize, String)>>>);

impl Winners {
    /// Removes all entries and returns them. An entry is the index of a user and the id of the user's reservation.
    pub fn take(&self) -> Vec<(usize, String)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Calls {
    /// Returns the calls of `users` for a concert. If `request_ids` is false, HoldSeats and Pay have no `request_id`.
    pub fn new(concert: &str, users: Arc<Vec<Arc<User>>>, request_ids: bool) -> Self {
        Self { concert: concert.to_owned(), users, request_ids, paid_seats: Arc::default(), paid_money: Arc::default() }
    }

    /// Returns the call of OpenWallet. The new wallet must be empty.
    pub fn open_wallet(&self, measure: &Measure) -> Call {
        let (users, measure) = (self.users.clone(), measure.clone());
        Call::new(move |channel, index| {
            let (users, measure) = (users.clone(), measure.clone());
            async move {
                let user_id = users[index].id.clone();
                let request = proto::OpenWalletRequest { user_id };
                let size = (0, request.encoded_len());
                let answer = world::wallets(channel).open_wallet(request).await;
                measure.note(size, &answer);
                let wallet = answer?.into_inner().wallet;
                let right = wallet.is_some_and(|wallet| wallet.user_id == users[index].id && wallet.balance == 0);
                right.then_some(()).ok_or_else(|| Miss::wrong("the wallet is not the empty wallet of the user"))
            }
        })
    }

    /// Returns the call of ChargeWallet. It must be the first charge of the wallet.
    pub fn charge_wallet(&self, measure: &Measure) -> Call {
        let (users, measure) = (self.users.clone(), measure.clone());
        Call::new(move |channel, index| {
            let (users, measure) = (users.clone(), measure.clone());
            async move {
                let user_id = users[index].id.clone();
                let request = proto::ChargeWalletRequest { user_id, amount: CHARGE, request_id: world::request_id() };
                let size = (0, request.encoded_len());
                let answer = world::wallets(channel).charge_wallet(request).await;
                measure.note(size, &answer);
                let balance = answer?.into_inner().balance;
                if balance == CHARGE { Ok(()) } else { Err(Miss::wrong("the balance is not the charged amount")) }
            }
        })
    }

    /// Returns the call of IssueToken. The call stores the token in the user.
    pub fn issue_token(&self, measure: &Measure) -> Call {
        let (concert, users, measure) = (self.concert.clone(), self.users.clone(), measure.clone());
        Call::new(move |channel, index| {
            let (concert, users, measure) = (concert.clone(), users.clone(), measure.clone());
            async move {
                let user = &users[index];
                let request = proto::IssueTokenRequest { concert_code: concert.clone(), user_id: user.id.clone() };
                let size = (0, request.encoded_len());
                let answer = world::queue(channel).issue_token(request).await;
                measure.note(size, &answer);
                let token = answer?.into_inner().token;
                user.keep_token(token.as_ref().filter(|token| token.user_id == user.id))
            }
        })
    }

    /// Returns the call of GetPosition. The token must be WAITING.
    pub fn get_position(&self, measure: &Measure) -> Call {
        let (concert, users, measure) = (self.concert.clone(), self.users.clone(), measure.clone());
        Call::new(move |channel, index| {
            let (concert, users, measure) = (concert.clone(), users.clone(), measure.clone());
            async move {
                let user = &users[index];
                let request = proto::GetPositionRequest { concert_code: concert.clone(), user_id: user.id.clone() };
                let size = (user.token_size(), request.encoded_len());
                let answer = world::queue(channel).get_position(user.request(request)).await;
                measure.note(size, &answer);
                let position = answer?.into_inner().position.unwrap_or_default();
                let waits = position.state() == proto::QueueState::Waiting && position.position > Some(0);
                if waits { Ok(()) } else { Err(Miss::wrong("the token does not wait")) }
            }
        })
    }

    /// Returns the call of ListPerformances. All three dates must have an AVAILABLE seat.
    pub fn list_performances(&self, measure: &Measure) -> Call {
        let (concert, users, measure) = (self.concert.clone(), self.users.clone(), measure.clone());
        Call::new(move |channel, index| {
            let (concert, users, measure) = (concert.clone(), users.clone(), measure.clone());
            async move {
                let user = &users[index];
                let request = proto::ListPerformancesRequest {
                    concert_code: concert.clone(),
                    user_id: user.id.clone(),
                    ..Default::default()
                };
                let size = (user.token_size(), request.encoded_len());
                let answer = ConcertServiceClient::new(channel).list_performances(user.request(request)).await;
                measure.note(size, &answer);
                let count = answer?.into_inner().performances.len();
                if count == 3 { Ok(()) } else { Err(Miss::wrong("the list does not have three dates")) }
            }
        })
    }

    /// Returns the call of ListSeats for [`SMALL_DATE`].
    pub fn list_seats(&self, measure: &Measure) -> Call {
        let (concert, users, measure) = (self.concert.clone(), self.users.clone(), measure.clone());
        Call::new(move |channel, index| {
            let (concert, users, measure) = (concert.clone(), users.clone(), measure.clone());
            async move {
                let user = &users[index];
                let request = proto::ListSeatsRequest {
                    concert_code: concert.clone(),
                    user_id: user.id.clone(),
                    date: SMALL_DATE.to_owned(),
                    ..Default::default()
                };
                let size = (user.token_size(), request.encoded_len());
                let answer = ConcertServiceClient::new(channel).list_seats(user.request(request)).await;
                measure.note(size, &answer);
                let count = answer?.into_inner().seats.len();
                if count == SMALL_SEATS as usize {
                    Ok(())
                } else {
                    Err(Miss::wrong("the list does not have all seats"))
                }
            }
        })
    }

    /// Returns the call of HoldSeats for a seat that no other user wants. The call stores the id of the reservation in
    /// the user.
    pub fn hold_own_seat(&self, measure: &Measure) -> Call {
        let (concert, users, measure) = (self.concert.clone(), self.users.clone(), measure.clone());
        let request_ids = self.request_ids;
        Call::new(move |channel, index| {
            let (concert, users, measure) = (concert.clone(), users.clone(), measure.clone());
            async move {
                let user = &users[index];
                let seat_number = index as i32 + 1;
                let request = hold(&concert, user, LARGE_DATE, seat_number, request_ids);
                let size = (user.token_size(), request.encoded_len());
                let answer = world::reservations(channel).hold_seats(user.request(request)).await;
                measure.note(size, &answer);
                let reservation = answer?.into_inner().reservation.unwrap_or_default();
                let right = reservation.seats.iter().map(|seat| seat.seat_number).eq([seat_number]);
                if !right || reservation.total_price != PRICE {
                    return Err(Miss::wrong("the reservation has another seat or price"));
                }
                // A retry returns the same reservation.
                let _ = user.reservation.set(reservation.reservation_id);
                Ok(())
            }
        })
    }

    /// Returns the call of HoldSeats for a seat that all users want. A hold and the error SEAT_HELD are both correct
    /// answers. `winners` records each hold. `measure` records only SEAT_HELD, the answer to almost every call.
    pub fn hold_contested_seat(&self, measure: &Measure, seat_number: i32, winners: &Winners) -> Call {
        let (concert, users, measure) = (self.concert.clone(), self.users.clone(), measure.clone());
        let request_ids = self.request_ids;
        let winners = winners.clone();
        Call::new(move |channel, index| {
            let (concert, users, measure, winners) = (concert.clone(), users.clone(), measure.clone(), winners.clone());
            async move {
                let user = &users[index];
                let request = hold(&concert, user, CONTESTED_DATE, seat_number, request_ids);
                let size = (user.token_size(), request.encoded_len());
                let answer = world::reservations(channel).hold_seats(user.request(request)).await;
                match answer {
                    Ok(answer) => {
                        let reservation = answer.into_inner().reservation.unwrap_or_default();
                        let mut winners = winners.0.lock().unwrap_or_else(|e| e.into_inner());
                        winners.push((index, reservation.reservation_id));
                        Ok(())
                    }
                    Err(status) if load::reason(&status) == "SEAT_HELD" => {
                        measure.note(size, &Err::<Response<proto::HoldSeatsResponse>, _>(status));
                        Ok(())
                    }
                    Err(status) => Err(status.into()),
                }
            }
        })
    }

    /// Returns the call of Pay for the reservation that the user stored.
    pub fn pay(&self, measure: &Measure) -> Call {
        let (users, measure) = (self.users.clone(), measure.clone());
        let request_ids = self.request_ids;
        let (paid_seats, paid_money) = (self.paid_seats.clone(), self.paid_money.clone());
        Call::new(move |channel, index| {
            let (users, measure) = (users.clone(), measure.clone());
            let (paid_seats, paid_money) = (paid_seats.clone(), paid_money.clone());
            async move {
                let user = &users[index];
                let request = proto::PayRequest {
                    user_id: user.id.clone(),
                    reservation_id: user.reservation.get().cloned().unwrap_or_default(),
                    request_id: if request_ids { world::request_id() } else { String::new() },
                };
                let size = (user.token_size(), request.encoded_len());
                let answer = world::payments(channel).pay(user.request(request)).await;
                measure.note(size, &answer);
                let payment = answer?.into_inner().payment.unwrap_or_default();
                paid_seats.fetch_add(payment.seat_numbers.len() as u64, Ordering::Relaxed);
                paid_money.fetch_add(payment.price, Ordering::Relaxed);
                let right = payment.state() == proto::PaymentState::Paid
                    && payment.price == PRICE
                    && Some(&payment.reservation_id) == user.reservation.get();
                if right { Ok(()) } else { Err(Miss::wrong("the payment has another reservation, price or state")) }
            }
        })
    }
}

fn hold(concert: &str, user: &User, date: &str, seat_number: i32, with_request_id: bool) -> proto::HoldSeatsRequest {
    proto::HoldSeatsRequest {
        concert_code: concert.to_owned(),
        user_id: user.id.clone(),
        date: date.to_owned(),
        seat_numbers: vec![seat_number],
        request_id: if with_request_id { world::request_id() } else { String::new() },
        best_available: None,
    }
}
