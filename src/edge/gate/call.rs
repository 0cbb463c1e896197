//! The types that the layers of the gate share: the call, and the trait of the services that the layers wrap.

use std::sync::Arc;

use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;

use crate::edge::methods::Method;

/// A call of a boxoffice method. Each layer passes this value to the next layer.
pub struct Call {
    /// The request. Its body may not have arrived yet.
    pub request: Request<Body>,
    /// The method that the request's path names.
    pub method: Arc<Method>,
    /// The time at which the headers of the request arrived.
    pub start: Instant,
}

/// A service that takes an `R` and returns an HTTP response, or fails with an `E`.
///
/// This alias saves each layer a long list of bounds.
pub trait Responds<R, E>:
    Service<R, Response = Response<Body>, Error = E, Future: Send + 'static> + Clone + Send + 'static
{
}

impl<S, R, E> Responds<R, E> for S
where
    S: Service<R, Response = Response<Body>, Error = E> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
}
