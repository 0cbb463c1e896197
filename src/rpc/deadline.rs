//! The deadline of a call: reads the caller's `grpc-timeout`, and runs a call until its deadline.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;

use super::error::Error;

tokio::task_local! {
    static CURRENT: Instant;
}

/// Maximum number of digits of a `grpc-timeout`, from the gRPC specification.
const MAX_DIGITS: usize = 8;

/// Returns the time until the deadline of the current call, or `None` outside of [`within`].
pub fn remaining() -> Option<Duration> {
    CURRENT.try_with(|deadline| deadline.saturating_duration_since(Instant::now())).ok()
}

/// Returns the caller's `grpc-timeout`, if there is one. Fails with INVALID_ARGUMENT if it is malformed.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let read = value.to_str().ok().and_then(parse);
    read.map(Some).ok_or_else(|| Error::invalid("grpc-timeout", "must be 1 to 8 digits and one of H, M, S, m, u, n"))
}

fn parse(text: &str) -> Option<Duration> {
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if amount.len() > MAX_DIGITS || !amount.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = amount.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Runs `call` until it ends. Fails with DEADLINE_EXCEEDED if `deadline` passes before the end of `call`. If `deadline`
/// has already passed, `call` is not started.
pub async fn within<F: Future>(deadline: Instant, call: F) -> Result<F::Output, Error> {
    if deadline <= Instant::now() {
        return Err(Error::DeadlineExceeded);
    }
    let mut call = pin!(CURRENT.scope(deadline, call));
    // A call that is answered from memory ends here, so it needs no timer.
    if let Poll::Ready(answer) = futures::poll!(call.as_mut()) {
        return Ok(answer);
    }
    let mut sleep = pin!(tokio::time::sleep_until(deadline));
    // Check the clock too, not only the timer. Timers of the same millisecond fire in any order, so another timer may
    // have woken this task first, for example the timer of tonic.
    poll_fn(|cx| match deadline <= Instant::now() || sleep.as_mut().poll(cx).is_ready() {
        true => Poll::Ready(Err(Error::DeadlineExceeded)),
        false => call.as_mut().poll(cx).map(Ok),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        for (text, expected) in [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("0m", Duration::ZERO),
            ("20u", Duration::from_micros(20)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(read(text).unwrap(), Some(expected), "{text}");
        }
        for bad in ["", "S", "1", "1s", "+1S", "-1S", "123456789S", "1.5S", "1 S", "\u{e4}"] {
            assert!(matches!(read(bad), Err(Error::InvalidArgument { .. })), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_not_started_after_its_deadline() {
        let deadline = Instant::now();
        let answer = within(deadline, async { panic!("it was started") }).await;
        assert!(matches!(answer, Err(Error::DeadlineExceeded)));
    }

    #[test]
    fn the_clock_decides_and_not_the_timer() {
        let deadline = Instant::now() + Duration::from_millis(5);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut call = pin!(within(deadline, std::future::pending::<()>()));
            assert!(futures::poll!(call.as_mut()).is_pending());
            // The test has one thread, so no timer fires during this sleep.
            std::thread::sleep(Duration::from_millis(10));
            assert!(matches!(futures::poll!(call), Poll::Ready(Err(Error::DeadlineExceeded))));
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_ends_at_its_deadline_and_knows_the_time_left() {
        assert_eq!(remaining(), None);
        let mut left = None;
        let started = Instant::now();
        let answer = within(started + Duration::from_millis(30), async {
            left = remaining();
            std::future::pending::<()>().await;
        });
        assert!(matches!(answer.await, Err(Error::DeadlineExceeded)));
        assert!(started.elapsed() >= Duration::from_millis(30));
        assert!(left.unwrap() <= Duration::from_millis(30));
    }
}
