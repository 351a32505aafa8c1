//! Where a repository is, as people write it: a path, or the address of a remote store. Pure.
//!
//! ```text
//! /backup/shop                                                  a folder
//! s3://bucket/prefix?endpoint=https://minio.example:9000        S3 and what speaks it
//! azblob://container/prefix?account=name                        Azure Blob Storage
//! gcs://bucket/prefix                                           Google Cloud Storage
//! sftp://user@host:22/path?key-file=/etc/alluvium/ssh-key       a host with sshd
//! webdavs://user@host/path                                      WebDAV over TLS (webdav:// without)
//! ```
//!
//! An address ends up in logs, process lists and shell histories, so it never holds a secret: one that does is
//! refused, and the refusal does not repeat it. Options are a closed list: a typo is an error, not a backup that
//! goes somewhere else. `docs/storage.md` has the tables.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// A place for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A folder of the file system.
    Folder(PathBuf),
    /// A store on the network.
    Remote(Box<RemoteAddress>),
}

/// The kinds of remote stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// S3, and what speaks its language: MinIO, Ceph, R2, B2, Wasabi, `SeaweedFS`, …
    S3,
    /// Azure Blob Storage.
    Azblob,
    /// Google Cloud Storage.
    Gcs,
    /// A host with an SFTP server, through the `ssh` program.
    Sftp,
    /// WebDAV; over TLS or not.
    Webdav {
        /// `webdavs`.
        tls: bool,
    },
}

/// A place on the network. Options that were not given are `None`, or their default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAddress {
    /// What is spoken.
    pub service: Service,
    /// Bucket, container, or host with an optional port.
    pub host: String,
    /// Who logs in (SFTP, WebDAV).
    pub user: Option<String>,
    /// The path below, without slashes at its ends; empty for the top.
    pub root: String,
    /// Where the service listens; `http://` or `https://`.
    pub endpoint: Option<String>,
    /// S3: what signatures name as the region.
    pub region: Option<String>,
    /// S3: the bucket stands in the path (the default) or in the host name.
    pub path_style: bool,
    /// S3, GCS: the class of new objects.
    pub storage_class: Option<String>,
    /// S3: the server encrypts: `AES256` or `aws:kms`.
    pub encryption: Option<String>,
    /// S3: with this key of its key management.
    pub encryption_key: Option<String>,
    /// S3: the profile in the credentials file.
    pub profile: Option<String>,
    /// S3: new objects can't be deleted or replaced for a while.
    pub lock: Option<ObjectLock>,
    /// Azure: the storage account.
    pub account: Option<String>,
    /// S3, GCS: requests are not signed.
    pub anonymous: bool,
    /// SFTP: the private key's file.
    pub key_file: Option<String>,
    /// SFTP: `strict`, `accept` or `add`.
    pub known_hosts: Option<String>,
    /// What a request may take, its retries left out; more for large bodies.
    pub timeout: Duration,
    /// How often a request that failed for a passing reason is repeated.
    pub retries: u32,
    /// Requests at once.
    pub connections: usize,
    /// Bytes a second.
    pub limit_upload: Option<u64>,
    /// Bytes a second.
    pub limit_download: Option<u64>,
    /// There is only ever one writer: the store need not create exclusively.
    pub single_writer: bool,
}

/// S3 object lock, for every object that is never deleted before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    /// Nobody can lift it, the account's owner included.
    pub compliance: bool,
    /// How long, from the upload.
    pub retain: Duration,
}

/// Longest retention: 100 years.
const RETAIN_DAYS_MAX: u64 = 36_500;
const COMMON: [&str; 6] = ["timeout", "retries", "connections", "limit-upload", "limit-download", "single-writer"];

