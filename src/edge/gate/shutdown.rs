//! The layer that refuses new calls during shutdown.

use std::{future::ready, sync::Arc};

use futures::future::Either;
use tokio_util::sync::CancellationToken;
use tower::{Layer, layer::layer_fn, service_fn};

use super::call::{Call, Responds};
use crate::rpc::Error;

/// Returns the layer that fails calls with SHUTTING_DOWN after `stopping` is cancelled.
pub fn layer<S: Responds<Call, Error>>(
    stopping: Arc<CancellationToken>,
) -> impl Layer<S, Service = impl Responds<Call, Error>> {
    layer_fn(move |mut inner: S| {
        let stopping = stopping.clone();
        service_fn(move |call: Call| match stopping.is_cancelled() {
            true => Either::Left(ready(Err(Error::ShuttingDown))),
            false => Either::Right(inner.call(call)),
        })
    })
}
