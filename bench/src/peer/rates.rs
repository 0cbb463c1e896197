//! The rates of the writes, and the rate of whole tickets.

use serde::Serialize;

/// The rates of the writes, in correct answers per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    /// The rate of ChargeWallet.
    pub charge_wallet: f64,
    /// The rate of IssueToken.
    pub issue_token: f64,
    /// The rate of HoldSeats, with a different seat for each user.
    pub hold_seats: f64,
    /// The rate of Pay.
    pub pay: f64,
}

impl Rates {
    /// Returns the rate of whole tickets. A whole ticket is one IssueToken call, one HoldSeats call and one Pay call.
    ///
    /// This rate does not rise if one of the three operations becomes faster and another operation becomes slower by
    /// the same time.
    pub fn tickets(&self) -> f64 {
        1.0 / (1.0 / self.issue_token + 1.0 / self.hold_seats + 1.0 / self.pay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_takes_the_time_of_its_three_calls() {
        let rates = Rates { charge_wallet: 1.0, issue_token: 3.0, hold_seats: 3.0, pay: 3.0 };
        assert!((rates.tickets() - 1.0).abs() < 1e-9);
    }
}