impl Service {
    /// All of them with their schemes, in the order of messages.
    const ALL: [(&'static str, Self); 6] = [
        ("s3", Self::S3),
        ("azblob", Self::Azblob),
        ("gcs", Self::Gcs),
        ("sftp", Self::Sftp),
        ("webdav", Self::Webdav { tls: false }),
        ("webdavs", Self::Webdav { tls: true }),
    ];

    /// The scheme of its addresses.
    pub fn scheme(self) -> &'static str {
        Self::ALL.iter().find(|(_, service)| *service == self).map_or("", |(scheme, _)| scheme)
    }

    /// The Cargo feature that compiles it in.
    pub fn feature(self) -> &'static str {
        if let Self::Webdav { .. } = self { "webdav" } else { self.scheme() }
    }

    /// True when this program was built with it.
    pub fn is_built_in(self) -> bool {
        match self {
            Self::S3 => cfg!(feature = "s3"),
            Self::Azblob => cfg!(feature = "azblob"),
            Self::Gcs => cfg!(feature = "gcs"),
            Self::Sftp => cfg!(feature = "sftp"),
            Self::Webdav { .. } => cfg!(feature = "webdav"),
        }
    }

    /// The options of its own.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
                "endpoint",
                "region",
                "path-style",
                "storage-class",
                "sse",
                "sse-kms-key-id",
                "profile",
                "object-lock",
                "retain",
                "anonymous",
            ],
            Self::Azblob => &["account", "endpoint"],
            Self::Gcs => &["endpoint", "storage-class", "anonymous"],
            Self::Sftp => &["key-file", "known-hosts"],
            Self::Webdav { .. } => &[],
        }
    }

    fn has_user(self) -> bool {
        matches!(self, Self::Sftp | Self::Webdav { .. })
    }
}

impl Address {
    /// Reads what people write after `-r`. What has no `://` is a path.
    ///
    /// # Errors
    /// `Usage`: nothing there, an unknown scheme or option, a malformed value, a secret.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let folder = || Ok(Self::Folder(PathBuf::from(text)));
        // Names of folders may be any bytes; addresses are text.
        let Some(address) = text.to_str() else { return folder() };
        if address.is_empty() {
            return Err(usage("no repository was named").hint("say -r PATH or -r ADDRESS, or set ALLUVIUM_REPOSITORY"));
        }
        match address.split_once("://") {
            Some((scheme, rest)) => {
                let address = RemoteAddress::parse(scheme, rest)?;
                if address.service.is_built_in() {
                    return Ok(Self::Remote(Box::new(address)));
                }
                Err(usage(format!("this program was built without {scheme}"))
                    .hint(format!("build it with `cargo install alluvium --features {}`", address.service.feature())))
            }
            None => folder(),
        }
    }
}

impl RemoteAddress {
    fn new(service: Service) -> Self {
        Self {
            service,
            host: String::new(),
            user: None,
            root: String::new(),
            endpoint: None,
            region: None,
            path_style: true,
            storage_class: None,
            encryption: None,
            encryption_key: None,
            profile: None,
            lock: None,
            account: None,
            anonymous: false,
            key_file: None,
            known_hosts: None,
            timeout: Duration::from_mins(1),
            retries: 6,
            connections: 16,
            limit_upload: None,
            limit_download: None,
            single_writer: false,
        }
    }

