//! One request at a time, by `curl`: enough to prepare a server and to see that it is itself.

use std::io::Write;
use std::process::{Command, Stdio};

use super::places::SECRET;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// 0 where nothing did.
    pub status: u16,
    pub body: Vec<u8>,
}

/// A request in the making.
pub struct Curl {
    port: u16,
    arguments: Vec<String>,
}

impl Curl {
    pub fn new(port: u16) -> Self {
        Self { port, arguments: ["--silent", "--max-time", "30"].map(ToOwned::to_owned).into() }
    }

    /// Signed as S3 wants it, with this key.
    pub fn signed(mut self, key: &str) -> Self {
        self.add(&["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &format!("{key}:{SECRET}")]);
        self.field("x-amz-content-sha256: UNSIGNED-PAYLOAD")
    }

    pub fn field(mut self, field: &str) -> Self {
        self.add(&["--header", field]);
        self
    }

    fn add(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
    }

    pub fn get(self, path: &str) -> Answer {
        self.send(path, None)
    }

    pub fn put(self, path: &str, body: &[u8]) -> Answer {
        self.with_body("PUT", path, body)
    }

    pub fn post(self, path: &str, body: &[u8]) -> Answer {
        self.with_body("POST", path, body)
    }

    pub fn delete(mut self, path: &str) -> Answer {
        self.add(&["--request", "DELETE"]);
        self.send(path, None)
    }

    fn with_body(mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.add(&["--request", method, "--data-binary", "@-"]);
        self.send(path, Some(body))
    }

    fn send(mut self, path: &str, body: Option<&[u8]>) -> Answer {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        self.add(&["--write-out", "%{http_code}", &url]);
        let mut command = Command::new("curl");
        command.args(&self.arguments).env_remove("http_proxy").env("NO_PROXY", "*");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("`curl` is missing: run ./test.sh, which installs it");
        // One that gives up does not read.
        let _ = child.stdin.take().expect("a pipe").write_all(body.unwrap_or_default());
        let mut out = child.wait_with_output().expect("curl ends").stdout;
        // The last three bytes are the status.
        let status = out.split_off(out.len().saturating_sub(3));
        Answer { status: String::from_utf8_lossy(&status).parse().unwrap_or(0), body: out }
    }
}

impl Answer {
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}
