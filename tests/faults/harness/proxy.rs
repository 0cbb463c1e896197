//! A TCP proxy that can be slow, silent, deaf or gone: the network between callers and a server, or a server and its database.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

/// What the network does to connections, those that are open and those to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Passes all.
    Fair,
    /// What goes to the server takes so much longer.
    Slow(Duration),
    /// Nothing gets through in either direction, and nobody is told.
    Stalled,
    /// What goes to the server arrives, what it answers does not.
    Mute,
    /// Connections are cut and new ones refused.
    Cut,
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer,
    ToCaller,
}

/// The proxy; it ends with all its connections when dropped.
pub struct Proxy {
    /// Where it listens: stays the same when the target moves.
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    target: Mutex<Option<SocketAddr>>,
    /// Local ports of the open connections to the target, by which a server knows who asks.
    ports: Mutex<HashSet<u16>>,
}

impl Proxy {
    /// Listens on a free port; connections are cut until it is aimed.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let weather = watch::Sender::new(Weather::Fair);
        let shared = Arc::new(Shared { target: Mutex::default(), ports: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, weather.clone(), shared.clone()));
        Self { address, weather, shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Where connections from now on go to.
    pub fn aim(&self, target: SocketAddr) {
        *self.shared.target.lock().expect("target") = Some(target);
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Cuts the connections that are open and lets new ones pass.
    pub async fn cut_once(&self) {
        self.set(Weather::Cut);
        while !self.shared.ports.lock().expect("ports").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.set(Weather::Fair);
    }

    /// Whether an open connection reaches the target from this port.
    pub fn speaks_from(&self, port: u16) -> bool {
        self.shared.ports.lock().expect("ports").contains(&port)
    }
}

async fn accept(listener: TcpListener, weather: watch::Sender<Weather>, shared: Arc<Shared>) {
    // Connections are children of this task and end with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (Ok((caller, _)), true) = (accepted, *weather.borrow() != Weather::Cut) else { continue };
                connections.spawn(connect(caller, weather.subscribe(), shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(caller: TcpStream, weather: watch::Receiver<Weather>, shared: Arc<Shared>) -> io::Result<()> {
    let target = *shared.target.lock().expect("target");
    let server = TcpStream::connect(target.ok_or(io::ErrorKind::ConnectionRefused)?).await?;
    caller.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let port = server.local_addr()?.port();
    shared.ports.lock().expect("ports").insert(port);
    let (from_caller, to_caller) = caller.into_split();
    let (from_server, to_server) = server.into_split();
    let pumps = async {
        tokio::try_join!(
            pump(from_caller, to_server, Direction::ToServer, weather.clone()),
            pump(from_server, to_caller, Direction::ToCaller, weather.clone()),
        )
    };
    let mut cut = weather.clone();
    let ended = tokio::select! {
        ended = pumps => ended.map(drop),
        _ = cut.wait_for(|weather| *weather == Weather::Cut) => Ok(()),
    };
    shared.ports.lock().expect("ports").remove(&port);
    ended
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    direction: Direction,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if passes(direction, &mut weather).await {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

/// Waits as long as the weather says and tells whether the bytes get through.
async fn passes(direction: Direction, weather: &mut watch::Receiver<Weather>) -> bool {
    loop {
        let now = *weather.borrow_and_update();
        match (now, direction) {
            (Weather::Slow(delay), Direction::ToServer) => {
                tokio::time::sleep(delay).await;
                return true;
            }
            (Weather::Mute, Direction::ToCaller) => return false,
            (Weather::Fair | Weather::Slow(_) | Weather::Mute, _) => return true,
            // Until it changes; a cut ends the connection from outside.
            (Weather::Stalled | Weather::Cut, _) => {
                let _ = weather.changed().await;
            }
        }
    }
}
