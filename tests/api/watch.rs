//! Tests `boxoffice watch`, which shows the sale of a running server.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use boxoffice::app::server::{Listeners, Server};
use testkit::{
    process::{self, Guarded, Signal},
    server,
};
use tokio::net::TcpListener;

use crate::harness::{DATE, Engine, PRICE, World, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// Returns the command that watches the concert IU.
fn watch(address: SocketAddr) -> Command {
    let mut command = server::command(env!("CARGO_BIN_EXE_boxoffice"));
    command.args(["watch", "IU", "--interval", "200ms", "--address", &address.to_string()]);
    command
}

/// Starts a watcher whose output is piped. Returns the lines of its standard output and of its standard error.
fn piped(address: SocketAddr) -> (Guarded, Receiver<String>, Receiver<String>) {
    let mut command = watch(address);
    let mut process = Guarded::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).expect("the binary");
    let output = lines(process.child().stdout.take().expect("a pipe"));
    let messages = lines(process.child().stderr.take().expect("a pipe"));
    (process, output, messages)
}

/// Reads the lines of a pipe in a thread, until the pipe ends or the receiver is dropped.
pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}

pub fn next(lines: &Receiver<String>) -> String {
    lines.recv_timeout(LIMIT).expect("a line")
}

async fn sale(engine: Engine) -> World {
    let world = World::new(engine).await;
    world.concert("IU", 5).await;
    let payer = world.admitted("IU").await;
    payer.hold(DATE, &[1, 2]).await.unwrap();
    payer.pay().await.unwrap();
    world.admitted("IU").await.hold(DATE, &[3]).await.unwrap();
    world.waiting("IU").await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn piped_output_has_a_line_per_update_and_ends_when_it_is_told() {
    let world = sale(Engine::Sqlite).await;
    let (mut process, output, _messages) = piped(world.server(0).admin_address);
    let counts = format!(
        " concert_code=IU issued=3 waiting=1 admitted=1 held=1 sold=2 unsold=8 admissions_last_minute=2 \
         payments_last_minute=1 oldest_wait_seconds=0 revenue={}",
        2 * PRICE
    );
    for _ in 0..3 {
        let line = next(&output);
        let (time, rest) = line.split_at(line.find(' ').expect("a space"));
        assert!(time.starts_with("time=20") && time.ends_with('Z'), "{line}");
        assert_eq!(rest, counts);
    }
    process.signal(Signal::SIGINT).unwrap();
    assert!(process.ended(LIMIT).await.unwrap().expect("its end").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_ends_when_nobody_reads_it() {
    let world = sale(Engine::Sqlite).await;
    let (mut process, output, _messages) = piped(world.server(0).admin_address);
    next(&output);
    drop(output);
    assert!(process.ended(LIMIT).await.unwrap().expect("its end").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_comes_back_after_a_restart_of_the_server() {
    let world = sale(Engine::Sqlite).await;
    let admin_address = testkit::net::free_address().unwrap();
    let start = async || {
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { public, admin: TcpListener::bind(admin_address).await.unwrap(), http: None };
        let server = Server::start(world.settings.clone(), world.clock.clone(), listeners, false).await.unwrap();
        server.ready().await.unwrap();
        server
    };
    let first = start().await;
    let (mut process, output, messages) = piped(admin_address);
    assert!(next(&output).contains("sold=2"));
    first.stop().await;
    let message = next(&messages);
    assert!(message.starts_with("the server is shutting down; trying again in "), "{message}");
    let message = next(&messages);
    assert!(message.starts_with(&format!("no server answers at {admin_address}")), "{message}");
    let second = start().await;
    while !next(&output).contains("sold=2") {}
    process.signal(Signal::SIGINT).unwrap();
    assert!(process.ended(LIMIT).await.unwrap().expect("its end").success());
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_shows_bars_that_are_drawn_in_place() {
    let world = sale(Engine::Sqlite).await;
    let (mut screen, end) = process::terminal(80).unwrap();
    let mut command = watch(world.server(0).admin_address);
    let mut process = Guarded::spawn(command.stdout(end)).unwrap();
    // The value `command` also keeps that end of the terminal open.
    drop(command);
    let shown = Arc::new(Mutex::new(Vec::new()));
    let copy = shown.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // The read fails when the process has ended.
        while let Ok(count) = screen.read(&mut buffer)
            && count > 0
        {
            copy.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
    let text = || String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
    eventually("the frame is drawn again", async || text().matches("\x1b[6A").count() >= 2).await;
    let text = text();
    let frame = text.split("\x1b[6A").nth(1).unwrap();
    for line in [
        "\rIU: IU live\x1b[K\r\n",
        "\rwaiting   ███████████▍                       1 of 3 tokens\x1b[K\r\n",
        "\rheld      ███▍                               1 of 10 seats\x1b[K\r\n",
        "\rsold      ██████▊                            2 of 10 seats\x1b[K\r\n",
        "last minute: 2 admitted, 1 paid   next has waited 0 s   revenue 20,000",
    ] {
        assert!(frame.contains(line), "{line:?} in {frame:?}");
    }
    process.signal(Signal::SIGINT).unwrap();
    assert!(process.ended(LIMIT).await.unwrap().expect("its end").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_concert_or_a_server_that_is_not_there_is_named() {
    let world = World::new(Engine::Sqlite).await;
    let output = process::output(&mut watch(world.server(0).admin_address), LIMIT).await.unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains("there is no concert \"IU\""), "{message}");
    let nowhere = testkit::net::free_address().unwrap();
    let output = process::output(&mut watch(nowhere), LIMIT).await.unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains("no server answers at "), "{message}");
}
