//! Converts errors to gRPC responses and trailers. Also adds details to the errors that tonic creates.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use crate::rpc::Error;

const STATUS: &str = "grpc-status";
const DETAILS: &str = "grpc-status-details-bin";
/// The header that tells clients which compression the server supports.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Returns the response for a call that failed.
pub fn failure(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

/// Returns the trailers that end a stream with `error`.
pub fn trailers(error: Error) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    Status::from(error).add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// Returns whether the headers of a response contain the status of a failed call.
pub fn is_failure(headers: &HeaderMap) -> bool {
    code(headers) != Code::Ok
}

/// Returns the status code in the headers or trailers of a response. Returns OK if there is no status, as in the
/// headers of a stream.
pub fn code(headers: &HeaderMap) -> Code {
    headers.get(STATUS).map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// Adds details to an error response that tonic created.
///
/// tonic answers an unknown method or compression with UNIMPLEMENTED. tonic answers a request that is invalid or too
/// large with INTERNAL, OUT_OF_RANGE or RESOURCE_EXHAUSTED. This function replaces these three codes with
/// INVALID_ARGUMENT, because the caller must change the request. Other errors stay unchanged, such as the NOT_FOUND
/// that the health protocol defines.
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
