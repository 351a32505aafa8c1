//! What a client needs of each server: addresses, secrets, buckets. And one test for each server.

use std::process::Command;

use crate::proxy::Proxy;
use crate::support::noise;

use super::client::Curl;
use super::server::add_line;
use super::{Answer, BUCKET, Service, What, Who, output_of, shared};

/// Access keys of the S3 servers; both have this secret.
pub const OWNER: &str = "owner";
pub const WRITER: &str = "writer";
pub const SECRET: &str = "a-secret-of-the-tests";

/// Azurite's own account and its key, which is public: it is in Azurite's manual.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

impl Service {
    /// The address of `path` in `bucket`, reached over `port`: the server's own or a proxy's.
    pub fn address(&self, port: u16, bucket: &str, path: &str) -> String {
        let endpoint = format!("http://127.0.0.1:{port}");
        match self.what {
            What::SeaweedFs | What::RcloneS3 => {
                format!("s3://{bucket}/{path}?endpoint={endpoint}&region=us-east-1&path-style=true")
            }
            What::Azurite => format!("azblob://{bucket}/{path}?endpoint={endpoint}/{AZURE_ACCOUNT}"),
            What::Gcs => format!("gcs://{bucket}/{path}?endpoint={endpoint}&anonymous=true"),
            What::WsgiDav | What::RcloneWebDav => format!("webdav://127.0.0.1:{port}/{bucket}/{path}"),
            What::Sftp => {
                self.know_host(port);
                let file = |name: &str| self.folder().join(name).display().to_string();
                let (user, data) = (user(), file("data"));
                let key = file("user_key");
                format!("sftp://{user}@127.0.0.1:{port}{data}/{bucket}/{path}?key-file={key}&known-hosts=accept")
            }
        }
    }

    /// Environment variables with the credentials.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment_of(Who::Owner)
    }

    pub fn environment_of(&self, who: Who) -> Vec<(&'static str, String)> {
        match self.what {
            What::SeaweedFs | What::RcloneS3 => vec![
                ("AWS_ACCESS_KEY_ID", who.key().to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
                ("AWS_REGION", "us-east-1".to_owned()),
                // Nothing is asked of a cloud that is not there.
                ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ],
            What::Azurite => vec![
                ("AZBLOB_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
                ("AZBLOB_ACCOUNT_KEY", AZURE_KEY.to_owned()),
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
            ],
            What::Gcs | What::Sftp | What::WsgiDav | What::RcloneWebDav => Vec::new(),
        }
    }

    /// What every test finds: [`BUCKET`].
    pub(super) fn prepare(&self) {
        match self.what {
            // Theirs was there when they started.
            What::SeaweedFs | What::Gcs | What::Sftp | What::WsgiDav | What::RcloneWebDav => {}
            What::RcloneS3 => drop(self.bucket(BUCKET)),
            What::Azurite => {
                let made = self.azure(|c, path| c.put(path, b""), &format!("/{BUCKET}?restype=container"));
                assert_eq!(made.status, 201, "{}", made.text());
            }
        }
    }

    /// Makes a bucket of S3's, and gives its name.
    pub fn bucket(&self, name: &str) -> String {
        let made = self.s3(Who::Owner).put(&format!("/{name}"), b"");
        assert_eq!(made.status, 200, "{}", made.text());
        name.to_owned()
    }

    /// A bucket with object lock (and so versions), of `SeaweedFS`.
    pub fn bucket_with_lock(&self, name: &str) -> String {
        let made = self.s3(Who::Owner).field("x-amz-bucket-object-lock-enabled: true").put(&format!("/{name}"), b"");
        assert_eq!(made.status, 200, "{}", made.text());
        name.to_owned()
    }

    /// A bucket of `SeaweedFS` where [`Who::Writer`] may not delete.
    pub fn bucket_that_keeps(&self, name: &str) -> String {
        self.bucket(name);
        let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Deny",
            "Principal": { "AWS": format!("arn:aws:iam::000000000000:user/{WRITER}") },
            "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
            "Resource": format!("arn:aws:s3:::{name}/*"),
        }]});
        let set = self.s3(Who::Owner).put(&format!("/{name}?policy="), policy.to_string().as_bytes());
        assert_eq!(set.status, 204, "{}", set.text());
        name.to_owned()
    }

    /// A request to an S3 server, signed.
    pub fn s3(&self, who: Who) -> Curl {
        Curl::new(self.port()).signed(who.key())
    }

    /// A request to Azurite: its path, that of the account, and a signature in its query.
    fn azure(&self, send: impl Fn(Curl, &str) -> Answer, path: &str) -> Answer {
        let join = if path.contains('?') { '&' } else { '?' };
        let curl = Curl::new(self.port()).field("x-ms-version: 2021-12-02").field("x-ms-blob-type: BlockBlob");
        send(curl, &format!("/{AZURE_ACCOUNT}{path}{join}{}", shared_access_signature()))
    }

    /// The host key, known under this port too.
    fn know_host(&self, port: u16) {
        let key = std::fs::read_to_string(self.folder().join("host_key.pub")).expect("a key");
        add_line(&self.folder().join("known_hosts"), &format!("[127.0.0.1]:{port} {}", key.trim()));
    }

    /// Runs commands of `sftp` over `port`.
    pub fn sftp(&self, port: u16, commands: &str) -> String {
        self.know_host(port);
        let file = |name: &str| self.folder().join(name).display().to_string();
        let mut command = Command::new("sftp");
        command.current_dir(self.folder());
        command.args(["-q", "-F", "none", "-i", &file("user_key"), "-P", &port.to_string()]);
        command.args(["-o", &format!("UserKnownHostsFile={}", file("known_hosts")), "-o", "BatchMode=yes"]);
        std::fs::write(file("batch"), commands).expect("written");
        command.args(["-o", "StrictHostKeyChecking=yes", "-b", &file("batch"), &format!("{}@127.0.0.1", user())]);
        output_of(&mut command)
    }
}

