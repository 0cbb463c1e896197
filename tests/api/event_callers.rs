//! Tests which API keys may read events, and which API key an event names.

use boxoffice::{
    edge::credential::{self, Right},
    rpc::proto::{self, ListEventsRequest, WatchEventsRequest},
};
use tonic::{Code, Request, transport::Channel};

use crate::{
    events::{kinds, service},
    harness::{Caller, DATE, Engine, PRICE, World, assert_failure, connect},
    running::services,
    transport::{Files, serve},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_know_the_service() {
    let world = World::new(Engine::Sqlite).await;
    let name = "boxoffice.v1.EventService";
    assert!(services(world.admin_channel()).await.contains(&name.to_owned()));
    assert!(!services(world.channel(0)).await.contains(&name.to_owned()));
    let mut health = tonic_health::pb::health_client::HealthClient::new(world.admin_channel());
    let request = tonic_health::pb::HealthCheckRequest { service: name.to_owned() };
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-api-key", key.parse().expect("metadata"));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_the_right_events_reads_who_called_and_calls_nothing_else() {
    let mut world = World::new(Engine::Sqlite).await;
    world.concert("IU", 50).await;
    let files = Files::new();
    let keys = [("shop", Right::Public), ("office", Right::Admin), ("mailer", Right::Events)];
    let [(shop, shop_line), (office, office_line), (mailer, mailer_line)] =
        keys.map(|(name, right)| credential::new_key(name, right).unwrap());
    let file = files.write("keys", &format!("{shop_line}\n{office_line}\n{mailer_line}\n"));
    world.settings.transport.api_keys_file = Some(file);
    let server = serve(&world).await;
    let (public, admin) = (connect(server.address).await, connect(server.admin_address).await);
    let open = |user_id: &str, key: &str| {
        let request = with_key(proto::OpenWalletRequest { user_id: user_id.to_owned() }, key);
        let mut wallets = proto::wallet_service_client::WalletServiceClient::new(public.clone());
        async move { wallets.open_wallet(request).await.map(drop) }
    };
    let pause = |key: &str| {
        let request = proto::UpdateSaleRequest { concert_code: "IU".into(), paused: Some(true), ..Default::default() };
        let request = with_key(request, key);
        let mut client = proto::admin_service_client::AdminServiceClient::new(admin.clone());
        async move { client.update_sale(request).await.map(drop) }
    };
    let user_id = uuid::Uuid::now_v7().to_string();
    open(&user_id, &shop).await.unwrap();
    pause(&office).await.unwrap();
    for key in [&mailer, &office] {
        let request = with_key(ListEventsRequest { after_event_number: 3, ..Default::default() }, key);
        let events = service(&admin).list_events(request).await.unwrap().into_inner().events;
        let callers: Vec<_> = events.iter().map(|event| event.caller.as_str()).collect();
        assert_eq!((kinds(&events), callers), (vec!["wallet_opened", "sale_updated"], vec!["shop", "office"]));
        service(&admin).watch_events(with_key(WatchEventsRequest::default(), key)).await.unwrap();
    }
    let listed = service(&admin).list_events(with_key(ListEventsRequest::default(), &shop)).await;
    let refused = assert_failure(listed, Code::PermissionDenied, "RIGHT_MISSING");
    assert_eq!(refused.error_info().unwrap().metadata["api_key_name"], "shop");
    assert_failure(open(&user_id, &mailer).await, Code::PermissionDenied, "RIGHT_MISSING");
    assert_failure(pause(&mailer).await, Code::PermissionDenied, "ADMIN_RIGHT_MISSING");
    assert_failure(
        service(&admin).list_events(ListEventsRequest::default()).await,
        Code::Unauthenticated,
        "CREDENTIAL_MISSING",
    );
    server.stop().await;
}

/// Returns the kind and the caller of each event.
async fn callers(channel: &Channel, key: &str) -> Vec<(&'static str, String)> {
    let request = with_key(ListEventsRequest { page_size: 1_000, ..Default::default() }, key);
    let events = service(channel).list_events(request).await.unwrap().into_inner().events;
    kinds(&events).into_iter().zip(events.iter().map(|event| event.caller.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_of_a_call_names_its_api_key() {
    let mut world = World::new(Engine::Sqlite).await;
    world.concert("IU", 50).await;
    let files = Files::new();
    let [(shop, shop_line), (mailer, mailer_line)] = [("shop", Right::Public), ("mailer", Right::Events)]
        .map(|(name, right)| credential::new_key(name, right).unwrap());
    world.settings.transport.api_keys_file = Some(files.write("keys", &format!("{shop_line}\n{mailer_line}\n")));
    let server = serve(&world).await;
    let admin = connect(server.admin_address).await;
    let caller = Caller::new(connect(server.address).await, "IU", uuid::Uuid::now_v7());
    sell_with_key(&world, caller, &shop).await;
    let told = callers(&admin, &mailer).await;
    let told = &told[3..];
    assert_eq!(told.len(), 12, "{told:?}");
    for (kind, name) in told {
        let is_of_server = *kind == "tokens_admitted";
        assert_eq!(name, if is_of_server { "" } else { "shop" }, "{kind}");
    }
    server.stop().await;
}

/// Makes a user of the shop cause each kind of event that a user can cause.
async fn sell_with_key(world: &World, mut caller: Caller, key: &str) {
    let user_id = caller.user_id.clone();
    let mut wallets = proto::wallet_service_client::WalletServiceClient::new(caller.channel.clone());
    wallets.open_wallet(with_key(proto::OpenWalletRequest { user_id: user_id.clone() }, key)).await.unwrap();
    let charge = proto::ChargeWalletRequest { user_id: user_id.clone(), amount: 100 * PRICE, ..Default::default() };
    wallets.charge_wallet(with_key(charge, key)).await.unwrap();
    let with_both = |caller: &Caller| {
        let token = caller.token.clone();
        move || {
            let mut request = with_key((), key);
            if !token.is_empty() {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            request
        }
    };
    let issue = proto::IssueTokenRequest { concert_code: "IU".into(), user_id: user_id.clone() };
    let issued = caller.queue().issue_token(with_both(&caller)().map(|()| issue.clone())).await.unwrap().into_inner();
    caller.token = issued.token.unwrap().token;
    world.promote().await;
    let hold = |seat_numbers: Vec<i32>| proto::HoldSeatsRequest {
        concert_code: "IU".into(),
        user_id: user_id.clone(),
        date: DATE.into(),
        seat_numbers,
        ..Default::default()
    };
    let request = with_both(&caller);
    let mut reservations = caller.reservations();
    let mut held = Vec::new();
    for seat_number in 1..=3 {
        let answer = reservations.hold_seats(request().map(|()| hold(vec![seat_number]))).await.unwrap().into_inner();
        held.push(answer.reservation.unwrap().reservation_id);
    }
    let (id, reservation_id) = (user_id.clone(), held[0].clone());
    let extend = proto::ExtendReservationRequest { user_id: id, reservation_id, ..Default::default() };
    reservations.extend_reservation(request().map(|()| extend)).await.unwrap();
    let release = proto::ReleaseReservationRequest { user_id: user_id.clone(), reservation_id: held[0].clone() };
    reservations.release_reservation(request().map(|()| release)).await.unwrap();
    let pay = proto::PayRequest { user_id: user_id.clone(), reservation_id: held[1].clone(), ..Default::default() };
    let paid = caller.payments().pay(request().map(|()| pay)).await.unwrap().into_inner().payment.unwrap();
    let refund = proto::RefundPaymentRequest { user_id, payment_id: paid.payment_id, ..Default::default() };
    caller.payments().refund_payment(request().map(|()| refund)).await.unwrap();
}
