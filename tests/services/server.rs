//! The processes: how each server is called, when it is ready, and that it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::client::Curl;
use super::places::{OWNER, SECRET, WRITER};
use super::{BUCKET, What, installed, output_of, program};

/// How long a server may take to start where other tests run too.
const PATIENCE: Duration = Duration::from_mins(1);

pub struct Server {
    what: What,
    /// The first is where clients connect.
    ports: Vec<u16>,
    folder: TempDir,
    running: Mutex<Running>,
}

struct Running {
    child: Option<Child>,
    watcher: Child,
}

impl Server {
    pub fn start(what: What) -> Self {
        // Between choosing a port and using it, somebody else may have taken it.
        let mut said = String::new();
        for _ in 0..3 {
            let server = Self::prepared(what);
            match server.run() {
                Ok(()) => return server,
                Err(why) => said = why,
            }
        }
        panic!("{what:?} does not start: {said}");
    }

    fn prepared(what: What) -> Self {
        let folder = tempfile::Builder::new().prefix("alluvium-service-").tempdir().expect("a temporary folder");
        let ports = (0..if what == What::SeaweedFs { 8 } else { 1 }).map(|_| free_port()).collect();
        let server =
            Self { what, ports, running: Mutex::new(Running { child: None, watcher: watch(folder.path()) }), folder };
        server.write_configuration();
        server
    }

    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn kill(&self) {
        self.running().kill();
    }

