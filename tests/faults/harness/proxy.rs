//! A TCP proxy that can delay, hold back or drop bytes and cut connections. It is the network between callers and a
//! server, or between a server and its database.

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

/// The state of the network, for open and for new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// All bytes pass.
    Fair,
    /// Bytes to the server pass after this delay. Answers pass without a delay.
    Slow(Duration),
    /// No bytes pass in either direction, and connections stay open.
    Stalled,
    /// Bytes to the server pass, and its answers are dropped.
    Mute,
    /// Open connections are cut, and new connections are closed immediately.
    Cut,
    /// The host of the server has vanished: no bytes pass, and nothing is closed. The open connections stay silent
    /// forever, even after a change to another state.
    Vanished,
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer,
    ToCaller,
}

/// A proxy. Its listener and all its connections end when this value is dropped.
pub struct Proxy {
    /// The address of the proxy. This address stays the same when the target changes.
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    /// The address to which new connections go; `None` before the first [`Proxy::aim`].
    target: Mutex<Option<SocketAddr>>,
    /// The local ports of the open connections to the target. For the target, these are the ports of its clients.
    ports: Mutex<HashSet<u16>>,
}

impl Proxy {
    /// Starts a proxy on a free port. The proxy closes new connections immediately until it has a target.
    pub async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    /// Starts a proxy like [`Proxy::start`] at `address`.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let weather = watch::Sender::new(Weather::Fair);
        let shared = Arc::new(Shared { target: Mutex::default(), ports: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, weather.clone(), shared.clone()));
        Self { address, weather, shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Sets the target of new connections.
    pub fn aim(&self, target: SocketAddr) {
        *self.shared.target.lock().expect("target") = Some(target);
    }

    /// Changes the state of the network.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Cuts all open connections, waits until they are closed, and then accepts new connections.
    pub async fn cut_once(&self) {
        self.set(Weather::Cut);
        while !self.shared.ports.lock().expect("ports").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.set(Weather::Fair);
    }

    /// Returns whether an open connection to the target has this local port.
    pub fn speaks_from(&self, port: u16) -> bool {
        self.shared.ports.lock().expect("ports").contains(&port)
    }
}

async fn accept(listener: TcpListener, weather: watch::Sender<Weather>, shared: Arc<Shared>) {
    // The tasks of the connections end together with this task.
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

async fn connect(mut caller: TcpStream, weather: watch::Receiver<Weather>, shared: Arc<Shared>) -> io::Result<()> {
    if *weather.borrow() == Weather::Vanished {
        return swallow(&mut caller).await;
    }
    let target = *shared.target.lock().expect("target");
    let mut server = TcpStream::connect(target.ok_or(io::ErrorKind::ConnectionRefused)?).await?;
    caller.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let port = server.local_addr()?.port();
    shared.ports.lock().expect("ports").insert(port);
    let (from_caller, to_caller) = caller.split();
    let (from_server, to_server) = server.split();
    let pumps = async {
        tokio::try_join!(
            pump(from_caller, to_server, Direction::ToServer, weather.clone()),
            pump(from_server, to_caller, Direction::ToCaller, weather.clone()),
        )
    };
    let mut trouble = weather.clone();
    let ended = tokio::select! {
        ended = pumps => ended.map(|_| Weather::Fair),
        trouble = trouble.wait_for(|weather| matches!(weather, Weather::Cut | Weather::Vanished)) => {
            Ok(trouble.map_or(Weather::Cut, |trouble| *trouble))
        }
    };
    shared.ports.lock().expect("ports").remove(&port);
    match ended? {
        Weather::Vanished => {
            drop(server);
            swallow(&mut caller).await
        }
        _ => Ok(()),
    }
}

/// Reads what a caller sends, and never answers.
async fn swallow(caller: &mut TcpStream) -> io::Result<()> {
    tokio::io::copy(caller, &mut tokio::io::sink()).await.map(drop)
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

/// Waits as long as the state of the network requires. Returns whether the bytes pass.
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
            // Waits until the state changes. If connections are cut or the host has vanished, `connect` drops this
            // future.
            (Weather::Stalled | Weather::Cut | Weather::Vanished, _) => {
                let _ = weather.changed().await;
            }
        }
    }
}