    fn parse(scheme: &str, rest: &str) -> Result<Self> {
        let service = service_of(scheme)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let mut address = Self::new(service);
        (address.user, address.host) = user_and_host(service, authority)?;
        address.root = root_of(path)?;
        let mut lock = LockOptions::default();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let Some((name, value)) = option.split_once('=') else {
                return Err(usage(format!("an option of a {scheme} address has no value"))
                    .hint("options are written as name=value, with & between them"));
            };
            let value = decoded(value).ok_or_else(|| usage(format!("the option's value is not text: {name}")))?;
            address.set(name, value, &mut lock)?;
        }
        address.lock = lock.lock()?;
        match (&address.encryption, &address.encryption_key) {
            (None | Some(_), None) => {}
            (Some(kind), Some(_)) if kind == "aws:kms" => {}
            _ => return Err(usage("sse-kms-key-id needs sse=aws:kms")),
        }
        if service == Service::Azblob && address.account.is_none() && address.endpoint.is_none() {
            return Err(usage("an azblob address needs its storage account")
                .hint("for example azblob://container/prefix?account=name"));
        }
        Ok(address)
    }

    fn set(&mut self, name: &str, value: String, lock: &mut LockOptions) -> Result<()> {
        let options = self.service.options();
        if !options.contains(&name) && !COMMON.contains(&name) {
            return Err(unknown_option(self.service, name));
        }
        if value.is_empty() {
            return Err(usage(format!("the option {name} is empty")));
        }
        let bad = |what: &str| usage(format!("the option {name}: {what}"));
        match name {
            "endpoint" => self.endpoint = Some(endpoint_of(&value)?),
            "region" => self.region = Some(value),
            "path-style" => self.path_style = truth(&value).map_err(bad)?,
            "storage-class" => self.storage_class = Some(value),
            "sse" if ["AES256", "aws:kms"].contains(&value.as_str()) => self.encryption = Some(value),
            "sse" => return Err(bad("it is AES256 or aws:kms")),
            "sse-kms-key-id" => self.encryption_key = Some(value),
            "profile" => self.profile = Some(value),
            "object-lock" => {
                lock.compliance = Some(match value.as_str() {
                    "compliance" => true,
                    "governance" => false,
                    _ => return Err(bad("it is governance or compliance")),
                });
            }
            "retain" => lock.retain = Some(days(&value).map_err(bad)?),
            "account" => self.account = Some(value),
            "anonymous" => self.anonymous = truth(&value).map_err(bad)?,
            "key-file" => self.key_file = Some(value),
            "known-hosts" if ["strict", "accept", "add"].contains(&value.as_str()) => self.known_hosts = Some(value),
            "known-hosts" => return Err(bad("it is strict, accept or add")),
            "timeout" => self.timeout = seconds(&value).map_err(bad)?,
            "retries" => self.retries = number(&value, 0, 100).map_err(|what| bad(&what))?,
            "connections" => self.connections = number(&value, 1, 64).map_err(|what| bad(&what))? as usize,
            "limit-upload" => self.limit_upload = Some(rate(&value).map_err(|what| bad(&what))?),
            "limit-download" => self.limit_download = Some(rate(&value).map_err(|what| bad(&what))?),
            "single-writer" => self.single_writer = truth(&value).map_err(bad)?,
            _ => return Err(unknown_option(self.service, name)),
        }
        Ok(())
    }

    /// Where this is, for messages and to tell places apart: what was written, without the options that change
    /// only how it is reached.
    pub fn location(&self) -> String {
        let mut text = format!("{}://", self.service.scheme());
        if let Some(user) = &self.user {
            text.push_str(user);
            text.push('@');
        }
        text.push_str(&self.host);
        if !self.root.is_empty() {
            text.push('/');
            text.push_str(&self.root);
        }
        let mut lead = '?';
        for (name, value) in [("account", &self.account), ("endpoint", &self.endpoint)] {
            if let Some(value) = value {
                // Writing to a string does not fail.
                let _ = write!(text, "{lead}{name}={value}");
                lead = '&';
            }
        }
        text
    }
}

/// The two options that make a lock; one without the other is a mistake.
#[derive(Default)]
struct LockOptions {
    compliance: Option<bool>,
    retain: Option<Duration>,
}

impl LockOptions {
    fn lock(self) -> Result<Option<ObjectLock>> {
        match (self.compliance, self.retain) {
            (None, None) => Ok(None),
            (Some(compliance), Some(retain)) => Ok(Some(ObjectLock { compliance, retain })),
            _ => {
                Err(usage("object-lock and retain belong together")
                    .hint("for example object-lock=governance&retain=30d"))
            }
        }
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Usage, what)
}

