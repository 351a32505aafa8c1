//! S3 object lock on upload: a request that puts an object gets the headers that lock it, and is signed anew.
//!
//! Anew because a signature covers every `x-amz-` header, and `OpenDAL` can't be told to send these. One request
//! stays one request: there is no moment at which the object is there and not yet locked.

use http::header::{AUTHORIZATION, HOST, HeaderName};
use http::{HeaderValue, Method, Request};
use jiff::{SignedDuration, Timestamp};
use opendal::{Buffer, Error, ErrorKind, HttpTransporter, Result};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner};
use reqsign_core::{Context, OsEnv, Signer};
use reqsign_file_read_tokio::TokioFileRead;

use crate::storage::address::ObjectLock;

/// Headers that the first signature left.
const SIGNATURE: [&str; 3] = ["x-amz-date", "x-amz-content-sha256", "x-amz-security-token"];

/// Locks what passes.
pub struct Locker {
    lock: ObjectLock,
    signer: Signer<Credential>,
}

impl Locker {
    /// With the credentials that `OpenDAL` would find.
    pub fn new(lock: ObjectLock, region: &str, profile: Option<&str>, plain: HttpTransporter) -> Self {
        let mut credentials = DefaultCredentialProvider::builder();
        if let Some(profile) = profile {
            credentials = credentials.with_profile(profile);
        }
        let context = Context::new().with_file_read(TokioFileRead).with_http_send(plain).with_env(OsEnv);
        Self { lock, signer: Signer::new(context, credentials.build(), RequestSigner::new("s3", region)) }
    }

    /// The request, locking what it uploads.
    ///
    /// # Errors
    /// Those of finding credentials.
    pub async fn lock(&self, request: Request<Buffer>) -> Result<Request<Buffer>> {
        if request.method() != Method::PUT {
            return Ok(request);
        }
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(AUTHORIZATION);
        for name in SIGNATURE {
            parts.headers.remove(name);
        }
        let mode = if self.lock.compliance { "COMPLIANCE" } else { "GOVERNANCE" };
        parts.headers.insert(HeaderName::from_static("x-amz-object-lock-mode"), HeaderValue::from_static(mode));
        let until = HeaderValue::try_from(self.until(Timestamp::now())?).map_err(unexpected)?;
        parts.headers.insert(HeaderName::from_static("x-amz-object-lock-retain-until-date"), until);
        self.signer.sign(&mut parts, None).await.map_err(unexpected)?;
        // As OpenDAL does: the client sets it.
        parts.headers.remove(HOST);
        Ok(Request::from_parts(parts, body))
    }

    fn until(&self, now: Timestamp) -> Result<String> {
        let retain = SignedDuration::try_from(self.lock.retain).map_err(unexpected)?;
        let until = now.checked_add(retain).map_err(unexpected)?;
        Ok(until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }
}

fn unexpected(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unexpected, "can't sign the upload").set_source(cause)
}
