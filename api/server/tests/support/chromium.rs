//! A real browser, without a window, driven through two pipes by the DevTools protocol: messages are JSON, each
//! with a zero byte behind it. `.ci/setup` installs it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A page in a browser.
pub(crate) struct Page {
    browser: Child,
    to: Option<ChildStdin>,
    from: Receiver<Value>,
    reader: Option<JoinHandle<()>>,
    session: Option<String>,
    last: u64,
    /// What the page complained of.
    complaints: Vec<String>,
    _profile: TempDir,
}

fn read(from: ChildStdout, to: &Sender<Value>) {
    let mut from = BufReader::new(from);
    let mut raw = Vec::new();
    while from.read_until(0, &mut raw).is_ok_and(|bytes| bytes > 0) {
        raw.pop();
        let Ok(message) = serde_json::from_slice(&raw) else { return };
        if to.send(message).is_err() {
            return;
        }
        raw.clear();
    }
}

impl Page {
    /// Opens a browser with an empty page of this size.
    pub(crate) fn open(width: u32, height: u32) -> Self {
        let found = NAMES.iter().find(|name| {
            let found = Command::new(name).arg("--version").output();
            found.is_ok_and(|output| output.status.success())
        });
        let name = found.expect("no chromium on this machine: `.ci/setup` installs it");
        let profile = tempfile::tempdir().unwrap();
        // What the browser reads of is 3, what it writes to is 4. It runs without a sandbox, since that is not to
        // be had everywhere; all that it is shown is our own.
        let command = format!(
            "exec {name} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
             --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
             --remote-debugging-pipe --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1"
        );
        let mut browser = Command::new("sh")
            .arg("-c")
            .arg(command)
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, from) = channel();
        let out = browser.stdout.take().unwrap();
        let reader = std::thread::Builder::new().name("chromium".to_owned());
        let reader = reader.spawn(move || read(out, &sender)).unwrap();
        let to = browser.stdin.take();
        let mut page = Self {
            browser,
            to,
            from,
            reader: Some(reader),
            session: None,
            last: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }));
        let asked = json!({ "targetId": target["targetId"], "flatten": true });
        let session = page.call("Target.attachToTarget", asked);
        page.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        page.call("Emulation.setDeviceMetricsOverride", size);
        page
    }

    /// Calls a method, and waits for what it gives.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut raw = serde_json::to_vec(&message).unwrap();
        raw.push(0);
        let to = self.to.as_mut().expect("it is open");
        to.write_all(&raw).and_then(|()| to.flush()).expect("the browser has ended");
        loop {
            let message = self.next(method);
            if message["id"] == json!(id) {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }

    fn next(&mut self, during: &str) -> Value {
        let message = match self.from.recv_timeout(PATIENCE) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => panic!("the browser does not answer: {during}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the browser has ended: {during}"),
        };
        let params = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => Some(&params["exceptionDetails"]),
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => Some(&params["entry"]),
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => Some(&params["args"]),
            Some("Network.loadingFailed") if params["canceled"] != true => Some(params),
            _ => None,
        };
        self.complaints.extend(complaint.map(Value::to_string));
        message
    }

    /// What an expression comes to, in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
            // As if a person had done it.
            "userGesture": true,
        });
        let found = self.call("Runtime.evaluate", asked);
        assert!(found["exceptionDetails"].is_null(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        #[expect(clippy::disallowed_methods, reason = "a browser runs by the clock")]
        let until = Instant::now() + PATIENCE;
        // The page tells when it has drawn anew, so this asks once for each time that it has.
        let asked = format!(
            "new Promise((done, fail) => requestAnimationFrame(() => \
             (async () => !!(await ({expression})))().then(done, fail)))"
        );
        while self.eval(&asked) != true {
            #[expect(clippy::disallowed_methods, reason = "a browser runs by the clock")]
            let now = Instant::now();
            if now > until {
                let text = self.eval("document.body.innerText");
                panic!("{expression} does not come: {text}, {:?}", self.complaints);
            }
        }
    }

    pub(crate) fn go(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({ "url": url }));
        assert!(gone["errorText"].is_null(), "{gone}");
    }

    /// Clicks with the mouse in the middle of what a selector finds first.
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.eval(&format!(
            "(() => {{ const box = document.querySelector({selector:?}).getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// What the page complained of so far: errors, and what it could not load.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// Writes what is to be seen to a file, as PNG.
    pub(crate) fn shoot(&mut self, path: &Path) {
        let asked = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.call("Page.captureScreenshot", asked);
        let raw = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(path, raw).unwrap();
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It ends by itself, or when nobody can tell it anything any more.
        if let Some(mut to) = self.to.take() {
            let _ = to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        }
        let _ = self.browser.wait();
        let _ = self.reader.take().map(JoinHandle::join);
    }
}