fn secret(what: &str) -> Error {
    usage(format!("the repository's address holds {what}; addresses end up in logs and process lists")).hint(
        "take it out, and use another one if others may have seen it; docs/storage.md says where credentials come from",
    )
}

fn service_of(scheme: &str) -> Result<Service> {
    if let Some((_, service)) = Service::ALL.iter().find(|(known, _)| *known == scheme) {
        return Ok(*service);
    }
    let built_in = Service::ALL.iter().filter(|(_, service)| service.is_built_in()).map(|(scheme, _)| *scheme);
    let known: Vec<_> = built_in.collect();
    let known = if known.is_empty() {
        "this program was built for folders only".to_owned()
    } else {
        format!("there are {}, and plain paths", known.join(", "))
    };
    let hint = if scheme == "file" { "say the path itself, without file://".to_owned() } else { known };
    Err(usage(format!("`{}` is no kind of storage", scheme.escape_debug())).hint(hint))
}

fn unknown_option(service: Service, name: &str) -> Error {
    let plain = name.to_ascii_lowercase().replace('_', "-");
    let telling = ["secret", "passw", "passphrase", "token", "credential", "access-key", "account-key"];
    if telling.iter().any(|word| plain.contains(word)) || ["key", "sas", "sig"].contains(&plain.as_str()) {
        return secret("a secret");
    }
    let known = [service.options(), &COMMON].concat().join(", ");
    // The name is not repeated where it may be a pasted key.
    let shown = if plain.len() <= 32 { format!(" `{}`", name.escape_debug()) } else { String::new() };
    usage(format!("{} addresses have no option{shown}", service.scheme())).hint(format!("there are {known}"))
}

fn user_and_host(service: Service, authority: &str) -> Result<(Option<String>, String)> {
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if let Some(user) = user {
        if user.contains(':') {
            return Err(secret("a password"));
        }
        if !service.has_user() {
            return Err(secret("credentials"));
        }
    }
    let what = if service.has_user() { "host" } else { "bucket or container" };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || (service.has_user() && "[]:".contains(c));
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(usage(format!("the address does not say which {what}")).hint(format!(
            "it begins with {}://{}",
            service.scheme(),
            if what == "host" { "HOST/PATH" } else { "NAME/PATH" }
        )));
    }
    let user = user.map(|user| decoded(user).filter(|user| !user.is_empty() && !user.contains(':')));
    match user {
        Some(None) => Err(usage("the address's user is not a name")),
        Some(user) => Ok((user, host.to_owned())),
        None => Ok((None, host.to_owned())),
    }
}

fn root_of(path: &str) -> Result<String> {
    let bad = || usage("the address's path has an empty, `.` or `..` component, or one that is not text");
    let path = decoded(path).ok_or_else(bad)?;
    let path = path.trim_matches('/');
    if !path.is_empty() && path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(bad());
    }
    Ok(path.to_owned())
}

