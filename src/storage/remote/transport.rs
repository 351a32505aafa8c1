//! How requests travel: one HTTP client for all, with the system's certificates (and `SSL_CERT_FILE`), and what
//! has to be changed on a request just before it leaves.

use std::time::Duration;

use futures_util::StreamExt;
use http::{Method, Request, Response};
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter, Result};
use opendal_http_transport_reqwest::ReqwestTransport;

use crate::format::limits::PACK_BYTES_MAX;

#[cfg(feature = "s3")]
use super::object_lock::Locker;

/// What a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that acknowledges nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Where clouds tell a machine its credentials. They answer at once, or this is no such machine.
const METADATA_HOSTS: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest answer that holds no object. `OpenDAL` reads it into memory, like a page of a listing.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Longest page of a listing; WebDAV has a page for each folder.
const PAGE_BYTES_MAX: u64 = 256 << 20;
/// What the query of a listing has and that of an object has not.
const LISTING_WORDS: [&str; 4] = ["list-type=", "comp=list", "prefix=", "delimiter="];

/// A change to requests on their way.
pub enum Change {
    /// None.
    Nothing,
    /// WebDAV: a move refuses to replace.
    #[cfg(feature = "webdav")]
    MoveRefuses,
    /// S3: uploads are locked.
    #[cfg(feature = "s3")]
    Lock(Locker),
}

struct Transport {
    client: ReqwestTransport,
    change: Change,
}

/// The client behind all transports of one store.
///
/// # Errors
/// When the system's certificates can't be read.
pub fn client() -> reqwest::Result<reqwest::Client> {
    // An application may have chosen its own provider; ours is for those that did not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("alluvium/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(SILENCE_MAX)
        .tcp_keepalive(SILENCE_MAX)
        .build()
}

/// A transport over `client` that changes what passes.
pub fn transport(client: &reqwest::Client, change: Change) -> HttpTransporter {
    HttpTransporter::new(Transport { client: ReqwestTransport::new(client.clone()), change })
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        if request.uri().host().is_some_and(|host| METADATA_HOSTS.contains(&host)) {
            let answer = tokio::time::timeout(METADATA_TIMEOUT, self.client.fetch(request)).await;
            return answer.unwrap_or_else(|_| {
                Err(opendal::Error::new(opendal::ErrorKind::Unexpected, "this machine is given no credentials"))
            });
        }
        let request = match &self.change {
            Change::Nothing => request,
            #[cfg(feature = "webdav")]
            Change::MoveRefuses => refuse_to_replace(request),
            #[cfg(feature = "s3")]
            Change::Lock(locker) => locker.lock(request).await?,
        };
        let (method, is_listing) = (request.method().clone(), is_listing(&request));
        let answer = self.client.fetch(request).await?;
        let bytes_max = match (method, answer.status().is_success()) {
            (_, true) if is_listing => PAGE_BYTES_MAX,
            (Method::GET, true) => PACK_BYTES_MAX,
            _ => ANSWER_BYTES_MAX,
        };
        Ok(answer.map(|body| at_most(body, bytes_max)))
    }
}

fn is_listing(request: &Request<Buffer>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method().as_str() == "PROPFIND" || LISTING_WORDS.iter().any(|word| query.contains(word))
}

/// The body, which fails where it goes on after `bytes_max`.
fn at_most(body: HttpBody, bytes_max: u64) -> HttpBody {
    let mut left = bytes_max;
    body.map_inner(|pieces| {
        Box::new(pieces.map(move |piece| {
            let piece = piece?;
            left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
                let what = format!("the server's answer has more than {bytes_max} bytes");
                opendal::Error::new(opendal::ErrorKind::Unexpected, what)
            })?;
            Ok(piece)
        }))
    })
}

/// RFC 4918, 10.6: a `MOVE` with `Overwrite: F` fails when something is there.
#[cfg(feature = "webdav")]
fn refuse_to_replace(mut request: Request<Buffer>) -> Request<Buffer> {
    if request.method().as_str() == "MOVE" {
        request.headers_mut().insert("overwrite", http::HeaderValue::from_static("F"));
    }
    request
}
