//! Child processes that never outlive this one.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use crate::Failure;

/// A process that is killed when this is dropped, or by a shell that waits for the end of this process however that comes.
pub struct Guarded {
    child: Child,
    reaper: Child,
}

impl Guarded {
    /// Starts `command`.
    pub fn spawn(command: &mut Command) -> Result<Self, Failure> {
        Self::start(command, "")
    }

    /// Starts `command`, whose files are in `dir`. If this process is gone before it could remove them, they are removed too.
    pub fn spawn_in(dir: &Path, command: &mut Command) -> Result<Self, Failure> {
        Self::start(command.current_dir(dir), &format!("; rm -rf '{}'", dir.display()))
    }

    fn start(command: &mut Command, tidy: &str) -> Result<Self, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        match reaper(&format!("kill -9 {} 2>/dev/null{tidy}", child.id())) {
            Ok(reaper) => Ok(Self { child, reaper }),
            Err(error) => {
                // Nobody would end it otherwise.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    async fn ended(&mut self, limit: Duration) -> Result<ExitStatus, Failure> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if started.elapsed() > limit {
                return Err(format!("a program did not end within {limit:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The shell goes first: the id of the process may be given to another one once it is gone.
        let _ = self.reaper.kill();
        let _ = self.reaper.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that runs `script` once its standard input ends: when it is dropped, or when this process is gone.
pub fn reaper(script: &str) -> Result<Child, Failure> {
    let script = format!("trap '' INT TERM HUP; cd /; cat >/dev/null; {script}");
    let shell = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    shell.map_err(|error| format!("cannot start sh: {error}").into())
}

/// Runs `command` to its end, at most for `limit`, and keeps what it says, which has to fit a pipe.
pub async fn output(command: &mut Command, limit: Duration) -> Result<Output, Failure> {
    let mut process = Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let status = process.ended(limit).await?;
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    if let Some(mut pipe) = process.child.stdout.take() {
        pipe.read_to_end(&mut output.stdout)?;
    }
    if let Some(mut pipe) = process.child.stderr.take() {
        pipe.read_to_end(&mut output.stderr)?;
    }
    Ok(output)
}

/// Runs `command` to its end, at most for `limit`.
pub async fn status(command: &mut Command, limit: Duration) -> Result<ExitStatus, Failure> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Guarded::spawn(command)?.ended(limit).await
}