impl Who {
    fn key(self) -> &'static str {
        match self {
            Who::Owner => OWNER,
            Who::Writer => WRITER,
        }
    }
}

/// Who runs the tests.
fn user() -> String {
    output_of(Command::new("id").arg("-un")).trim().to_owned()
}

/// An account's signature for everything (Azure's "Create an account SAS"), made by `openssl`.
fn shared_access_signature() -> String {
    let signed = format!("{AZURE_ACCOUNT}\nrwdlac\nb\nsco\n\n2099-01-01T00:00:00Z\n\nhttp\n2021-12-02\n\n");
    let script = r#"
        key=$(printf %s "$1" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
        printf %s "$2" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A
    "#;
    let signature = output_of(Command::new("sh").args(["-c", script, "sh", AZURE_KEY, &signed]));
    let escaped = signature.trim().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv=2021-12-02&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z&spr=http&sig={escaped}")
}

// ---- each server is itself ---------------------------------------------------------------------

fn expect(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
}

#[test]
fn seaweedfs_heeds_conditions_rights_and_locks() {
    let service = shared(What::SeaweedFs);
    let once = || service.s3(Who::Owner).field("If-None-Match: *").put("/alluvium/condition", b"first");
    expect(&once(), 200);
    expect(&once(), 412);
    expect(&service.s3(Who::Owner).get("/alluvium/condition"), 200);
    assert!(service.s3(Who::Owner).get("/alluvium?list-type=2").text().contains("<Key>condition</Key>"));
    expect(&Curl::new(service.port()).get("/alluvium/condition"), 403);

    let bucket = service.bucket_that_keeps("keeps");
    let object = format!("/{bucket}/object");
    expect(&service.s3(Who::Writer).put(&object, b"kept"), 200);
    expect(&service.s3(Who::Writer).delete(&object), 403);
    expect(&service.s3(Who::Writer).get(&object), 200);
    assert!(service.s3(Who::Writer).get(&format!("/{bucket}?list-type=2")).text().contains("<Key>object</Key>"));
    expect(&service.s3(Who::Owner).delete(&object), 204);

    let bucket = service.bucket_with_lock("locked");
    assert!(service.s3(Who::Owner).get(&format!("/{bucket}?object-lock=")).text().contains("Enabled"));
}

#[test]
fn seaweedfs_keeps_what_it_had_when_it_is_killed() {
    let service = Service::start(What::SeaweedFs);
    expect(&service.s3(Who::Owner).put("/alluvium/object", b"kept"), 200);
    service.kill();
    expect(&service.s3(Who::Owner).get("/alluvium/object"), 0);
    service.restart();
    let answer = service.s3(Who::Owner).get("/alluvium/object");
    expect(&answer, 200);
    assert_eq!(answer.body, b"kept");
}

#[test]
fn rclone_s3_takes_no_notice_of_conditions() {
    let service = shared(What::RcloneS3);
    let once = |body| service.s3(Who::Owner).field("If-None-Match: *").put("/alluvium/condition", body);
    expect(&once(b"first"), 200);
    expect(&once(b"again"), 200);
    assert_eq!(service.s3(Who::Owner).get("/alluvium/condition").body, b"again");
    expect(&Curl::new(service.port()).signed("stranger").get("/alluvium/condition"), 403);
}

#[test]
fn azurite_heeds_conditions() {
    let service = shared(What::Azurite);
    let once = || service.azure(|c, path| c.field("If-None-Match: *").put(path, b"first"), "/alluvium/condition");
    expect(&once(), 201);
    expect(&once(), 409);
    let read = service.azure(Curl::get, "/alluvium/condition");
    expect(&read, 200);
    assert_eq!(read.body, b"first");
    let list = service.azure(Curl::get, "/alluvium?restype=container&comp=list");
    assert!(list.text().contains("<Name>condition</Name>"), "{}", list.text());
    expect(&Curl::new(service.port()).get("/devstoreaccount1/alluvium/condition"), 403);
}

#[test]
fn the_gcs_emulator_takes_no_notice_of_conditions() {
    let service = shared(What::Gcs);
    let path = "/upload/storage/v1/b/alluvium/o?uploadType=media&name=condition&ifGenerationMatch=0";
    let once = |body| Curl::new(service.port()).field("content-type: text/plain").post(path, body);
    expect(&once(b"first"), 200);
    expect(&once(b"again"), 200);
    let read = Curl::new(service.port()).get("/storage/v1/b/alluvium/o/condition?alt=media");
    expect(&read, 200);
    assert_eq!(read.body, b"again");
    assert!(Curl::new(service.port()).get("/storage/v1/b/alluvium/o").text().contains("condition"));
}

#[test]
fn sftp_lets_the_right_key_in() {
    let service = shared(What::Sftp);
    let data = service.folder().join("data").display().to_string();
    let listed = service.sftp(service.port(), &format!("cd {data}\nput user_key.pub alluvium/object\nls alluvium\n"));
    assert!(listed.contains("object"), "{listed}");
    let sent = std::fs::read(service.folder().join("data/alluvium/object")).expect("arrived");
    assert_eq!(sent, std::fs::read(service.folder().join("user_key.pub")).expect("a key"));
}

#[test]
fn wsgidav_heeds_conditions_and_rclone_webdav_does_not() {
    for (what, again) in [(What::WsgiDav, 412), (What::RcloneWebDav, 201)] {
        let service = shared(what);
        let once = || Curl::new(service.port()).field("If-None-Match: *").put("/alluvium/condition", b"first");
        expect(&once(), 201);
        expect(&once(), again);
        let read = Curl::new(service.port()).get("/alluvium/condition");
        expect(&read, 200);
        assert_eq!(read.body, b"first");
    }
}

#[test]
fn a_proxy_stands_in_front_of_each() {
    for what in [What::SeaweedFs, What::RcloneS3, What::Azurite, What::Gcs, What::WsgiDav, What::RcloneWebDav] {
        let service = shared(what);
        let proxy = Proxy::http(service.port(), 1);
        let bytes = noise(300_000, 1);
        let (place, other) = (service.place_over(proxy.port()), service.place());
        assert!(place.contains(&proxy.port().to_string()) && other.contains(&service.port().to_string()), "{place}");
        assert_ne!(place.rsplit("place-").next(), other.rsplit("place-").next());
        let through = || Curl::new(proxy.port());
        let (put, read) = match what {
            // A signature covers the address that the client sees.
            What::SeaweedFs | What::RcloneS3 => {
                let put = through().signed(OWNER).put("/alluvium/through", &bytes);
                (put, through().signed(OWNER).get("/alluvium/through"))
            }
            What::Azurite => {
                let path = format!("/{AZURE_ACCOUNT}/alluvium/through?{}", shared_access_signature());
                let put = through().field("x-ms-version: 2021-12-02").field("x-ms-blob-type: BlockBlob");
                (put.put(&path, &bytes), through().get(&path))
            }
            What::Gcs => {
                let put = "/upload/storage/v1/b/alluvium/o?uploadType=media&name=through";
                let put = through().field("content-type: application/octet-stream").post(put, &bytes);
                (put, through().get("/storage/v1/b/alluvium/o/through?alt=media"))
            }
            What::WsgiDav | What::RcloneWebDav | What::Sftp => {
                (through().put("/alluvium/through", &bytes), through().get("/alluvium/through"))
            }
        };
        assert!(matches!(put.status, 200 | 201), "{what:?}: {}", put.text());
        assert!(read.status == 200 && read.body == bytes, "{what:?}: {}", read.status);
        assert_eq!(proxy.counts().all(), 2, "{what:?}: {:?}", proxy.counts());
    }
    let service = shared(What::Sftp);
    let proxy = Proxy::tcp(service.port(), 1);
    let place = service.place_over(proxy.port());
    assert!(place.contains("known-hosts=") && service.environment().is_empty(), "{place}");
    assert!(service.sftp(proxy.port(), "ls /\n").contains("tmp"));
    assert!(proxy.counts().bytes_up > 0);
    assert!(shared(What::SeaweedFs).environment_of(Who::Writer).contains(&("AWS_ACCESS_KEY_ID", WRITER.to_owned())));
}
