//! Controls a headless Chromium with the DevTools protocol, through two pipes.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    Failure,
    process::{Guarded, ScratchDir},
};

/// Maximum time until the browser answers a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Interval between two checks whether a page is loaded.
const LOAD_INTERVAL: Duration = Duration::from_millis(20);
/// The names of the browser program on different systems. The first name that is found on the PATH is used.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Flags that run the browser without a window, a sandbox or background services. The last two flags make the browser
/// accept all certificates, and resolve the names `*.test` to this machine.
const FLAGS: [&str; 11] = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
];

/// A browser with one page. The browser is killed when this value is dropped, or when this process ends.
pub struct Browser {
    stdin: ChildStdin,
    messages: mpsc::UnboundedReceiver<Value>,
    session: Option<String>,
    last_id: u64,
    requests: Vec<String>,
    complaints: Vec<String>,
    _process: Guarded,
    _profile: ScratchDir,
}

impl Browser {
    /// Starts Chromium with an empty page of `width` by `height` pixels.
    pub async fn start(width: u32, height: u32) -> Result<Self, Failure> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
        let program = PROGRAMS.into_iter().find(|name| is_there(name));
        let program = program.ok_or("Chromium is missing: install it with `make browser`")?;
        let profile = ScratchDir::new()?;
        // The browser reads commands from descriptor 3 and writes answers to descriptor 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", program]).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("--remote-debugging-pipe");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Guarded::spawn(&mut command)?;
        let pipes = (process.child().stdin.take(), process.child().stdout.take());
        let (Some(stdin), Some(stdout)) = pipes else { return Err("the browser has no pipes".into()) };
        let (sender, messages) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for message in BufReader::new(stdout).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            stdin,
            messages,
            session: None,
            last_id: 0,
            requests: Vec::new(),
            complaints: Vec::new(),
            _process: process,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        browser.resize(width, height).await?;
        Ok(browser)
    }

    /// Changes the size of the page to `width` by `height` pixels.
    pub async fn resize(&mut self, width: u32, height: u32) -> Result<(), Failure> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Sets the preferred color scheme of the user: `colors` is `light` or `dark`.
    pub async fn prefer(&mut self, colors: &str) -> Result<(), Failure> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": colors }] });
        self.call("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// Opens a URL and waits until the page is loaded.
    pub async fn open(&mut self, url: &str) -> Result<(), Failure> {
        let opened = self.call("Page.navigate", json!({ "url": url })).await?;
        if let Some(error) = opened["errorText"].as_str() {
            return Err(format!("{url} cannot be opened: {error}").into());
        }
        while self.evaluate("document.readyState").await? != "complete" {
            tokio::time::sleep(LOAD_INTERVAL).await;
        }
        Ok(())
    }

    /// Evaluates a JavaScript expression in the page, and returns its value as JSON. If the value is a promise, returns
    /// the result of the promise. Fails if the expression throws an exception.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value, Failure> {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", asked).await?;
        match answer.get("exceptionDetails") {
            None => Ok(answer["result"]["value"].clone()),
            Some(details) => Err(format!("{expression}: {details}").into()),
        }
    }

    /// Presses and releases a key, such as `Tab` or `ArrowLeft`.
    pub async fn press(&mut self, key: &str) -> Result<(), Failure> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => return Err(format!("the key {key} is not supported; add its code to Browser::press").into()),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "code": key, "text": text, "windowsVirtualKeyCode": code,
            });
            self.call("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// Types a text into the field that has the focus.
    pub async fn type_text(&mut self, text: &str) -> Result<(), Failure> {
        self.call("Input.insertText", json!({ "text": text })).await.map(drop)
    }

    /// Returns a picture of the whole page, as a PNG file.
    pub async fn picture(&mut self) -> Result<Vec<u8>, Failure> {
        let shot =
            self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true })).await?;
        Ok(STANDARD.decode(shot["data"].as_str().unwrap_or_default())?)
    }

    /// Returns the URLs that the page requested before the last answer of the browser.
    pub fn requests(&self) -> &[String] {
        &self.requests
    }

    /// Returns the exceptions and the browser's security messages that occurred before the last answer of the browser.
    /// A violation of the Content-Security-Policy is such a message.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.stdin.write_all(&bytes)?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, self.answer(self.last_id)).await;
        answer.map_err(|_| format!("the browser did not answer {method} within {ANSWER_LIMIT:?}"))?
    }

    async fn answer(&mut self, id: u64) -> Result<Value, Failure> {
        while let Some(mut message) = self.messages.recv().await {
            if message["id"] == id {
                return match message.get("error") {
                    None => Ok(message["result"].take()),
                    Some(error) => Err(error.to_string().into()),
                };
            }
            self.note(&message);
        }
        Err("the browser ended before it answered".into())
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.extend(params["request"]["url"].as_str().map(str::to_owned));
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if params["entry"]["source"] == "security" => {
                self.complaints.push(params["entry"].to_string());
            }
            _ => {}
        }
    }
}
