//! What the layers of the gate share: the call that they pass on, and the kind of service that they wrap and return.

use std::sync::Arc;

use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;

use crate::edge::methods::Method;

/// A call of one of the listener's own services, on its way through the layers.
pub struct Call {
    /// The request; its body may still be arriving.
    pub request: Request<Body>,
    /// The method that the request's path names.
    pub method: Arc<Method>,
    /// When the call arrived.
    pub start: Instant,
}

/// A service that takes an `R` and returns an HTTP response, or fails with an `E`.
///
/// An alias: it spares each layer a page of bounds.
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
