//! What a client needs of each server: addresses, secrets, buckets.

use std::process::Command;

use super::client::Curl;
use super::server::add_line;
use super::{Answer, BUCKET, Service, What, Who, output_of};

/// Access keys of the S3 servers; both have this secret.
pub const OWNER: &str = "owner";
pub const WRITER: &str = "writer";
pub const SECRET: &str = "a-secret-of-the-tests";

/// Azurite's own account and its key, which is public: it is in Azurite's manual.
pub const AZURE_ACCOUNT: &str = "devstoreaccount1";
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

    /// Makes a bucket of S3's, and gives its name: one that no other test uses.
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
    pub(super) fn azure(&self, send: impl Fn(Curl, &str) -> Answer, path: &str) -> Answer {
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
pub fn shared_access_signature() -> String {
    let signed = format!("{AZURE_ACCOUNT}\nrwdlac\nb\nsco\n\n2099-01-01T00:00:00Z\n\nhttp\n2021-12-02\n\n");
    let script = r#"
        key=$(printf %s "$1" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
        printf %s "$2" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A
    "#;
    let signature = output_of(Command::new("sh").args(["-c", script, "sh", AZURE_KEY, &signed]));
    let escaped = signature.trim().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv=2021-12-02&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z&spr=http&sig={escaped}")
}
