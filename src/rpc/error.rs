//! Defines the errors of a call, and maps each error to a gRPC status with details.
//!
//! Each message says what is wrong, then what to do. A message never holds SQL, a path or a secret. The cause of an
//! internal error is logged here, once per failed call. Callers do not see the cause.

use std::{collections::HashMap, sync::Arc, time::Duration};

use thiserror::Error as ThisError;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use uuid::Uuid;

use super::proto::{self, ErrorReason};
use crate::clock::Micros;

/// The trailer that tells gRPC clients when to retry, or not to retry (gRFC A6).
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// The `domain` of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "boxoffice";

/// The fixed retry delay of the UNAVAILABLE errors. The other retry delays are computed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Maximum number of violations or seat numbers in one status. Some clients fail on details of more than about 8 KB.
const MAX_VIOLATIONS: usize = 20;

/// An error of a call. Each variant has an [`ErrorReason`], which the caller sees. A few variants share a reason.
#[derive(Debug, Clone, ThisError)]
#[allow(missing_docs, reason = "the documentation of a variant is on its ErrorReason")]
pub enum Error {
    #[error("there is no concert {concert_code:?}; ListConcerts returns the codes of all concerts")]
    ConcertNotFound { concert_code: String },
    #[error("user {user_id} has no wallet; open one with OpenWallet")]
    UserNotFound { user_id: String },
    #[error("concert {concert_code} has no performance on {date}; choose a date that ListPerformances returns")]
    PerformanceNotFound { concert_code: String, date: String },
    #[error("the venue does not have these seats: {}; choose seat numbers from 1 to {seat_count}", list(seat_numbers))]
    SeatNotFound { seat_numbers: Vec<i32>, seat_count: i32 },
    #[error("the user has no reservation {reservation_id}; ListReservations returns the reservations of the user")]
    ReservationNotFound { reservation_id: String },
    #[error("the user has no payment {payment_id}; ListPayments returns the payments of the user")]
    PaymentNotFound { payment_id: String },
    #[error("there is no venue {venue_id:?}; create it with CreateVenue")]
    VenueNotFound { venue_id: String },

    #[error("concert {concert_code} has no draw, because its admission order is FIRST_COME; see GetConcert")]
    DrawNotFound { concert_code: String },

