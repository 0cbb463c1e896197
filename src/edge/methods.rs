//! The methods of the services of a listener, with the metrics of each method. The names of the methods come from the
//! protobuf descriptors.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::Response;
use metrics::Histogram;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use super::{credential::Group, limit::Share, status};
use crate::rpc::proto::DESCRIPTORS;

/// The names of the status codes by number, as the gRPC specification spells them.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Returns the name of a status code, as the gRPC specification spells it.
pub fn code_name(code: Code) -> &'static str {
    CODES[code as usize]
}

/// The methods of some services, by the path of a request, such as `/boxoffice.v1.QueueService/GetPosition`.
pub struct Methods(HashMap<String, Arc<Method>>);

/// One method of a service.
pub struct Method {
    /// Whether the method returns a stream.
    pub is_stream: bool,
    /// Whether the method returns a list, which may be large.
    pub is_list: bool,
    /// The group of the service, which decides who may call the method.
    pub group: Group,
    /// Counts the permits that calls of this method hold.
    pub share: Arc<Share>,
    /// The name, as `SERVICE/METHOD`.
    pub name: String,
    durations: [OnceLock<Histogram>; CODES.len()],
}

impl Methods {
    /// Returns the methods of `services`. Each service is given by its full name and its group.
    pub fn of(services: &[(&str, Group)]) -> Self {
        // The descriptors are compiled in. If they were invalid, no method would be found and the tests below would
        // fail.
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file;
        let mut methods = HashMap::new();
        for file in &files {
            for service in &file.service {
                let service_name = format!("{}.{}", file.package(), service.name());
                let Some((_, group)) = services.iter().find(|(name, _)| *name == service_name) else { continue };
                for method in &service.method {
                    let name = format!("{service_name}/{}", method.name());
                    let path = format!("/{name}");
                    let (is_stream, is_list) = (method.server_streaming(), method.name().starts_with("List"));
                    methods.insert(path, Arc::new(Method::new(name, *group, is_stream, is_list)));
                }
            }
        }
        Self(methods)
    }

    /// Returns the method with this path, or `None` if the services have no such method.
    pub fn find(&self, path: &str) -> Option<Arc<Method>> {
        self.0.get(path).cloned()
    }
}

impl Method {
    fn new(name: String, group: Group, is_stream: bool, is_list: bool) -> Self {
        Self { is_stream, is_list, group, share: Arc::default(), name, durations: Default::default() }
    }

    /// Tells whether `response` opens a stream: the method returns a stream, and the headers contain no error.
    pub fn opens_stream<B>(&self, response: &Response<B>) -> bool {
        self.is_stream && !status::is_failure(response.headers())
    }

    /// Records the duration and the status code of a call in the metric `rpc_server_call_duration_seconds`.
    pub fn record(&self, code: Code, took: Duration) {
        let histogram = self.durations[code as usize].get_or_init(|| {
            let labels = [("rpc_method", self.name.clone()), ("rpc_response_status_code", code_name(code).to_owned())];
            metrics::histogram!("rpc_server_call_duration_seconds", &labels)
        });
        histogram.record(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_a_service_are_known_by_path_and_so_are_the_streams_among_them() {
        let services = ["boxoffice.v1.QueueService", "boxoffice.v1.ConcertService"];
        let methods = Methods::of(&services.map(|service| (service, Group::Public)));
        let is_stream = |path| methods.find(path).map(|method| method.is_stream);
        assert_eq!(is_stream("/boxoffice.v1.QueueService/GetPosition"), Some(false));
        assert_eq!(is_stream("/boxoffice.v1.QueueService/WatchPosition"), Some(true));
        assert_eq!(is_stream("/boxoffice.v1.ConcertService/WatchSeats"), Some(true));
        let is_list = |path| methods.find(path).map(|method| method.is_list);
        assert_eq!(is_list("/boxoffice.v1.ConcertService/ListSeats"), Some(true));
        assert_eq!(is_list("/boxoffice.v1.ConcertService/WatchSeats"), Some(false));
        for other in ["/boxoffice.v1.AdminService/UpdateSale", "/boxoffice.v1.QueueService/Nope", "/", ""] {
            assert_eq!(is_stream(other), None, "{other}");
        }
    }

    #[test]
    fn every_code_has_its_name() {
        assert_eq!(CODES[Code::Unauthenticated as usize], "UNAUTHENTICATED");
        assert_eq!(CODES[Code::ResourceExhausted as usize], "RESOURCE_EXHAUSTED");
    }
}
