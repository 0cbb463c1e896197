//! Manages child processes and temporary directories. When this process ends, even by SIGKILL, shells kill the child
//! processes and remove the directories.

use std::{
    env,
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

pub use nix::sys::signal::Signal;
use nix::{
    pty::{Winsize, openpty},
    sys::signal,
    unistd::Pid,
};
use tempfile::TempDir;

use crate::Failure;

/// Interval between two checks whether a process has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A shell that runs a script when this value is dropped, or when this process ends. [`Reaper::cancel`] prevents this.
///
/// The shell waits for the end of its standard input, which is a pipe from this process. When this process ends, the
/// operating system closes the pipe.
pub struct Reaper(Child);

impl Reaper {
    /// Starts a shell that will run `script`.
    pub fn start(script: &str) -> Result<Self, Failure> {
        let script = format!("trap '' INT TERM HUP; cd /; cat >/dev/null; {script}");
        let shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        shell.map(Self).map_err(|error| format!("cannot start sh: {error}").into())
    }

    /// Ends the shell without running the script.
    pub fn cancel(&mut self) {
        // The kill fails only if the shell has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A process that is killed when this value is dropped, or when this process ends.
pub struct Guarded {
    child: Child,
    reaper: Reaper,
}

impl Guarded {
    /// Starts `command`, and a shell that kills it when this process ends.
    pub fn spawn(command: &mut Command) -> Result<Self, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        match Reaper::start(&format!("kill -9 {} 2>/dev/null", child.id())) {
            Ok(reaper) => Ok(Self { child, reaper }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the child process, from which the caller can take the pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        kill(self.child.id(), signal)
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until the process ends, and returns its exit status. Returns `None` if the process still runs after
    /// `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Failure> {
        let started = Instant::now();
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || started.elapsed() >= limit {
                return Ok(status);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Ends the shell first. After the end of the child process, its id may belong to another process, which the
        // shell would kill.
        self.reaper.cancel();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to the process with this id.
pub fn kill(pid: u32, signal: Signal) -> Result<(), Failure> {
    Ok(signal::kill(Pid::from_raw(pid.try_into()?), signal)?)
}

/// Runs `command` to its end, and returns its status and its output. Standard output and standard error must each fit
/// into a pipe (64 KiB on Linux). Fails if the command runs for longer than `limit`.
pub async fn output(command: &mut Command, limit: Duration) -> Result<Output, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut process = Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let status = process.ended(limit).await?.ok_or_else(|| format!("{name} did not end within {limit:?}"))?;
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    if let Some(mut pipe) = process.child.stdout.take() {
        pipe.read_to_end(&mut output.stdout)?;
    }
    if let Some(mut pipe) = process.child.stderr.take() {
        pipe.read_to_end(&mut output.stderr)?;
    }
    Ok(output)
}

/// Returns the path of a program of a server. Debian installs some of these programs in a directory that is not on the
/// PATH of every user.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.map(|place| place.join(name)).find(|program| program.exists())
}

/// Returns both ends of a terminal with 24 rows: the end that shows what a process prints, and the end that the process
/// gets.
pub fn terminal(columns: u16) -> Result<(File, OwnedFd), Failure> {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let ends = openpty(&size, None)?;
    Ok((ends.master.into(), ends.slave))
}

/// A directory that is removed when this value is dropped, or one second after this process ends.
pub struct ScratchDir {
    dir: TempDir,
    reaper: Reaper,
}

impl ScratchDir {
    /// Creates an empty directory.
    pub fn new() -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("boxoffice-").tempdir()?;
        // When this process ends, all reapers run their scripts. During this second, other reapers kill the child
        // processes that still write into the directory.
        let reaper = Reaper::start(&format!("sleep 1; rm -rf '{}'", dir.path().display()))?;
        Ok(Self { dir, reaper })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        self.reaper.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_runs_to_its_end_and_its_output_is_returned() {
        let limit = Duration::from_secs(10);
        let done = output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), limit).await.unwrap();
        assert_eq!((done.status.code(), &done.stdout[..], &done.stderr[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
        let late = output(Command::new("sleep").arg("60"), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(late.to_string(), "sleep did not end within 50ms");
    }

    #[test]
    fn a_dropped_reaper_has_run_its_script_and_a_cancelled_one_has_not() {
        let dir = ScratchDir::new().unwrap();
        let touch = |name: &str| format!("touch '{}'", dir.path().join(name).display());
        drop(Reaper::start(&touch("dropped")).unwrap());
        Reaper::start(&touch("cancelled")).unwrap().cancel();
        assert!(dir.path().join("dropped").exists());
        assert!(!dir.path().join("cancelled").exists());
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }
}