    #[error("these seats are sold: {}; choose seats that ListSeats shows as AVAILABLE", list(seat_numbers))]
    SeatSold { seat_numbers: Vec<i32> },
    #[error(
        "these seats are in another hold: {}; choose other seats, or retry when that hold ends (see RetryInfo)",
        list(seat_numbers)
    )]
    SeatHeld { seat_numbers: Vec<i32>, retry_after: Duration },
    #[error(
        "your hold {reservation_id} has these seats: {}; choose other seats, or release the hold first with \
         ReleaseReservation",
        list(seat_numbers)
    )]
    SeatHeldByCaller { seat_numbers: Vec<i32>, reservation_id: String, retry_after: Duration },
    #[error("{concert_code} on {date} is not on sale any more; choose another date (ListPerformances)")]
    SaleClosed { concert_code: String, date: String, sale_end_time: Micros },
    #[error(
        "the concert allows {seats_per_user_limit} seats per user and the user already has {seat_count}; request \
         fewer seats, or release some first"
    )]
    SeatLimitExceeded { seats_per_user_limit: i32, seat_count: i32 },
    #[error(
        "no row has enough adjacent free seats, although {available} seats are free; request fewer seats, or set \
         `together` to false"
    )]
    NoSeatsTogether { available: i32 },
    #[error(
        "only {available} seats are free; request fewer seats, or choose another section, a higher price or another \
         date"
    )]
    NotEnoughSeats { available: i32 },
    #[error("the token or the reservation holds no seats; hold seats with HoldSeats first")]
    NoHeldSeat,
    #[error(
        "the hold was already extended {extension_limit} times, which is the maximum; pay it with Pay before it ends"
    )]
    ExtensionLimitExceeded { reservation_id: String, extension_limit: i32 },
    #[error("the hold ended unpaid at {}; hold the seats again with HoldSeats", proto::rfc3339(*expire_time))]
    HoldExpired { reservation_id: String, expire_time: Micros },

    #[error(
        "a queue token is required; send the metadata `authorization: Bearer <token>` with a token from IssueToken"
    )]
    TokenMissing,
    #[error(
        "the queue token is not valid; send it exactly as IssueToken returned it, or take a new one with IssueToken"
    )]
    TokenInvalid,
    #[error("the queue token belongs to another user; send the token of the `user_id` in the request")]
    TokenUserMismatch,
    #[error("the queue token is for concert {concert_code}; send the token of the concert that the request names")]
    TokenConcertMismatch { concert_code: String },
    #[error("queue number {queue_number} is still waiting; call GetPosition until the state is ACTIVE (see RetryInfo)")]
    NotAdmitted { queue_number: i64, retry_after: Duration },
    #[error("the admission has ended; take a new token with IssueToken")]
    TokenExpired,
    #[error("the token is used up, because its seats are paid; take a new token with IssueToken to buy more seats")]
    TokenCompleted,
    #[error("the token has left the queue; take a new token with IssueToken")]
    TokenLeft,

    #[error("an API key is required; send it as the metadata `x-api-key`")]
    CredentialMissing,
    #[error("the API key is unknown; send it exactly as it was issued, or ask the operator for a new one")]
    CredentialInvalid,
    #[error("the API key {api_key_name} does not have the admin right; use an API key that has it")]
    AdminRightMissing { api_key_name: String },
    #[error("the API key {api_key_name} may not call this service; use an API key with the right for the service")]
    RightMissing { api_key_name: String },

    #[error(
        "the events up to number {} were deleted; read their changes with the other services, then continue with \
         this number as after_event_number",
        oldest_event_number - 1
    )]
    EventsCompacted { oldest_event_number: i64 },

    #[error("the wallet holds {balance} and the price is {price}; charge it with ChargeWallet")]
    InsufficientBalance { balance: i64, price: i64 },
    #[error("the wallet holds {balance} and cannot hold more than {} in total; use a smaller amount", i64::MAX)]
    BalanceLimitExceeded { balance: i64 },

    #[error(
        "the performance started at {}; a payment can be refunded only before the start",
        proto::rfc3339(*start_time)
    )]
    RefundClosed { payment_id: String, start_time: Micros },

    #[error(
        "concert {concert_code} opened at {}, so its draw and its open_time cannot change; to stop the admission, set \
         `paused`",
        proto::rfc3339(*open_time)
    )]
    DrawHeld { concert_code: String, open_time: Micros },

    #[error("request_id {request_id} was already used for a different request; use a new UUID for each request")]
    RequestIdConflict { request_id: String },
    #[error("{what} already exists; use it, or choose another code, id or date")]
    AlreadyExists { what: String },
    #[error("{}", violations_message(violations))]
    InvalidArgument { violations: Vec<Violation> },

    #[error("the server is overloaded and did nothing; retry after the delay in RetryInfo")]
    Overloaded { retry_after: Duration },
    #[error("the deadline of the call has passed; set a longer deadline, and retry a write with the same request_id")]
    DeadlineExceeded,
    #[error(
        "unknown method or unsupported compression; list the methods with server reflection, or send the request \
         uncompressed"
    )]
    Unimplemented,
    #[error(
        "the database is unavailable; retry after the delay in RetryInfo, with the same request_id if there is one"
    )]
    StorageUnavailable,
    #[error(
        "the connection to the database broke during the commit; retry with the same request_id, or check the result \
         with a read call first"
    )]
    OutcomeUnknown { may_retry: bool },
    #[error("the server is shutting down; retry on a new connection after the delay in RetryInfo")]
    ShuttingDown,
    #[error("internal error; it was logged")]
    Internal(Arc<dyn std::error::Error + Send + Sync>),
}

/// An invalid field and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, such as `sections[0].name`.
    pub field: String,
    /// The rule, as the rest of a sentence that starts with the field: "must be above 0".
    pub description: String,
}

