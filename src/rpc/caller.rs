//! The caller of a call: the name of its API key.

use std::sync::Arc;

tokio::task_local! {
    static CURRENT: Caller;
}

/// The name of the API key of a call. `None` if the call has no API key, or if the server itself does the work.
pub type Caller = Option<Arc<str>>;

/// Returns the caller of the current call. Returns `None` outside of [`with_caller`].
pub fn caller() -> Caller {
    CURRENT.try_with(Caller::clone).ok().flatten()
}

/// Runs `call`, during which [`caller`] returns `caller`.
pub fn with_caller<F: Future>(caller: Caller, call: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(caller, call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_knows_its_caller_and_other_work_has_none() {
        assert_eq!(caller(), None);
        let inside = with_caller(Some("shop".into()), async { caller() }).await;
        assert_eq!(inside.as_deref(), Some("shop"));
        assert_eq!(with_caller(None, async { caller() }).await, None);
    }
}