    pub fn restart(&self) {
        self.kill();
        self.run().unwrap_or_else(|said| panic!("{:?} does not start again: {said}", self.what));
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it and waits for it; the error is what it said.
    fn run(&self) -> Result<(), String> {
        let log = self.folder().join("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
        command.current_dir(self.folder()).env("HOME", self.folder()).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; run ./test.sh, which installs it"));
        let mut running = self.running();
        running.tell(&child.id().to_string());
        running.child = Some(child);
        let since = Instant::now();
        while !self.answers() {
            let ended = running.child.as_mut().is_none_or(|c| c.try_wait().is_ok_and(|s| s.is_some()));
            if ended || since.elapsed() > PATIENCE {
                running.kill();
                return Err(fs::read_to_string(&log).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let (port, folder) = (self.port().to_string(), self.folder());
        let data = folder.join("data");
        let address = format!("127.0.0.1:{port}");
        let program_of = |name: &str| Command::new(program(name));
        let mut command;
        match self.what {
            What::SeaweedFs => {
                command = program_of("weed");
                let flag = |name: &str, n: usize| format!("-{name}={}", self.ports[n]);
                command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer"]);
                command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]);
                command.args(["-volume.max=40", "-master.volumeSizeLimitMB=64"]);
                // Started again, it elects itself, and would wait ten seconds for others first.
                command.args(["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]);
                command.args([flag("s3.port", 0), flag("s3.port.grpc", 1)]);
                command.args([flag("master.port", 2), flag("master.port.grpc", 3)]);
                command.args([flag("volume.port", 4), flag("volume.port.grpc", 5)]);
                command.args([flag("filer.port", 6), flag("filer.port.grpc", 7)]);
                command.arg(format!("-dir={}", data.display()));
                command.arg(format!("-s3.config={}", folder.join("s3.json").display()));
            }
            What::RcloneS3 => {
                command = program_of("rclone");
                command.args(["serve", "s3", "--addr", &address, "--auth-key", &format!("{OWNER},{SECRET}")]).arg(data);
                command.env("RCLONE_CONFIG", "");
            }
            What::RcloneWebDav => {
                command = program_of("rclone");
                command.args(["serve", "webdav", "--addr", &address]).arg(data).env("RCLONE_CONFIG", "");
            }
            What::Azurite => {
                command = program_of("node");
                command.arg(installed().join("azurite/node_modules/.bin/azurite-blob"));
                command.args(["--blobHost", "127.0.0.1", "--blobPort", &port, "--silent", "--disableTelemetry"]);
                command.args(["--skipApiVersionCheck", "--location"]).arg(data);
            }
            What::Gcs => {
                command = program_of("gcp-storage-emulator");
                command.args(["start", "--host", "127.0.0.1", "--port", &port, "--default-bucket", BUCKET]);
                command.env("STORAGE_BASE", folder).env("STORAGE_DIR", "data");
            }
            What::WsgiDav => {
                command = program_of("wsgidav");
                command.args(["--host", "127.0.0.1", "--port", &port, "--auth", "anonymous", "--no-config", "-q"]);
                command.arg("--root").arg(data);
            }
            What::Sftp => {
                command = Command::new("/usr/sbin/sshd");
                command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
            }
        }
        command
    }

    fn write_configuration(&self) {
        let folder = self.folder();
        let file = |name: &str| folder.join(name).display().to_string();
        fs::create_dir_all(folder.join("data")).expect("a folder");
        match self.what {
            What::SeaweedFs => {
                let identity = |name: &str, actions: &[&str]| {
                    let credentials = [serde_json::json!({ "accessKey": name, "secretKey": SECRET })];
                    serde_json::json!({ "name": name, "credentials": credentials, "actions": actions })
                };
                let identities = [
                    identity(OWNER, &["Admin", "Read", "Write", "List", "Tagging"]),
                    // A write right includes deletion here; a bucket's policy takes that away.
                    identity(WRITER, &["Read", "Write", "List"]),
                ];
                let json = serde_json::json!({ "identities": identities }).to_string();
                fs::write(folder.join("s3.json"), json).expect("written");
            }
            What::Sftp => {
                for key in ["host_key", "user_key"] {
                    output_of(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &file(key)]));
                }
                fs::copy(folder.join("user_key.pub"), folder.join("authorized_keys")).expect("copied");
                let settings = [
                    format!("Port {}", self.port()),
                    format!("HostKey {}", file("host_key")),
                    format!("AuthorizedKeysFile {}", file("authorized_keys")),
                    // The temporary folder's parents are not the user's own.
                    "ListenAddress 127.0.0.1\nStrictModes no\nUsePAM no\nPidFile none".to_owned(),
                    "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes".to_owned(),
                    "Subsystem sftp internal-sftp\nMaxStartups 100\nMaxSessions 100\n".to_owned(),
                ];
                fs::write(folder.join("sshd_config"), settings.join("\n")).expect("written");
                // Run by root, sshd wants this folder, which Debian makes when the machine starts.
                let _ = fs::create_dir("/run/sshd");
            }
            // Folders are what clients find; rclone would not notice one that comes later.
            What::WsgiDav | What::RcloneWebDav => {}
            What::RcloneS3 | What::Azurite | What::Gcs => return,
        }
        if self.what != What::SeaweedFs {
            fs::create_dir(folder.join("data").join(BUCKET)).expect("a folder");
        }
    }

    /// True when it serves requests, not only connections.
    fn answers(&self) -> bool {
        let curl = || Curl::new(self.port());
        match self.what {
            What::SeaweedFs => {
                let (bucket, object) = (format!("/{BUCKET}"), format!("/{BUCKET}/ready"));
                matches!(curl().signed(OWNER).put(&bucket, b"").status, 200 | 409)
                    && curl().signed(OWNER).put(&object, b"ready").status == 200
                    && curl().signed(OWNER).delete(&object).status == 204
            }
            What::RcloneS3 => curl().signed(OWNER).get("/").status == 200,
            What::Azurite | What::Gcs | What::WsgiDav | What::RcloneWebDav => curl().get("/").status != 0,
            What::Sftp => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).is_ok_and(|mut stream| {
                let mut greeting = [0; 4];
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                stream.read_exact(&mut greeting).is_ok() && greeting == *b"SSH-"
            }),
        }
    }
}

impl Running {
    /// Tells the watcher which process group to end; nothing means none.
    fn tell(&mut self, group: &str) {
        let stdin = self.watcher.stdin.as_mut().expect("a pipe");
        let _ = writeln!(stdin, "{group}").and_then(|()| stdin.flush());
    }

    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait();
        self.tell("");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// A shell that ends the process group last told, and removes the folder, when this process ends.
fn watch(folder: &Path) -> Child {
    let script = r#"
        group=
        while read -r told; do group=$told; done
        [ -z "$group" ] || kill -s KILL -- "-$group"
        # Whoever was just killed may still have been writing.
        rm -rf "$1" || { sleep 1; rm -rf "$1"; }
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(folder).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell")
}

/// A port that nobody listens on, from where the system takes none for connections of its own.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let from = (std::process::id() % 1000) as u16 * 10;
    for _ in 0..2000 {
        let port = 20_000 + from.wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst)) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Appends a line that is not there yet.
pub fn add_line(path: &Path, line: &str) {
    if !fs::read_to_string(path).unwrap_or_default().lines().any(|l| l == line) {
        let mut file: File = OpenOptions::new().create(true).append(true).open(path).expect("a file");
        writeln!(file, "{line}").expect("written");
    }
}

#[test]
fn the_watcher_ends_a_whole_group_and_removes_its_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder").keep();
    let mut watcher = watch(&folder);
    let mut parent = Command::new("sh");
    parent.args(["-c", "sleep 100 & sleep 100"]).process_group(0);
    let mut parent = parent.spawn().expect("a shell");
    writeln!(watcher.stdin.take().expect("a pipe"), "{}", parent.id()).expect("told");
    // The pipe is closed, as it is when this process ends.
    assert!(watcher.wait().expect("ends").success());
    assert!(!parent.wait().expect("ends").success() && !folder.exists());
}