impl Error {
    /// Returns an internal error. The conversion to a status logs `cause`, but the caller does not see it.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(Arc::from(cause.into()))
    }

    /// Returns an INVALID_ARGUMENT error with one violation.
    pub fn invalid(field: &str, description: impl Into<String>) -> Self {
        let violation = Violation { field: field.to_owned(), description: description.into() };
        Self::InvalidArgument { violations: vec![violation] }
    }

    /// Returns the gRPC code and the reason that `error_reason.proto` documents for this error.
    pub fn code_and_reason(&self) -> (Code, ErrorReason) {
        use ErrorReason as R;
        match self {
            Self::ConcertNotFound { .. } => (Code::NotFound, R::ConcertNotFound),
            Self::UserNotFound { .. } => (Code::NotFound, R::UserNotFound),
            Self::PerformanceNotFound { .. } => (Code::NotFound, R::PerformanceNotFound),
            Self::SeatNotFound { .. } => (Code::NotFound, R::SeatNotFound),
            Self::ReservationNotFound { .. } => (Code::NotFound, R::ReservationNotFound),
            Self::PaymentNotFound { .. } => (Code::NotFound, R::PaymentNotFound),
            Self::VenueNotFound { .. } => (Code::NotFound, R::VenueNotFound),
            Self::DrawNotFound { .. } => (Code::NotFound, R::DrawNotFound),
            Self::SeatSold { .. } => (Code::FailedPrecondition, R::SeatSold),
            Self::SeatHeld { .. } | Self::SeatHeldByCaller { .. } => (Code::FailedPrecondition, R::SeatHeld),
            Self::SaleClosed { .. } => (Code::FailedPrecondition, R::SaleClosed),
            Self::SeatLimitExceeded { .. } => (Code::FailedPrecondition, R::SeatLimitExceeded),
            Self::NoSeatsTogether { .. } => (Code::FailedPrecondition, R::NoSeatsTogether),
            Self::NotEnoughSeats { .. } => (Code::FailedPrecondition, R::NotEnoughSeats),
            Self::NoHeldSeat => (Code::FailedPrecondition, R::NoHeldSeat),
            Self::HoldExpired { .. } => (Code::FailedPrecondition, R::HoldExpired),
            Self::ExtensionLimitExceeded { .. } => (Code::FailedPrecondition, R::ExtensionLimitExceeded),
            Self::TokenMissing => (Code::Unauthenticated, R::TokenMissing),
            Self::TokenInvalid => (Code::Unauthenticated, R::TokenInvalid),
            Self::TokenUserMismatch => (Code::PermissionDenied, R::TokenUserMismatch),
            Self::TokenConcertMismatch { .. } => (Code::PermissionDenied, R::TokenConcertMismatch),
            Self::NotAdmitted { .. } => (Code::FailedPrecondition, R::NotAdmitted),
            Self::TokenExpired => (Code::FailedPrecondition, R::TokenExpired),
            Self::TokenCompleted => (Code::FailedPrecondition, R::TokenCompleted),
            Self::TokenLeft => (Code::FailedPrecondition, R::TokenLeft),
            Self::CredentialMissing => (Code::Unauthenticated, R::CredentialMissing),
            Self::CredentialInvalid => (Code::Unauthenticated, R::CredentialInvalid),
            Self::AdminRightMissing { .. } => (Code::PermissionDenied, R::AdminRightMissing),
            Self::RightMissing { .. } => (Code::PermissionDenied, R::RightMissing),
            Self::EventsCompacted { .. } => (Code::OutOfRange, R::EventsCompacted),
            Self::InsufficientBalance { .. } => (Code::FailedPrecondition, R::InsufficientBalance),
            Self::BalanceLimitExceeded { .. } => (Code::FailedPrecondition, R::BalanceLimitExceeded),
            Self::RefundClosed { .. } => (Code::FailedPrecondition, R::RefundClosed),
            Self::DrawHeld { .. } => (Code::FailedPrecondition, R::DrawHeld),
            Self::RequestIdConflict { .. } => (Code::AlreadyExists, R::RequestIdConflict),
            Self::AlreadyExists { .. } => (Code::AlreadyExists, R::AlreadyExists),
            Self::InvalidArgument { .. } => (Code::InvalidArgument, R::InvalidArgument),
            Self::Overloaded { .. } => (Code::ResourceExhausted, R::Overloaded),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, R::DeadlineExceeded),
            Self::Unimplemented => (Code::Unimplemented, R::Unimplemented),
            Self::StorageUnavailable | Self::OutcomeUnknown { .. } => (Code::Unavailable, R::StorageUnavailable),
            Self::ShuttingDown => (Code::Unavailable, R::ShuttingDown),
            Self::Internal(_) => (Code::Internal, R::Internal),
        }
    }

    /// Returns the metadata of `ErrorInfo`. Its keys are documented on each [`ErrorReason`].
    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::ConcertNotFound { concert_code }
            | Self::DrawNotFound { concert_code }
            | Self::TokenConcertMismatch { concert_code } => {
                vec![("concert_code", concert_code.clone())]
            }
            Self::DrawHeld { concert_code, open_time } => {
                vec![("concert_code", concert_code.clone()), ("open_time", proto::rfc3339(*open_time))]
            }
            Self::UserNotFound { user_id } => vec![("user_id", user_id.clone())],
            Self::PerformanceNotFound { concert_code, date } => {
                vec![("concert_code", concert_code.clone()), ("date", date.clone())]
            }
            Self::SeatNotFound { seat_numbers, seat_count } => {
                vec![("seat_numbers", list(seat_numbers)), ("seat_count", seat_count.to_string())]
            }
            Self::ReservationNotFound { reservation_id } => {
                vec![("reservation_id", reservation_id.clone())]
            }
            Self::PaymentNotFound { payment_id } => vec![("payment_id", payment_id.clone())],
            Self::VenueNotFound { venue_id } => vec![("venue_id", venue_id.clone())],
            Self::SeatSold { seat_numbers } | Self::SeatHeld { seat_numbers, .. } => {
                vec![("seat_numbers", list(seat_numbers))]
            }
            Self::SeatLimitExceeded { seats_per_user_limit, seat_count } => {
                vec![("seats_per_user_limit", seats_per_user_limit.to_string()), ("seat_count", seat_count.to_string())]
            }
            Self::NoSeatsTogether { available } | Self::NotEnoughSeats { available } => {
                vec![("available", available.to_string())]
            }
            Self::HoldExpired { reservation_id, expire_time } => {
                vec![("reservation_id", reservation_id.clone()), ("expire_time", proto::rfc3339(*expire_time))]
            }
            Self::ExtensionLimitExceeded { reservation_id, extension_limit } => {
                vec![("reservation_id", reservation_id.clone()), ("extension_limit", extension_limit.to_string())]
            }
            Self::SeatHeldByCaller { seat_numbers, reservation_id, .. } => {
                vec![("seat_numbers", list(seat_numbers)), ("reservation_id", reservation_id.clone())]
            }
            Self::SaleClosed { concert_code, date, sale_end_time } => vec![
                ("concert_code", concert_code.clone()),
                ("date", date.clone()),
                ("sale_end_time", proto::rfc3339(*sale_end_time)),
            ],
            Self::RefundClosed { payment_id, start_time } => {
                vec![("payment_id", payment_id.clone()), ("start_time", proto::rfc3339(*start_time))]
            }
            Self::NotAdmitted { queue_number, .. } => {
                vec![("queue_number", queue_number.to_string())]
            }
            Self::InsufficientBalance { balance, price } => {
                vec![("balance", balance.to_string()), ("price", price.to_string())]
            }
            Self::BalanceLimitExceeded { balance } => vec![("balance", balance.to_string())],
            Self::AdminRightMissing { api_key_name } | Self::RightMissing { api_key_name } => {
                vec![("api_key_name", api_key_name.clone())]
            }
            Self::EventsCompacted { oldest_event_number } => {
                vec![("oldest_event_number", oldest_event_number.to_string())]
            }
            Self::RequestIdConflict { request_id } => vec![("request_id", request_id.clone())],
            _ => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::SeatHeld { retry_after, .. }
            | Self::SeatHeldByCaller { retry_after, .. }
            | Self::NotAdmitted { retry_after, .. }
            | Self::Overloaded { retry_after } => Some(*retry_after),
            Self::StorageUnavailable | Self::OutcomeUnknown { .. } | Self::ShuttingDown => Some(RETRY_DELAY),
            _ => None,
        }
    }
}

