//! Checks that calls with a wrong token are refused with the correct reason and without effect.

use std::time::Duration;

use boxoffice::{
    clock::Clock,
    db::entity::queue_token,
    rpc::proto::{self, admin_service_client::AdminServiceClient},
};
use sea_orm::{ColumnTrait, Database, EntityTrait, PaginatorTrait, QueryFilter};
use testkit::{Caller, PRICE, catalogue, invariants};
use tonic::{Code, Status};

use crate::harness::{
    book::name,
    contents::contents,
    eventually,
    lab::{Lab, Tally},
    site::{CONCERT, DATE, Site, until_admitted},
};

/// The expiry pass runs at the start and then once per hour, so that rows of ended admissions stay unchanged.
const FLAGS: &[&str] = &["--promote-interval", "100ms", "--expire-interval", "1h"];
/// Time within which an admitted user must make a first call.
const CLAIM_TTL: Duration = Duration::from_millis(800);

/// The token that a call needs: any valid token, or an admitted token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Token,
    Admission,
}

/// A caller with a wrong token, and the expected codes and reasons of its calls.
struct Wrong {
    what: &'static str,
    caller: Caller,
    /// The answer to calls that need a token; `None` if these calls accept the token.
    by_token: Option<&'static str>,
    /// The answer to calls that need an admission.
    by_admission: &'static str,
}

/// Calls each RPC that needs a token, with wrong tokens. The tokens are missing, forged, expired, waiting, of another
/// user, or of another concert. Calls that the token does not permit must be refused and must change nothing.
pub async fn a_wrong_token_is_refused_without_effect(lab: Lab) {
    let site = Site::open(&lab, 1, FLAGS).await;
    while let Some(round) = lab.next_round(1, 5) {
        let (first, second) = (format!("{CONCERT}{round}"), format!("BTS{round}"));
        site.concert_as(&first, 50, |concert| concert.claim_ttl = Some(proto::duration(CLAIM_TTL))).await;
        site.concert_as(&second, 50, |_| ()).await;
        let owner = until_admitted(site.joins_to(&first, 100 * PRICE).await).await;
        let reservation = owner.hold(DATE, &[1]).await.expect("a hold");
        let wrongs = wrongs(&site, &owner, &first, &second).await;
        let before = contents(&site.url).await;
        let mut refused = 0;
        for wrong in &wrongs {
            refused += refuse(wrong, &reservation.reservation_id).await;
        }
        refused += not_of_another_user(&owner, &wrongs[0].caller, &reservation.reservation_id).await;
        refused += no_admin_in_public(&owner, &first).await;
        let after = contents(&site.url).await;
        let changed: Vec<_> = after.iter().filter(|row| !before.contains(row)).collect();
        assert!(before == after, "refused calls changed the database: {changed:#?}");
        lab.note_tally(Tally { refused, ..Tally::default() });
    }
    lab.note("every call was refused with the correct code and reason");
    invariants::check(&site.url, &Clock::system()).await;
}

/// Returns callers with wrong tokens. Also pauses the sale of `first`, so that no user is admitted during the calls.
async fn wrongs(site: &Site, owner: &Caller, first: &str, second: &str) -> Vec<Wrong> {
    let elsewhere = Caller::join(owner.channel.clone(), second, owner.uuid()).await.expect("a token");
    let elsewhere = until_admitted(elsewhere).await;
    let other = until_admitted(site.joins_to(first, 0).await).await;
    let expired = site.joins_to(first, 0).await;
    let db = Database::connect(&site.url).await.expect("database");
    eventually("the silent user is admitted", async || {
        let admitted = queue_token::Entity::find()
            .filter(queue_token::Column::UserId.eq(expired.uuid()))
            .filter(queue_token::Column::AdmitTime.is_not_null());
        admitted.count(&db).await.expect("tokens") > 0
    })
    .await;
    db.close().await.expect("close");
    catalogue::set_paused(&site.replicas[0].admin(), first, true).await.expect("a pause");
    tokio::time::sleep(CLAIM_TTL).await;
    let waiting = site.joins_to(first, 0).await;
    let with = |token: &str| Caller { token: token.to_owned(), ..owner.clone() };
    let refused = |what, caller, reason| Wrong { what, caller, by_token: Some(reason), by_admission: reason };
    let forged = |token: &str| {
        let (claims, signature) = token.rsplit_once('.').expect("a signature");
        format!("{claims}.{}", signature.chars().rev().collect::<String>())
    };
    vec![
        refused("the token of another user", with(&other.token), "PermissionDenied TOKEN_USER_MISMATCH"),
        refused("no token", with(""), "Unauthenticated TOKEN_MISSING"),
        refused("a forged token", with(&forged(&owner.token)), "Unauthenticated TOKEN_INVALID"),
        refused("a text that is no token", with("x"), "Unauthenticated TOKEN_INVALID"),
        refused("the token of another concert", with(&elsewhere.token), "PermissionDenied TOKEN_CONCERT_MISMATCH"),
        Wrong {
            what: "an expired token",
            caller: expired,
            by_token: None,
            by_admission: "FailedPrecondition TOKEN_EXPIRED",
        },
        Wrong {
            what: "a waiting token",
            caller: waiting,
            by_token: None,
            by_admission: "FailedPrecondition NOT_ADMITTED",
        },
    ]
}

