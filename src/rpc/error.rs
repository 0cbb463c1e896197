//! The errors of calls, and their only mapping to a gRPC status with details.
//!
//! The message of an error tells the caller what to do. It never holds SQL, a path or a secret. The cause of an
//! internal error is logged here, once, and is not sent.

use std::{collections::HashMap, sync::Arc, time::Duration};

use thiserror::Error as ThisError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::proto::{self, ErrorReason};
use crate::clock::Micros;

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "boxoffice";

/// The retry delay after a failure of the server that is expected to pass.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Maximum number of violations in the details. Details above about 8 KB break some clients.
const MAX_VIOLATIONS: usize = 20;

/// An error as callers see it: one variant per [`ErrorReason`].
#[derive(Debug, Clone, ThisError)]
#[allow(missing_docs, reason = "each variant is documented on its ErrorReason")]
pub enum Error {
    #[error("there is no concert {concert_code:?}: ListConcerts shows those that can be queued for")]
    ConcertNotFound { concert_code: String },
    #[error("there is no user {user_id}: open a wallet for the user first (OpenWallet)")]
    UserNotFound { user_id: String },
    #[error("concert {concert_code} has no performance on {date}: ListPerformances shows the dates")]
    PerformanceNotFound { concert_code: String, date: String },
    #[error("there is no seat {}: the seats are numbered from 1 to {seat_count}", list(seat_numbers))]
    SeatNotFound { seat_numbers: Vec<i32>, seat_count: i32 },
    #[error("you have no reservation {reservation_id}: ListReservations shows yours")]
    ReservationNotFound { reservation_id: String },
    #[error("you have no payment {payment_id}: ListPayments shows yours")]
    PaymentNotFound { payment_id: String },
    #[error("there is no venue {venue_id:?}: create it first (CreateVenue)")]
    VenueNotFound { venue_id: String },

    #[error("seat {} is sold: choose seats that ListSeats shows as AVAILABLE", list(seat_numbers))]
    SeatSold { seat_numbers: Vec<i32> },
    #[error("seat {} is held: choose other seats, or try again when that hold has ended", list(seat_numbers))]
    SeatHeld { seat_numbers: Vec<i32>, retry_after: Duration },
    #[error("a user may have {seats_per_user_limit} seats of this concert and you have {seat_count}: ask for fewer")]
    SeatLimitExceeded { seats_per_user_limit: i32, seat_count: i32 },
    #[error("there is no held seat to pay or release: hold seats first (HoldSeats)")]
    NoHeldSeat,
    #[error(
        "the hold was extended {extension_limit} times and cannot be again: pay it, or hold the seats anew when it is over"
    )]
    ExtensionLimitExceeded { reservation_id: String, extension_limit: i32 },
    #[error("the hold ran out before it was paid: hold the seats again (HoldSeats)")]
    HoldExpired { reservation_id: String, expire_time: Micros },

    #[error("a queue token is needed: send the metadata `authorization: Bearer <token>` with a token of IssueToken")]
    TokenMissing,
    #[error("the queue token is not valid here: send `authorization: Bearer <token>` as IssueToken returned it")]
    TokenInvalid,
    #[error("the queue token was issued to another user: send the token of the user_id in the request")]
    TokenUserMismatch,
    #[error("the queue token is for concert {concert_code}: send the token of the concert that the request is about")]
    TokenConcertMismatch { concert_code: String },
    #[error("number {queue_number} is not admitted yet: ask GetPosition until it is ACTIVE")]
    NotAdmitted { queue_number: i64, retry_after: Duration },
    #[error("the admission ran out: take a new token (IssueToken)")]
    TokenExpired,
    #[error("the token has paid and is used up: take a new token to buy more (IssueToken)")]
    TokenCompleted,
    #[error("the token has left the queue: take a new one (IssueToken)")]
    TokenLeft,

    #[error("this server knows its callers: send the metadata `x-api-key` with your API key")]
    CredentialMissing,
    #[error("the API key is not known here: send it as it was given to you, or ask the operator for a new one")]
    CredentialInvalid,
    #[error("the API key of {api_key_name} is not for the admin: call with one that has the admin right")]
    AdminRightMissing { api_key_name: String },

    #[error("the wallet holds {balance} and the price is {price}: charge it first (ChargeWallet)")]
    InsufficientBalance { balance: i64, price: i64 },
    #[error("the wallet holds {balance} and cannot hold that much more: charge less")]
    BalanceLimitExceeded { balance: i64 },

    #[error("the performance has started and its payments are not given back any more")]
    RefundClosed { payment_id: String, start_time: Micros },

    #[error("request_id {request_id} was used for a request with other contents: make a new one for each request")]
    RequestIdConflict { request_id: String },
    #[error("{what} exists already: choose another name, or use the one that is there")]
    AlreadyExists { what: String },
    #[error("{}", violations_message(violations))]
    InvalidArgument { violations: Vec<Violation> },

    #[error("more calls come than can be served: try again when RetryInfo says so")]
    Overloaded { retry_after: Duration },
    #[error("the deadline of the call has passed: give it more time, and repeat a write with the same request_id")]
    DeadlineExceeded,
    #[error(
        "there is no such call here, or its request is encoded in a way that is not read: see reflection for the calls"
    )]
    Unimplemented,
    #[error("the database is away: try again in a moment, with the same request_id if the call had one")]
    StorageUnavailable,
    #[error("the server is going down: call again to reach one that stays")]
    ShuttingDown,
    #[error("the server failed: the failure was logged and is not yours")]
    Internal(Arc<dyn std::error::Error + Send + Sync>),
}

