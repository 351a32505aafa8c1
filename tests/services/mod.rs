//! Real servers for the tests: each private, on loopback, in a temporary folder, with secrets of its own. `./test.sh`
//! installs them; where one is missing the tests fail.
//!
//! A [`Service`] is a running server. [`shared`] gives the one that the whole test process uses (starting
//! `SeaweedFS` takes seconds); a test works in a [`Service::place`] of its own there. A test that kills its server
//! starts one with [`Service::start`].
//!
//! Nothing outlives the tests, however they end: a shell watches a pipe that the test process holds, and when the
//! pipe closes it ends the server's process group and removes its folder.

mod client;
mod places;
mod server;
#[cfg(test)]
mod themselves;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub use client::Answer;
use server::Server;

/// The servers that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// `SeaweedFS`: S3 with conditions, versions and object lock.
    SeaweedFs,
    /// rclone's S3: checks signatures, and takes no notice of conditions.
    RcloneS3,
    /// Azurite: Azure's blobs, with conditions.
    Azurite,
    /// Google's, emulated: takes no notice of `ifGenerationMatch=0`.
    Gcs,
    /// OpenSSH's SFTP.
    Sftp,
    /// `WsgiDAV`: heeds `If-None-Match`.
    WsgiDav,
    /// rclone's `WebDAV`: takes no notice of conditions.
    RcloneWebDav,
}

/// Whose key opens `SeaweedFS`.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// May do everything.
    Owner,
    /// May read, list and write; may not delete in buckets of [`Service::bucket_that_keeps`].
    Writer,
}

/// A running server.
pub struct Service {
    what: What,
    server: Server,
    places: AtomicU32,
}

/// The bucket, container or folder that is there from the start.
pub const BUCKET: &str = "alluvium";

/// The server of the whole test process.
pub fn shared(what: What) -> &'static Service {
    static SERVICES: [OnceLock<Service>; 7] = [const { OnceLock::new() }; 7];
    SERVICES[what as usize].get_or_init(|| Service::start(what))
}

impl Service {
    /// Starts a server and waits until it answers.
    pub fn start(what: What) -> Self {
        let service = Self { what, server: Server::start(what), places: AtomicU32::new(0) };
        service.prepare();
        service
    }

    /// Where it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Where it keeps its data, keys and log.
    pub fn folder(&self) -> &Path {
        self.server.folder()
    }

    /// Ends it as a power cut would: SIGKILL, and all its children too.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again, with its data and port, and waits until it answers.
    pub fn restart(&self) {
        self.server.restart();
    }

    /// The address of a place that nobody else uses.
    pub fn place(&self) -> String {
        self.place_over(self.port())
    }

    /// The same, reached over a proxy's port.
    pub fn place_over(&self, port: u16) -> String {
        let number = self.places.fetch_add(1, Ordering::SeqCst);
        self.address(port, BUCKET, &format!("place-{number}"))
    }
}

/// A program that `./test.sh` has installed.
pub fn program(name: &str) -> PathBuf {
    let path = installed().join("bin").join(name);
    assert!(path.exists(), "{} is missing: run ./test.sh, which installs it", path.display());
    path
}

/// The folder that `./test.sh` installs servers into.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("cargo's target folder").join("services")
}

/// Runs a program that must succeed, and gives what it said.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run ./test.sh, which installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
