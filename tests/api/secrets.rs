//! Tests that secrets are never printed, not even at the most verbose log level.

use std::process::Output;

use boxoffice::{
    db::entity::{concert, signing_key},
    edge::credential,
    rpc::proto::{self, AdmissionOrder},
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use testkit::{http, metrics, net};
use tonic::{Request, Status, transport::Channel};
use uuid::Uuid;

use crate::{
    harness::{Engine, World, connect},
    running::{self, binary},
    transport::Files,
};

const PASSWORD: &str = "opensesame-4711";
const TOKEN_KEY: &str = "a-configured-key-of-more-than-32-characters";

/// Returns the URL with a password, which the temporary server does not check.
fn with_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (login, place) = rest.split_once('@').expect("a user");
    // A server that `BOXOFFICE_TEST_POSTGRES_URL` names may check the password, so a password in the URL is kept.
    if login.contains(':') { url.to_owned() } else { format!("{scheme}://{login}:{PASSWORD}@{place}") }
}

fn password(url: &str) -> String {
    let login = url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).expect("a user").0;
    login.split_once(':').expect("a password").1.to_owned()
}

/// Takes a queue token. Then calls GetPosition and Pay with the correct secrets, with a forged token, and with a forged
/// API key. Adds the answers to `said`, as debug output. Returns the token.
async fn calls(channel: &Channel, key: &str, forged: &str, said: &mut Vec<String>) -> String {
    let with = |token: &str, key: &str| {
        let (token, key) = (format!("Bearer {token}"), key.to_owned());
        tonic::service::interceptor::InterceptedService::new(channel.clone(), move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", token.parse().expect("metadata"));
            request.metadata_mut().insert("x-api-key", key.parse().expect("metadata"));
            Ok::<_, Status>(request)
        })
    };
    let user_id = boxoffice::app::demo::USER_ID.to_owned();
    let concert_code = "IU-2034".to_owned();
    let issue = proto::IssueTokenRequest { concert_code: concert_code.clone(), user_id: user_id.clone() };
    let mut queue = proto::queue_service_client::QueueServiceClient::new(with("", key));
    let token = loop {
        // The server may still be creating the demo.
        match queue.issue_token(issue.clone()).await {
            Ok(issued) => break issued.into_inner().token.expect("a token").token,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    for (token, key) in [(token.as_str(), key), (forged, key), (&token, forged)] {
        let mut queue = proto::queue_service_client::QueueServiceClient::new(with(token, key));
        let request = proto::GetPositionRequest { concert_code: concert_code.clone(), user_id: user_id.clone() };
        said.push(format!("{:?}", queue.get_position(request).await));
        let mut payments = proto::payment_service_client::PaymentServiceClient::new(with(token, key));
        let request = proto::PayRequest { user_id: user_id.clone(), ..Default::default() };
        said.push(format!("{:?}", payments.pay(request).await));
    }
    token
}

/// Creates a concert with a draw that is not held yet, and changes it. Adds the answers to `said`, as debug output.
async fn calls_for_a_draw(admin: &Channel, key: &str, said: &mut Vec<String>) {
    let key = key.to_owned();
    let with_key = move |mut request: Request<()>| {
        request.metadata_mut().insert("x-api-key", key.parse().expect("metadata"));
        Ok::<_, Status>(request)
    };
    let mut admin = proto::admin_service_client::AdminServiceClient::with_interceptor(admin.clone(), with_key);
    let request = proto::CreateConcertRequest {
        concert_code: "DRAW".into(),
        name: "Draw".into(),
        open_time: Some(proto::timestamp(4_000_000_000_000_000)),
        admission_order: AdmissionOrder::Draw.into(),
        ..Default::default()
    };
    said.push(format!("{:?}", admin.create_concert(request).await.expect("a concert")));
    let draw_salt = Some("salt".to_owned());
    let request = proto::UpdateSaleRequest { concert_code: "DRAW".into(), draw_salt, ..Default::default() };
    said.push(format!("{:?}", admin.update_sale(request).await.expect("a salt")));
    let request = proto::GetSaleRequest { concert_code: "DRAW".into() };
    said.push(format!("{:?}", admin.get_sale(request).await.expect("a sale")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_log_at_trace_level_in_an_answer_or_in_the_metrics() {
    let world = World::new(Engine::Postgres).await;
    let url = with_password(&world.settings.database_url);
    let (files, (key, line)) = (Files::new(), credential::new_key("shop", credential::Right::Public).unwrap());
    let (admin_key, admin_line) = credential::new_key("operator", credential::Right::Admin).unwrap();
    let keys = files.write("keys", &format!("{line}\n{admin_line}")).display().to_string();
    let metrics_address = net::free_address().unwrap();
    let listen = metrics_address.to_string();
    let flags = ["--demo", "--demo-crowd", "0", "--log", "trace", "--api-keys-file", &keys, "--http-listen", &listen];
    let mut process = running::serve(&url, &[&flags[..], &["--token-key", TOKEN_KEY]].concat()).await;
    let mut printed = Vec::new();
    let forged = format!("forged.{}", Uuid::now_v7().simple());
    let token = calls(&connect(process.address).await, &key, &forged, &mut printed).await;
    calls_for_a_draw(&connect(process.admin_address).await, &admin_key, &mut printed).await;
    let metrics = metrics::read(metrics_address).await.unwrap();
    assert!(metrics.contains("200 OK"), "{metrics}");
    printed.push(metrics);
    let authorization = format!("Authorization: Bearer {key}");
    let mut page = http::get(metrics_address, "/live", &["Host: localhost", &authorization]).await.unwrap();
    assert_eq!(page.status, 403);
    printed.push(page.text().await.unwrap());
    running::stop(&mut process).await;
    printed.extend(process.log_lines());
    let printed = printed.join("\n");

    let db = sea_orm::Database::connect(&world.database_url).await.unwrap();
    let signing_key = signing_key::Entity::find().one(&db).await.unwrap().unwrap();
    assert!(!format!("{signing_key:?}").contains(&signing_key.secret));
    let drawn =
        concert::Entity::find().filter(concert::Column::ConcertCode.eq("DRAW")).one(&db).await.unwrap().unwrap();
    let seed = &drawn.draw_seed.as_ref().unwrap().0;
    assert!(
        !format!("{drawn:?}").contains(seed)
            && !format!("{:?}", concert::ActiveModel::from(drawn.clone())).contains(seed)
    );
    let signature = token.rsplit_once('.').unwrap().1;
    let password = password(&url);
    // The test is useful only if the log contains lines of the levels TRACE and DEBUG, and of the HTTP/2 library h2.
    for frame in ["h2::", "TRACE", "DEBUG"] {
        assert!(printed.contains(frame), "the log has no {frame}; check that the log level is trace");
    }
    let secrets = [&password, &token, signature, &key, &admin_key, seed, &forged, &signing_key.secret, &url, TOKEN_KEY];
    for secret in secrets {
        let at = printed.find(secret);
        assert_eq!(at.map(|at| printed[at.saturating_sub(400)..at].to_owned()), None, "{secret} was printed");
    }
}

#[test]
fn a_command_that_fails_does_not_print_its_secrets() {
    let printed = |output: Output| {
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    for url in [
        format!("postgresq://boxoffice:{PASSWORD}@127.0.0.1/boxoffice"),
        format!("postgres://boxoffice:{PASSWORD}@127.0.0.1:port/boxoffice"),
        format!("postgres://boxoffice:{PASSWORD}@127.0.0.1:1/boxoffice"),
        format!("postgres://boxoffice:{PASSWORD}@127.0.0.1:1/boxoffice?sslmode=maybe"),
        format!("postgres://boxoffice:{PASSWORD}/oh@127.0.0.1:1/boxoffice"),
        PASSWORD.to_owned(),
    ] {
        for command in [&["migrate"][..], &["signing-key", "list"]] {
            let said = printed(binary(&url).args(command).output().unwrap());
            assert!(!said.is_empty() && !said.contains(PASSWORD), "{said}");
        }
    }
    let said = printed(binary("sqlite::memory:").args(["serve", "--token-key", PASSWORD]).output().unwrap());
    assert!(said.contains("32 characters") && !said.contains(PASSWORD), "{said}");
}
