//! Failures as callers receive them. The failures that tonic makes itself get details as well.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use crate::rpc::Error;

const STATUS: &str = "grpc-status";
const DETAILS: &str = "grpc-status-details-bin";
/// Tells clients which compression the server can read.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Returns the response to a call that failed before it had one.
pub fn failure(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

/// Returns the trailers that end a stream with `error`.
pub fn trailers(error: Error) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    Status::from(error).add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// Returns whether the headers of a response say that the call failed.
pub fn is_failure(headers: &HeaderMap) -> bool {
    code(headers) != Code::Ok
}

/// Returns the status code in the headers or trailers of a response; OK if there is none, as in the headers of a
/// stream.
pub fn code(headers: &HeaderMap) -> Code {
    headers.get(STATUS).map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// Adds details to a failure that has none.
///
/// tonic makes two kinds: UNIMPLEMENTED, and three codes for a request that it cannot read or that is too large. The
/// latter becomes INVALID_ARGUMENT, since the caller has to change the request. Failures of health and reflection stay
/// as their protocols define them.
pub fn complete(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if headers.contains_key(DETAILS) {
        return response;
    }
    let error = match code(headers) {
        Code::Unimplemented => Error::Unimplemented,
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted => {
            Error::invalid("request", "must be one message of the method's type, within the size limit")
        }
        _ => return response,
    };
    let accepted: Option<HeaderValue> = headers.get(ACCEPT_ENCODING).cloned();
    let mut completed = failure(error);
    if let Some(accepted) = accepted {
        completed.headers_mut().insert(ACCEPT_ENCODING, accepted);
    }
    completed
}
