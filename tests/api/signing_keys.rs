//! Tests a new signing key during a sale. No token may be refused while the servers start to use the new key. Also
//! tests the commands that rotate, list and drop keys.

use boxoffice::{
    db::Database,
    token::{self, KeyRing, SigningKey, rotation},
};
use tonic::Code;

use crate::{
    harness::{Caller, Engine, World, assert_failure, eventually, on_both_engines},
    running::binary,
};

on_both_engines!(the_binary_rotates_lists_and_drops_keys);

/// Returns the id of the key that signed a token, from the header of the token.
fn key_id(token: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().expect("a header")).expect("base64");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}

async fn is_known(caller: &Caller) -> bool {
    caller.position().await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_known_to_every_server_before_one_of_them_signs_with_it() {
    let mut world = World::new(Engine::Postgres).await;
    world.add_replica().await;
    world.concert("IU", 50).await;
    let old = world.waiting("IU").await;
    let on_both = |caller: &Caller| [caller.via(world.channel(0)), caller.via(world.channel(1))];
    let db = Database::new(&world.settings.database_url, world.clock.clone()).await.unwrap();
    let secret = token::new_secret().unwrap();
    assert_eq!(token::store::add_key(&db, &secret).await.unwrap(), 2);

    // After a few seconds, both servers verify tokens of the new key. They do not sign with this key while the clock
    // stands still.
    let ring = KeyRing::default();
    ring.replace(vec![SigningKey { id: "2".into(), secret: secret.to_vec().into() }], None);
    let channel = world.channel(0);
    let known = KeyRing::default();
    known.replace(token::store::keys(&db).await.unwrap(), None);
    let early = Caller { token: ring.sign(&known.verify(&old.token).unwrap()).unwrap(), ..old.via(channel) };
    for replica in on_both(&early) {
        eventually("the new key is known", async || is_known(&replica).await).await;
    }
    for replica in on_both(&old) {
        assert_eq!(replica.issue().await.unwrap().token, old.token);
    }

    // From now on, each server signs with the new key after it reads the keys. The other server must verify these
    // tokens immediately.
    world.advance(rotation::NOTICE);
    for (mine, other) in [(0, 1), (1, 0)] {
        let mut token = String::new();
        eventually("the new key signs", async || {
            token = old.via(world.channel(mine)).issue().await.unwrap().token;
            let issued = Caller { token: token.clone(), ..old.via(world.channel(other)) };
            assert!(is_known(&issued).await, "a token of key {}", key_id(&token));
            key_id(&token) == "2"
        })
        .await;
        assert_eq!(token, early.token);
    }
    for replica in on_both(&old) {
        assert!(is_known(&replica).await);
    }

    token::store::drop_key(&db, 1).await.unwrap();
    for replica in on_both(&old) {
        eventually("the old key is gone", async || !is_known(&replica).await).await;
        assert_failure(replica.position().await, Code::Unauthenticated, "TOKEN_INVALID");
        // A user with a token of the old key gets a token of the new key for the same number.
        let token = replica.issue().await.unwrap();
        assert_eq!((token.token, token.queue_number), (early.token.clone(), old.queue_number));
    }
}

async fn the_binary_rotates_lists_and_drops_keys(world: World) {
    let url = &world.settings.database_url;
    let run = |args: &[&str]| {
        let output = binary(url).arg("signing-key").args(args).output().unwrap();
        let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
        (output.status.success(), text.trim().to_owned())
    };
    let lines = || run(&["list"]).1.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(lines().len() == 1 && lines()[0].ends_with("signs and verifies"), "{:?}", lines());
    assert!(run(&["rotate"]).0 && run(&["rotate"]).0);
    assert_eq!(lines().len(), 3);
    assert!(lines()[2].starts_with("3 of ") && lines()[2].contains("signs from"), "{:?}", lines());
    for (id, why) in [("3", "newest"), ("4", "no signing key 4"), ("1", "may still sign")] {
        let (done, said) = run(&["drop", id]);
        assert!(!done && said.contains(why), "{said}");
    }

    // This change makes the keys one minute older. Key 3 then signs, and the keys 1 and 2 may be dropped.
    let db = Database::new(url, world.clock.clone()).await.unwrap();
    let write = db.begin().await.unwrap();
    let past = "UPDATE signing_key SET create_time = create_time - 60000000";
    sea_orm::ConnectionTrait::execute_unprepared(write.conn(), past).await.unwrap();
    write.commit().await.unwrap();
    for id in ["1", "2"] {
        let (done, said) = run(&["drop", id]);
        assert!(done, "{said}");
    }
    // Each start of a server calls this function. It stores no key, because key 3 is there.
    boxoffice::token::store::ensure_key(&db, &[7; 32]).await.unwrap();
    assert_eq!(lines().len(), 1);
    assert!(lines()[0].starts_with("3 of ") && lines()[0].ends_with("signs and verifies"), "{:?}", lines());

    let configured = ["--token-key", "0123456789abcdef0123456789abcdef", "rotate"];
    assert!(!run(&configured).0 && lines().len() == 1);
}