impl Error {
    /// Marks an OutcomeUnknown error as safe to retry only if the write had a `request_id`. Without a `request_id`, a
    /// retry could apply the write twice. Returns other errors unchanged.
    pub fn of_request(self, request_id: Option<Uuid>) -> Self {
        match self {
            Self::OutcomeUnknown { .. } => Self::OutcomeUnknown { may_retry: request_id.is_some() },
            known => known,
        }
    }

    /// Returns the value of the trailer `grpc-retry-pushback-ms` (gRFC A6): the retry delay in milliseconds, or -1 to
    /// forbid retries.
    ///
    /// OVERLOADED and SHUTTING_DOWN have a delay, because the server did nothing. A write with an unknown outcome and
    /// without a `request_id` must not be retried. For all other errors the client uses its own retry policy.
    fn retry_pushback(&self) -> Option<i64> {
        match self {
            Self::Overloaded { .. } | Self::ShuttingDown => {
                self.retry_after().map(|delay| i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
            }
            Self::OutcomeUnknown { may_retry: false } => Some(-1),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason) = error.code_and_reason();
        if let Error::Internal(cause) = &error {
            tracing::error!(%cause, "internal error in a call");
        }
        let name = reason.as_str_name();
        let reason = name.strip_prefix("ERROR_REASON_").unwrap_or(name);
        let info: HashMap<String, String> =
            error.metadata().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, info);
        if let Some(delay) = error.retry_after() {
            details.set_retry_info(Some(delay));
        }
        if let Error::InvalidArgument { violations } = &error {
            let violations: Vec<FieldViolation> =
                violations.iter().take(MAX_VIOLATIONS).map(|v| FieldViolation::new(&v.field, &v.description)).collect();
            details.set_bad_request(violations);
        }
        let mut metadata = MetadataMap::new();
        if let Some(pushback) = error.retry_pushback() {
            metadata.insert(RETRY_PUSHBACK, pushback.into());
        }
        Status::with_error_details_and_metadata(code, error.to_string(), details, metadata)
    }
}

