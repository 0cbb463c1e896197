//! Tests wallets and their ledger.

use boxoffice::rpc::proto::{self, WalletEntryKind};
use tonic::Code;
use uuid::Uuid;

use crate::harness::{DATE, PRICE, START, World, assert_failure, on_both_engines};

on_both_engines!(
    opening_a_wallet_makes_the_user_known_and_is_idempotent,
    a_charge_is_booked_and_answered_with_its_entry,
    a_request_id_charges_once_and_returns_the_first_answer,
    a_request_id_is_refused_for_another_amount_and_another_user,
    a_balance_is_at_most_the_maximum_of_an_int64,
    the_ledger_is_listed_newest_first_in_pages_and_sums_up_to_the_balance,
);

async fn opening_a_wallet_makes_the_user_known_and_is_idempotent(world: World) {
    let user_id = world.user(500).await;
    let request = proto::OpenWalletRequest { user_id: user_id.to_string() };
    let wallet = world.wallets().open_wallet(request).await.unwrap().into_inner().wallet.unwrap();
    let expected = proto::Wallet {
        user_id: user_id.to_string(),
        balance: 500,
        currency_code: "KRW".into(),
        open_time: Some(proto::timestamp(START)),
    };
    assert_eq!(wallet, expected);
}

async fn a_charge_is_booked_and_answered_with_its_entry(world: World) {
    let user_id = world.user(0).await;
    world.charge(user_id, 300, "").await.unwrap();
    let charged = world.charge(user_id, 200, "").await.unwrap();
    let entry = proto::WalletEntry {
        entry_id: 2,
        kind: WalletEntryKind::Charge.into(),
        amount: 200,
        balance_after: 500,
        payment_id: String::new(),
        create_time: Some(proto::timestamp(START)),
    };
    let expected = proto::ChargeWalletResponse { balance: 500, currency_code: "KRW".into(), entry: Some(entry) };
    assert_eq!(charged, expected);
    assert_eq!(world.balance(user_id).await, 500);
    world.check_invariants().await;
}

async fn a_request_id_charges_once_and_returns_the_first_answer(world: World) {
    let user_id = world.user(0).await;
    let request_id = Uuid::now_v7().to_string();
    let calls = (0..20).map(|_| world.charge(user_id, 300, &request_id));
    let answers = futures::future::join_all(calls).await;
    let first = answers[0].as_ref().unwrap().clone();
    for answer in answers {
        assert_eq!(answer.unwrap(), first);
    }
    world.charge(user_id, 1, "").await.unwrap();
    assert_eq!(world.charge(user_id, 300, &request_id).await.unwrap(), first);
    assert_eq!(world.balance(user_id).await, 301);
    world.check_invariants().await;
}

async fn a_request_id_is_refused_for_another_amount_and_another_user(world: World) {
    let (user_id, other) = (world.user(0).await, world.user(0).await);
    let request_id = Uuid::now_v7().to_string();
    world.charge(user_id, 300, &request_id).await.unwrap();
    for answer in [world.charge(user_id, 301, &request_id).await, world.charge(other, 300, &request_id).await] {
        assert_failure(answer, Code::AlreadyExists, "REQUEST_ID_CONFLICT");
    }
    assert_eq!((world.balance(user_id).await, world.balance(other).await), (300, 0));
}

async fn a_balance_is_at_most_the_maximum_of_an_int64(world: World) {
    let user_id = world.user(i64::MAX - 1).await;
    let over = world.charge(user_id, 2, "").await;
    let details = assert_failure(over, Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    assert_eq!(details.error_info().unwrap().metadata["balance"], (i64::MAX - 1).to_string());
    assert_eq!(world.charge(user_id, 1, "").await.unwrap().balance, i64::MAX);
    assert_eq!(world.balance(user_id).await, i64::MAX);
}

async fn the_ledger_is_listed_newest_first_in_pages_and_sums_up_to_the_balance(world: World) {
    world.concert("IU", 50).await;
    let caller = world.admitted("IU").await;
    for amount in 1..=3 {
        world.charge(caller.uuid(), amount, "").await.unwrap();
    }
    caller.hold(DATE, &[1]).await.unwrap();
    let payment = caller.pay().await.unwrap();
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let user_id = caller.user_id.clone();
        let request = proto::ListWalletEntriesRequest { user_id, page_size: 2, page_token };
        let page = world.wallets().list_wallet_entries(request).await.unwrap().into_inner();
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let amounts: Vec<i64> = entries.iter().map(|entry| entry.amount).collect();
    assert_eq!(amounts, [-PRICE, 3, 2, 1, 100 * PRICE]);
    assert_eq!((entries[0].kind(), &entries[0].payment_id), (WalletEntryKind::Payment, &payment.payment_id));
    assert_eq!(amounts.iter().sum::<i64>(), world.balance(caller.uuid()).await);
    assert_eq!(entries[0].balance_after, world.balance(caller.uuid()).await);
}
