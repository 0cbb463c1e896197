//! The rule that a balance stays between 0 and the maximum of an `i64`, as a pure function.

use crate::rpc::Error;

/// Returns the new balance: the sum of `balance` and `amount`. A payment has a negative `amount`. All values are in the
/// smallest unit of the currency.
///
/// Fails with INSUFFICIENT_BALANCE if the sum is below 0. Fails with BALANCE_LIMIT_EXCEEDED if the sum does not fit
/// into an `i64`.
pub fn balance_after(balance: i64, amount: i64) -> Result<i64, Error> {
    match balance.checked_add(amount) {
        None => Err(Error::BalanceLimitExceeded { balance }),
        Some(..0) => Err(Error::InsufficientBalance { balance, price: -amount }),
        Some(after) => Ok(after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_adds_money_and_a_payment_subtracts_it() {
        assert_eq!(balance_after(0, 5).unwrap(), 5);
        assert_eq!(balance_after(5, -5).unwrap(), 0);
    }

    #[test]
    fn a_balance_never_goes_below_zero() {
        let error = balance_after(4, -5).unwrap_err();
        assert!(matches!(error, Error::InsufficientBalance { balance: 4, price: 5 }));
    }

    #[test]
    fn a_balance_never_exceeds_an_i64() {
        assert_eq!(balance_after(i64::MAX - 1, 1).unwrap(), i64::MAX);
        assert!(matches!(balance_after(i64::MAX, 1), Err(Error::BalanceLimitExceeded { .. })));
    }
}