/// A field that is ill-formed, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field in the request.
    pub field: String,
    /// What the field must be, such as "must not be negative".
    pub description: String,
}

impl Error {
    /// Returns the error for a defect. Its `cause` is logged and not sent to the caller.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(Arc::from(cause.into()))
    }

    /// Returns the error for a request with one violation.
    pub fn invalid(field: &str, description: impl Into<String>) -> Self {
        let violation = Violation { field: field.to_owned(), description: description.into() };
        Self::InvalidArgument { violations: vec![violation] }
    }

    /// Returns the code and the reason, as the table in `error_reason.proto` lists them.
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
            Self::SeatSold { .. } => (Code::FailedPrecondition, R::SeatSold),
            Self::SeatHeld { .. } => (Code::FailedPrecondition, R::SeatHeld),
            Self::SeatLimitExceeded { .. } => (Code::FailedPrecondition, R::SeatLimitExceeded),
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
            Self::InsufficientBalance { .. } => (Code::FailedPrecondition, R::InsufficientBalance),
            Self::BalanceLimitExceeded { .. } => (Code::FailedPrecondition, R::BalanceLimitExceeded),
            Self::RefundClosed { .. } => (Code::FailedPrecondition, R::RefundClosed),
            Self::RequestIdConflict { .. } => (Code::AlreadyExists, R::RequestIdConflict),
            Self::AlreadyExists { .. } => (Code::AlreadyExists, R::AlreadyExists),
            Self::InvalidArgument { .. } => (Code::InvalidArgument, R::InvalidArgument),
            Self::Overloaded { .. } => (Code::ResourceExhausted, R::Overloaded),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, R::DeadlineExceeded),
            Self::Unimplemented => (Code::Unimplemented, R::Unimplemented),
            Self::StorageUnavailable => (Code::Unavailable, R::StorageUnavailable),
            Self::ShuttingDown => (Code::Unavailable, R::ShuttingDown),
            Self::Internal(_) => (Code::Internal, R::Internal),
        }
    }

    /// Returns the metadata for programs; its keys are documented on the [`ErrorReason`].
    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::ConcertNotFound { concert_code } | Self::TokenConcertMismatch { concert_code } => {
                vec![("concert_code", concert_code.clone())]
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
            Self::HoldExpired { reservation_id, expire_time } => {
                vec![("reservation_id", reservation_id.clone()), ("expire_time", proto::rfc3339(*expire_time))]
            }
            Self::ExtensionLimitExceeded { reservation_id, extension_limit } => {
                vec![("reservation_id", reservation_id.clone()), ("extension_limit", extension_limit.to_string())]
            }
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
            Self::AdminRightMissing { api_key_name } => vec![("api_key_name", api_key_name.clone())],
            Self::RequestIdConflict { request_id } => vec![("request_id", request_id.clone())],
            _ => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::SeatHeld { retry_after, .. }
            | Self::NotAdmitted { retry_after, .. }
            | Self::Overloaded { retry_after } => Some(*retry_after),
            Self::StorageUnavailable | Self::ShuttingDown => Some(RETRY_DELAY),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason) = error.code_and_reason();
        if let Error::Internal(cause) = &error {
            tracing::error!(%cause, "a call failed with an internal error");
        }
        let name = reason.as_str_name();
        let reason = name.strip_prefix("ERROR_REASON_").unwrap_or(name);
        let metadata: HashMap<String, String> =
            error.metadata().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        if let Some(delay) = error.retry_after() {
            details.set_retry_info(Some(delay));
        }
        if let Error::InvalidArgument { violations } = &error {
            let violations: Vec<FieldViolation> =
                violations.iter().take(MAX_VIOLATIONS).map(|v| FieldViolation::new(&v.field, &v.description)).collect();
            details.set_bad_request(violations);
        }
        Status::with_error_details(code, error.to_string(), details)
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
