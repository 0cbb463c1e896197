//! The layer that converts errors and panics to gRPC statuses. It also adds details to the errors of tonic.

use std::{
    convert::Infallible,
    future::ready,
    panic::{self, AssertUnwindSafe},
};

use futures::{FutureExt, future::Either};
use tower::{Layer, layer::layer_fn, service_fn};

use super::call::Responds;
use crate::{
    edge::status,
    rpc::{Error, caught},
};

/// Returns the layer that converts an error or a panic to a response, so that every request gets a response.
pub fn layer<R, S: Responds<R, Error>>() -> impl Layer<S, Service = impl Responds<R, Infallible>> {
    layer_fn(|mut inner: S| {
        service_fn(move |request: R| {
            // A service may panic before it returns the future of the call.
            let started = panic::catch_unwind(AssertUnwindSafe(|| inner.call(request)));
            let response = match started {
                Ok(response) => Either::Left(AssertUnwindSafe(response).catch_unwind()),
                Err(panic) => Either::Right(ready(Err(panic))),
            };
            response.map(|response| {
                Ok(match response.unwrap_or_else(|panic| Err(caught("call", panic))) {
                    Ok(response) => status::complete(response),
                    Err(error) => status::failure(error),
                })
            })
        })
    })
}
