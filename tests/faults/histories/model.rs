//! A model of a sale that processes one call after the other. A sequence of such calls must explain each history of
//! concurrent calls.

use stateright::semantics::SequentialSpec;

/// Number of users in one history.
pub const USERS: usize = 3;
/// Number of seats in one history.
pub const SEATS: usize = 2;
/// The price of a seat.
pub const PRICE: i64 = testkit::PRICE;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Charge { user: usize, amount: i64 },
    Balance { user: usize },
    Hold { user: usize, seat: usize },
    Pay { user: usize },
    Leave { user: usize },
    Seats { user: usize },
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Balance(i64),
    Seats([Seat; SEATS]),
    Refused(String),
}

/// The state of a seat in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    Available,
    Held,
    Sold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Active,
    Completed,
    Left,
}

/// The state of the model: wallets, tokens and seats.
#[derive(Debug, Clone)]
pub struct Sale {
    balances: [i64; USERS],
    tokens: [Token; USERS],
    /// The user that holds or owns each seat, and whether the seat is paid; `None` if the seat is available.
    seats: [Option<(usize, bool)>; SEATS],
}

impl Default for Sale {
    fn default() -> Self {
        Self { balances: [0; USERS], tokens: [Token::Active; USERS], seats: [None; SEATS] }
    }
}

impl SequentialSpec for Sale {
    type Op = Op;
    type Ret = Answer;

    fn invoke(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Charge { user, amount } => {
                self.balances[user] += amount;
                Answer::Balance(self.balances[user])
            }
            Op::Balance { user } => Answer::Balance(self.balances[user]),
            Op::Hold { user, seat } => answer(self.hold(user, seat)),
            Op::Pay { user } => answer(self.pay(user)),
            Op::Leave { user } => {
                self.leave(user);
                Answer::Done
            }
            Op::Seats { user } => self.admitted(user).map_or_else(refused, |()| self.look()),
        }
    }

    /// ListSeats checks the admission before it reads the seats. The admission may end between these two steps, so a
    /// list of seats is valid even if the token has ended.
    fn is_valid_step(&mut self, op: &Op, answer: &Answer) -> bool {
        match (op, answer) {
            (Op::Seats { .. }, Answer::Seats(_)) => self.look() == *answer,
            _ => self.invoke(op) == *answer,
        }
    }
}

impl Sale {
    fn hold(&mut self, user: usize, seat: usize) -> Result<(), &'static str> {
        self.admitted(user)?;
        if self.seats[seat] == Some((user, false)) {
            return Ok(());
        }
        if self.held(user).is_some() {
            return Err("SEAT_LIMIT_EXCEEDED");
        }
        match self.seats[seat] {
            None => self.seats[seat] = Some((user, false)),
            Some((_, false)) => return Err("SEAT_HELD"),
            Some((_, true)) => return Err("SEAT_SOLD"),
        }
        Ok(())
    }

    fn pay(&mut self, user: usize) -> Result<(), &'static str> {
        if self.tokens[user] == Token::Completed {
            return Ok(());
        }
        self.admitted(user)?;
        let seat = self.held(user).ok_or("NO_HELD_SEAT")?;
        if self.balances[user] < PRICE {
            return Err("INSUFFICIENT_BALANCE");
        }
        self.balances[user] -= PRICE;
        self.seats[seat] = Some((user, true));
        self.tokens[user] = Token::Completed;
        Ok(())
    }

    fn leave(&mut self, user: usize) {
        if self.tokens[user] == Token::Active {
            self.tokens[user] = Token::Left;
            if let Some(seat) = self.held(user) {
                self.seats[seat] = None;
            }
        }
    }

    fn admitted(&self, user: usize) -> Result<(), &'static str> {
        match self.tokens[user] {
            Token::Active => Ok(()),
            Token::Completed => Err("TOKEN_COMPLETED"),
            Token::Left => Err("TOKEN_LEFT"),
        }
    }

    fn held(&self, user: usize) -> Option<usize> {
        self.seats.iter().position(|seat| *seat == Some((user, false)))
    }

    fn look(&self) -> Answer {
        Answer::Seats(self.seats.map(|seat| match seat {
            None => Seat::Available,
            Some((_, false)) => Seat::Held,
            Some((_, true)) => Seat::Sold,
        }))
    }
}

fn answer(done: Result<(), &'static str>) -> Answer {
    done.map_or_else(refused, |()| Answer::Done)
}

fn refused(reason: &str) -> Answer {
    Answer::Refused(reason.to_owned())
}
