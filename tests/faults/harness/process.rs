//! The server as a process: started, signalled, measured, and gone with this one however it ends.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::mpsc;

/// A server that does not come up within this long is broken, however slow the machine is.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a log that are kept, to be shown when something fails.
const KEPT_LINES: usize = 30;

/// A running `boxoffice serve` on free ports.
pub struct Process {
    child: Child,
    reaper: Child,
    lines: mpsc::UnboundedReceiver<String>,
    log: Arc<Mutex<VecDeque<String>>>,
    /// Where the public services are.
    pub address: SocketAddr,
    /// Where AdminService is.
    pub admin_address: SocketAddr,
}

impl Process {
    /// Starts `command`, which runs the binary, and reads from its log where it listens.
    pub async fn start(mut command: Command) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
            .env("BOXOFFICE_LOG", "warn,boxoffice=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let reaper = after_us(&format!("kill -9 {} 2>/dev/null", child.id()));
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let lines = follow(child.stderr.take().expect("standard error"), log.clone());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Self { child, reaper, lines, log, address: nowhere, admin_address: nowhere };
        let line = process.wait_for("listening").await;
        let fields = &serde_json::from_str::<serde_json::Value>(&line).expect("a line of JSON")["fields"];
        let address = |name: &str| fields[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
        (process.address, process.admin_address) = (address("address"), address("admin_address"));
        process
    }

    /// Waits until the log says that the server is ready.
    pub async fn ready(&mut self) {
        self.wait_for("\"message\":\"ready\"").await;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal");
    }

    /// Kills it on the spot.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("a dead process");
    }

    /// Waits for it to end by itself; `None` if it does not within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            let status = self.child.try_wait().expect("a child");
            if status.is_some() || started.elapsed() >= limit {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Memory in use, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.expect("VmRSS of a living process") * 1024
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let log = self.log.lock().expect("log");
        log.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }

    async fn wait_for(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.lines.recv().await {
                if line.contains(text) {
                    return Some(line);
                }
            }
            None
        };
        let found = tokio::time::timeout(START_LIMIT, found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("the server did not say {text}:\n{}", self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The shell goes first: the id of the process may be given to another one once it is gone.
        let _ = self.reaper.kill();
        let _ = self.reaper.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("The log of {} ends:\n{}", self.address, self.log());
        }
    }
}

/// A shell that runs `script` once this process is gone, or lets go of the shell.
pub fn after_us(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("trap '' INT TERM HUP; cd /; cat >/dev/null; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}

/// Reads the log to its end, so that the server never waits for a reader.
fn follow(stderr: ChildStderr, log: Arc<Mutex<VecDeque<String>>>) -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = log.lock().expect("log");
            if log.len() == KEPT_LINES {
                log.pop_front();
            }
            log.push_back(line.clone());
            drop(log);
            let _ = sender.send(line);
        }
    });
    lines
}