fn endpoint_of(text: &str) -> Result<String> {
    let hint = "for example endpoint=https://minio.example:9000";
    let rest = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.ok_or_else(|| usage("the endpoint begins with https:// or http://").hint(hint))?;
    if rest.contains('@') {
        return Err(secret("credentials in its endpoint"));
    }
    let plain = |c: char| c.is_ascii_graphic() && !"?#&\\\"<>".contains(c);
    if rest.is_empty() || rest.starts_with('/') || !rest.chars().all(plain) {
        return Err(usage("the endpoint is not an address").hint(hint));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Undoes percent-encoding; `None` for what is malformed, not UTF-8, or has control characters.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push((digit()? << 4 | digit()?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

fn truth(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it is true or false"),
    }
}

fn number(text: &str, min: u32, max: u32) -> Result<u32, String> {
    text.parse().ok().filter(|n| (min..=max).contains(n)).ok_or_else(|| format!("it is a number from {min} to {max}"))
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = number.parse::<u32>().ok().map(|n| u64::from(n) * unit).filter(|n| (1..=3600).contains(n));
    seconds.map(Duration::from_secs).ok_or("it is from 1s to 60m")
}

fn days(text: &str) -> Result<Duration, &'static str> {
    let units = [('d', 1), ('w', 7), ('y', 365)];
    let found =
        units.iter().find_map(|(unit, days)| Some(u64::from(text.strip_suffix(*unit)?.parse::<u32>().ok()?) * days));
    let days = found.filter(|days| (1..=RETAIN_DAYS_MAX).contains(days)).ok_or("it is like 30d, 8w or 1y")?;
    Ok(Duration::from_secs(days * 86_400))
}

fn rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0..1024 => Err("it is at least 1K a second".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Reads a size: a whole number, with K, M, G or T for powers of 1024 (also `KiB`, `k`).
///
/// # Errors
/// What is wrong, in words.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "not a size such as 64K, 256M or 2G".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<RemoteAddress> {
        let (scheme, rest) = text.split_once("://").expect("an address");
        RemoteAddress::parse(scheme, rest)
    }

    fn refused(text: &str) -> String {
        let error = read(text).expect_err(text);
        assert_eq!(error.kind(), Kind::Usage, "{text}");
        format!("{error}\n{}", error.advice().unwrap_or_default())
    }

    #[test]
    fn a_path_is_a_path() {
        for path in ["/backup/shop", "backup", "./s3:/x", "s3:backup", "C:\\x"] {
            assert_eq!(Address::parse(OsStr::new(path)).expect(path), Address::Folder(PathBuf::from(path)));
        }
        let error = Address::parse(OsStr::new("")).expect_err("nothing");
        assert!(error.advice().is_some_and(|text| text.contains("-r PATH")));
    }

    #[test]
    fn addresses_of_every_kind() {
        let s3 = read(
            "s3://shop-backups/db%201/?endpoint=https://minio.example:9000/&region=eu&path-style=false&sse=aws:kms\
             &sse-kms-key-id=arn:aws:kms:eu:1:key/a-b&storage-class=STANDARD_IA&profile=backup&object-lock=compliance\
             &retain=8w&timeout=2m&retries=0&connections=20&limit-upload=10M&limit-download=1G&single-writer=true",
        )
        .expect("parses");
        assert_eq!((s3.host.as_str(), s3.root.as_str()), ("shop-backups", "db 1"));
        assert_eq!(s3.endpoint.as_deref(), Some("https://minio.example:9000"));
        assert_eq!((s3.region.as_deref(), s3.path_style), (Some("eu"), false));
        assert_eq!(s3.encryption_key.as_deref(), Some("arn:aws:kms:eu:1:key/a-b"));
        assert_eq!(s3.lock, Some(ObjectLock { compliance: true, retain: Duration::from_hours(8 * 7 * 24) }));
        assert_eq!((s3.timeout, s3.retries, s3.connections), (Duration::from_mins(2), 0, 20));
        assert_eq!((s3.limit_upload, s3.limit_download), (Some(10 << 20), Some(1 << 30)));
        assert!(s3.single_writer);
        assert_eq!(s3.location(), "s3://shop-backups/db 1?endpoint=https://minio.example:9000");

        let azure = read("azblob://backups?account=shop").expect("parses");
        assert_eq!((azure.root.as_str(), azure.account.as_deref()), ("", Some("shop")));
        assert_eq!(azure.location(), "azblob://backups?account=shop");
        assert_eq!(read("gcs://backups/a/b").expect("parses").root, "a/b");
        let sftp = read("sftp://joe@host.example:2222/srv/backup?key-file=/home/joe/.ssh/key&known-hosts=add");
        let sftp = sftp.expect("parses");
        assert_eq!((sftp.user.as_deref(), sftp.host.as_str()), (Some("joe"), "host.example:2222"));
        assert_eq!(sftp.location(), "sftp://joe@host.example:2222/srv/backup");
        let dav = read("webdavs://joe%40example.com@cloud.example/remote.php/dav").expect("parses");
        assert_eq!((dav.user.as_deref(), dav.service), (Some("joe@example.com"), Service::Webdav { tls: true }));
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for address in [
            "s3://AKIDTOPSECRET:TOPSECRET@bucket/x",
            "s3://TOPSECRET@bucket/x",
            "sftp://joe:TOPSECRET@host/x",
            "webdavs://joe:TOPSECRET@host/x",
            "s3://bucket/x?secret_access_key=TOPSECRET",
            "s3://bucket/x?Secret-Access-Key=TOPSECRET",
            "s3://bucket/x?access_key_id=TOPSECRET",
            "s3://bucket/x?session_token=TOPSECRET",
            "azblob://c/x?account=a&account_key=TOPSECRET",
            "azblob://c/x?account=a&sas_token=TOPSECRET",
            "azblob://c/x?account=a&sig=TOPSECRET",
            "gcs://b/x?credential=TOPSECRET",
            "webdav://host/x?password=TOPSECRET",
            "s3://bucket/x?endpoint=https://joe:TOPSECRET@minio.example",
        ] {
            let told = refused(address);
            assert!(!told.contains("TOPSECRET"), "{address}: {told}");
            assert!(told.contains("logs and process lists"), "{address}: {told}");
        }
        for address in ["s3://bucket/x?TOPSECRET", "s3://bucket/x?region=eu&TOPSECRET"] {
            assert!(!refused(address).contains("TOPSECRET"));
        }
    }

    #[test]
    fn mistakes_are_told_with_what_there_is() {
        for (address, word) in [
            ("b2://bucket/x", "no kind of storage"),
            ("file:///backup", "without file://"),
            ("s3://bucket/x?regoin=eu", "region"),
            ("s3://bucket/x?region=", "empty"),
            ("s3://bucket/x?path-style=maybe", "true or false"),
            ("s3://bucket/x?sse=rot13", "AES256"),
            ("s3://bucket/x?sse=AES256&sse-kms-key-id=k", "aws:kms"),
            ("s3://bucket/x?object-lock=governance", "belong together"),
            ("s3://bucket/x?retain=30d", "belong together"),
            ("s3://bucket/x?object-lock=governance&retain=30", "30d"),
            ("s3://bucket/x?endpoint=minio.example", "https://"),
            ("s3://bucket/x?timeout=0", "1s"),
            ("s3://bucket/x?connections=0", "1 to 64"),
            ("s3://bucket/x?limit-upload=12", "1K"),
            ("s3:///x", "bucket"),
            ("s3://b/../x", "`..`"),
            ("s3://b/a%00b", "not text"),
            ("azblob://container/x", "account="),
            ("gcs://b/x?region=eu", "no option"),
            ("sftp:///x", "host"),
        ] {
            let told = refused(address);
            assert!(told.contains(word), "{address}: {told}");
        }
    }

    proptest! {
        /// Whatever people write, it is understood or refused, and a place that is understood names itself: its
        /// location is an address of the same place.
        #[test]
        fn locations_are_addresses(
            scheme in prop::sample::select(vec!["s3", "gcs", "sftp", "webdav", "webdavs", "azblob"]),
            rest in "[a-z0-9./@:?=&%-]{0,40}",
        ) {
            if let Ok(address) = RemoteAddress::parse(scheme, &rest) {
                let location = address.location();
                let again = read(&location.replace('%', "%25"));
                if address.user.as_ref().is_none_or(|user| !user.contains(['@', '/', '?']))
                    && !address.root.contains(['?', '%'])
                {
                    prop_assert_eq!(again.expect("parses").location(), location);
                }
            }
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = Address::parse(OsStr::new(&text));
            if let Some((scheme, rest)) = text.split_once(':') {
                let _ = RemoteAddress::parse(scheme, rest);
            }
            let _ = RemoteAddress::parse("s3", &text);
        }
    }
}