fn list(numbers: &[i32]) -> String {
    let numbers: Vec<String> = numbers.iter().take(MAX_VIOLATIONS).map(i32::to_string).collect();
    numbers.join(",")
}

fn violations_message(violations: &[Violation]) -> String {
    let violations: Vec<String> =
        violations.iter().take(MAX_VIOLATIONS).map(|v| format!("{} {}", v.field, v.description)).collect();
    violations.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushback(error: Error) -> Option<String> {
        let status = Status::from(error);
        status.metadata().get(RETRY_PUSHBACK).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_refusal_without_effect_says_when_to_retry() {
        assert_eq!(pushback(Error::Overloaded { retry_after: Duration::from_millis(750) }), Some("750".into()));
        assert_eq!(pushback(Error::ShuttingDown), Some("1000".into()));
    }

    #[test]
    fn a_write_of_unknown_outcome_is_retried_only_with_its_request_id() {
        let unknown = || Error::OutcomeUnknown { may_retry: true };
        assert_eq!(pushback(unknown().of_request(None)), Some("-1".into()));
        assert_eq!(pushback(unknown().of_request(Some(Uuid::nil()))), None);
        assert_eq!(pushback(Error::StorageUnavailable.of_request(None)), None);
        let status = Status::from(unknown().of_request(None));
        assert_eq!(status.get_details_error_info().unwrap().reason, "STORAGE_UNAVAILABLE");
    }

    #[test]
    fn not_admitted_seat_held_and_token_missing_have_no_pushback() {
        let retry_after = Duration::from_secs(2);
        assert_eq!(pushback(Error::NotAdmitted { queue_number: 1, retry_after }), None);
        assert_eq!(pushback(Error::SeatHeld { seat_numbers: vec![1], retry_after }), None);
        assert_eq!(pushback(Error::TokenMissing), None);
    }
}
