//! Chromium's process and its DevTools protocol.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

/// Longer than anything here takes on a busy machine, so that a browser that hangs fails its test.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// A browser that runs, and the connection to it.
pub(super) struct DevTools {
    child: Child,
    socket: WebSocket<TcpStream>,
    /// The page that is spoken to.
    pub(super) session: Option<String>,
    calls: u64,
    /// Errors and warnings of the page, exceptions first of all.
    pub(super) complaints: Vec<String>,
    /// Every address that was asked for.
    pub(super) requests: Vec<String>,
    /// The page that was navigated to last is there.
    pub(super) loaded: bool,
    _profile: TempDir,
}

impl DevTools {
    /// Starts the first browser that there is.
    pub(super) fn start() -> DevTools {
        let profile = tempfile::tempdir().unwrap();
        let child = NAMES
            .into_iter()
            .find_map(|name| {
                Command::new(name)
                    .args([
                        "--headless=new",
                        // Chromium refuses its sandbox to root; the pages are our own.
                        "--no-sandbox",
                        "--disable-gpu",
                        "--disable-dev-shm-usage",
                        "--disable-background-networking",
                        "--disable-component-update",
                        "--disable-sync",
                        "--disable-quic",
                        "--no-first-run",
                        "--no-default-browser-check",
                        "--hide-scrollbars",
                        "--force-color-profile=srgb",
                        "--remote-debugging-port=0",
                    ])
                    .arg(format!("--user-data-dir={}", profile.path().display()))
                    .arg("about:blank")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .ok()
            })
            .unwrap_or_else(|| {
                panic!(
                    "this test needs Chromium, and none of {NAMES:?} can be started. Install it: \
                     Debian: apt-get install chromium; Fedora: dnf install chromium; \
                     Arch: pacman -S chromium"
                )
            });
        let mut child = Some(child);
        let begun = Instant::now();
        let (port, path) = loop {
            // The browser writes its port, then the path of its socket.
            let told =
                fs::read_to_string(profile.path().join("DevToolsActivePort")).unwrap_or_default();
            if let Some((port, path)) = told.trim().split_once('\n') {
                break (port.parse::<u16>().unwrap(), path.to_owned());
            }
            let running = child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                running.is_none() && begun.elapsed() < PATIENCE,
                "Chromium did not start: {running:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) =
            tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream).unwrap();
        DevTools {
            child: child.take().unwrap(),
            socket,
            session: None,
            calls: 0,
            complaints: Vec::new(),
            requests: Vec::new(),
            loaded: false,
            _profile: profile,
        }
    }

    /// Calls a method of the protocol and waits for its answer.
    pub(super) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.socket
            .send(Message::text(message.to_string()))
            .unwrap();
        loop {
            let mut answer = self.listen();
            if answer["id"] == json!(id) {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].take();
            }
        }
    }

    /// Takes in one message.
    pub(super) fn listen(&mut self) -> Value {
        let message = loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => break text,
                Ok(_) => {}
                Err(error) => panic!("Chromium does not answer: {error}"),
            }
        };
        let message: Value = serde_json::from_str(&message).unwrap();
        let told = &message["params"];
        match message["method"].as_str() {
            Some("Page.loadEventFired") => self.loaded = true,
            Some("Network.requestWillBeSent") => {
                let url = told["request"]["url"].as_str().unwrap_or_default();
                self.requests.push(url.to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(told.to_string()),
            Some("Runtime.consoleAPICalled")
                if ["error", "warning", "assert"]
                    .contains(&told["type"].as_str().unwrap_or_default()) =>
            {
                self.complaints.push(told["args"].to_string());
            }
            Some("Log.entryAdded") => self.complaints.push(told["entry"]["text"].to_string()),
            _ => {}
        }
        message
    }
}

impl Drop for DevTools {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