/// Makes calls with a wrong token, and returns the number of refused calls. Panics if an answer differs from the
/// expected answer.
async fn refuse(wrong: &Wrong, reservation_id: &str) -> u64 {
    let (caller, none) = (&wrong.caller, String::new());
    let mut calls = vec![
        ("GetPosition", Needs::Token, caller.position().await.map(drop)),
        ("WatchPosition", Needs::Token, caller.watch().await.map(drop)),
        ("ListPerformances", Needs::Admission, caller.performances().await.map(drop)),
        ("ListSeats", Needs::Admission, caller.seats(DATE).await.map(drop)),
        ("WatchSeats", Needs::Admission, caller.watch_seats(DATE).await.map(drop)),
        ("HoldSeats", Needs::Admission, caller.hold(DATE, &[9]).await.map(drop)),
        ("ExtendReservation", Needs::Admission, caller.extend(reservation_id, &none).await.map(drop)),
        ("ReleaseReservation", Needs::Admission, caller.release(reservation_id).await.map(drop)),
    ];
    if wrong.by_token.is_some() {
        // Only callers with an invalid token call LeaveQueue, because the call would succeed with a valid token.
        // Callers with a valid token pay without a reservation id, because the reservation belongs to another user.
        calls.push(("LeaveQueue", Needs::Token, caller.leave().await));
        calls.push(("Pay", Needs::Admission, caller.pay_as(reservation_id, &none).await.map(drop)));
    } else {
        calls.push(("Pay", Needs::Admission, caller.pay().await.map(drop)));
    }
    let mut refused = 0;
    for (rpc, needs, answer) in calls {
        let expected = if needs == Needs::Token { wrong.by_token } else { Some(wrong.by_admission) };
        let said = answer.as_ref().err().map(name);
        assert_eq!(said.as_deref(), expected, "{rpc} with {}: {answer:?}", wrong.what);
        refused += u64::from(answer.is_err());
    }
    refused
}

/// Checks that another user cannot read the reservation, and that an unknown payment is not found. Returns the number
/// of refused calls.
async fn not_of_another_user(owner: &Caller, other: &Caller, reservation_id: &str) -> u64 {
    let stranger = Caller { user_id: uuid::Uuid::now_v7().to_string(), ..other.clone() };
    let unknown = uuid::Uuid::now_v7().to_string();
    let answers = [
        (stranger.reservation(reservation_id).await.map(drop), "NotFound RESERVATION_NOT_FOUND"),
        (stranger.refund(&unknown).await.map(drop), "NotFound PAYMENT_NOT_FOUND"),
        (owner.refund(&unknown).await.map(drop), "NotFound PAYMENT_NOT_FOUND"),
    ];
    for (answer, expected) in &answers {
        assert_eq!(answer.as_ref().err().map(name).as_deref(), Some(*expected));
    }
    answers.len() as u64
}

/// Checks that the public listener does not serve AdminService. Returns the number of refused calls.
async fn no_admin_in_public(caller: &Caller, concert_code: &str) -> u64 {
    let mut admin = AdminServiceClient::new(caller.channel.clone());
    let concert_code = || concert_code.to_owned();
    let answers: [Result<(), Status>; 6] = [
        admin.create_venue(proto::CreateVenueRequest::default()).await.map(drop),
        admin
            .create_concert(proto::CreateConcertRequest { concert_code: concert_code(), ..Default::default() })
            .await
            .map(drop),
        admin
            .add_performance(proto::AddPerformanceRequest { concert_code: concert_code(), ..Default::default() })
            .await
            .map(drop),
        admin
            .update_sale(proto::UpdateSaleRequest { concert_code: concert_code(), ..Default::default() })
            .await
            .map(drop),
        admin.get_sale_stats(proto::GetSaleStatsRequest { concert_code: concert_code() }).await.map(drop),
        admin
            .watch_sale_stats(proto::WatchSaleStatsRequest { concert_code: concert_code(), interval: None })
            .await
            .map(drop),
    ];
    for answer in &answers {
        assert_eq!(answer.as_ref().map_err(Status::code), Err(Code::Unimplemented), "{answer:?}");
    }
    answers.len() as u64
}
