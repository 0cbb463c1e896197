//! Failures as they go back to callers: also those that tonic makes of its own get their details.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use crate::rpc::Error;

const STATUS: &str = "grpc-status";
const DETAILS: &str = "grpc-status-details-bin";
/// By which callers learn what compression is read.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// The answer to a call that failed.
pub fn refusal(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

/// Returns the trailers that end a stream with `error`.
pub fn trailers(error: Error) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    Status::from(error).add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// Whether the headers of an answer say already that the call failed.
pub fn is_failure(headers: &HeaderMap) -> bool {
    code(headers) != Code::Ok
}

/// How a call ended, as the headers or trailers say; what has not failed by its headers is OK.
pub fn code(headers: &HeaderMap) -> Code {
    headers.get(STATUS).map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// Completes a failure that has no details. tonic makes two such kinds: UNIMPLEMENTED, and three codes for a request that it cannot read
/// or that is too large, which is the caller's mistake. Failures of health and reflection stay as their protocols have them.
pub fn complete(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if headers.contains_key(DETAILS) {
        return response;
    }
    let error = match code(headers) {
        Code::Unimplemented => Error::Unimplemented,
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted => {
            Error::invalid("request", "must be one message of the call's type, and not too large")
        }
        _ => return response,
    };
    let accepted: Option<HeaderValue> = headers.get(ACCEPT_ENCODING).cloned();
    let mut completed = refusal(error);
    if let Some(accepted) = accepted {
        completed.headers_mut().insert(ACCEPT_ENCODING, accepted);
    }
    completed
}
