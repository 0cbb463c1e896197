//! Creates the services of both gRPC listeners, and adds health and reflection.

use tonic::{
    codec::CompressionEncoding,
    service::{Routes, interceptor::InterceptedService},
};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{
    admin::AdminApi,
    app::{
        core::Core,
        listener::{ADMIN_SERVICES, PUBLIC_SERVICES},
        readiness::Readiness,
    },
    batch::write_lane,
    concert::ConcertApi,
    events::EventApi,
    payment::PaymentApi,
    queue::{Admission, QueueApi},
    reservation::{self, ReservationApi},
    rpc::{
        Error,
        proto::{
            DESCRIPTORS, admin_service_server as admin_server, concert_service_server as concert_server,
            event_service_server as event_server, payment_service_server as payment_server,
            queue_service_server as queue_server, reservation_service_server as reservation_server,
            wallet_service_server as wallet_server,
        },
    },
    token::TokenInterceptor,
    wallet::WalletApi,
};

const HEALTH_SERVICE: &str = "grpc.health.v1.Health";
/// Maximum size of a request of health or reflection, in bytes. Such a request contains only a name.
const MAX_PROBE_BYTES: usize = 4 << 10;

/// Returns the services of the public listener, with health and reflection.
pub fn public(core: &Core, readiness: &Readiness, health: HealthServer<impl Health>) -> Result<Routes, Error> {
    let (db, tasks, catalogue) = (&core.db, &core.tasks, &core.catalogue);
    let admission = Admission::new(db.clone(), core.snapshots.clone(), tasks);
    // This lane is created here because leaving the queue releases held seats, and the queue module does not depend on
    // reservations.
    let leave = write_lane(db, "queue.leave", tasks, |write, commands| {
        Box::pin(reservation::operations::leave(write, commands))
    });
    let (key_ring, stopping) = (core.key_ring.clone(), core.stopping.clone());
    let queue = QueueApi::new(db, catalogue.clone(), key_ring, admission.clone(), leave, tasks, stopping);
    let concert = ConcertApi::new(db.clone(), catalogue.clone(), admission.clone(), core.boards.clone(), tasks);
    let hold_ttl = core.settings.hold_ttl;
    let reservation = ReservationApi::new(db.clone(), catalogue.clone(), admission.clone(), hold_ttl, tasks);
    let wallet = WalletApi::new(db.clone(), &core.settings.currency, tasks);
    let payment = PaymentApi::new(db.clone(), catalogue.clone(), admission, tasks);

    let token = TokenInterceptor::new(core.key_ring.clone());
    macro_rules! intercepted {
        ($service:expr) => {
            InterceptedService::new(InterceptedService::new($service, token.clone()), readiness.interceptor())
        };
    }
    let routes = Routes::new(intercepted!(queue_server::QueueServiceServer::new(queue)))
        .add_service(intercepted!(
            // Lists of seats are large and compress well. ConcertService does not compress short lists.
            concert_server::ConcertServiceServer::new(concert)
                .send_compressed(CompressionEncoding::Zstd)
                .send_compressed(CompressionEncoding::Gzip)
        ))
        .add_service(intercepted!(reservation_server::ReservationServiceServer::new(reservation)))
        .add_service(intercepted!(wallet_server::WalletServiceServer::new(wallet)))
        .add_service(intercepted!(payment_server::PaymentServiceServer::new(payment)));
    with_probes(routes, health, &PUBLIC_SERVICES)
}

/// Returns AdminService and EventService with health and reflection, for the admin listener.
pub fn admin(core: &Core, readiness: &Readiness, health: HealthServer<impl Health>) -> Result<Routes, Error> {
    let (catalogue, statistics) = (core.catalogue.clone(), core.statistics.clone());
    let admin = AdminApi::new(&core.db, catalogue.clone(), statistics, &core.tasks, core.stopping.clone());
    let admin = admin_server::AdminServiceServer::new(admin);
    let events = EventApi::new(core.db.clone(), catalogue, &core.tasks, core.stopping.clone());
    let events = event_server::EventServiceServer::new(events);
    let routes = Routes::new(InterceptedService::new(admin, readiness.interceptor()))
        .add_service(InterceptedService::new(events, readiness.interceptor()));
    with_probes(routes, health, &ADMIN_SERVICES)
}

/// Adds health, and reflection of health and `services`. Clients use two versions of reflection, so both versions are
/// added.
fn with_probes(routes: Routes, health: HealthServer<impl Health>, services: &[&str]) -> Result<Routes, Error> {
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // Clients like grpcurl need these descriptors to print the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(HEALTH_SERVICE);
        services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
    };
    let v1 = reflection().build_v1().map_err(Error::internal)?;
    let v1alpha = reflection().build_v1alpha().map_err(Error::internal)?;
    Ok(routes
        .add_service(health.max_decoding_message_size(MAX_PROBE_BYTES))
        .add_service(v1.max_decoding_message_size(MAX_PROBE_BYTES))
        .add_service(v1alpha.max_decoding_message_size(MAX_PROBE_BYTES)))
}
