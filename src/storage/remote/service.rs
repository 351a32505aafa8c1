//! `OpenDAL`'s operators for an address: which service, with which options, over which transport.

use opendal::{Builder, Operator};
use reqwest::Client;

use super::transport::{Change, transport};
use super::{Caller, failure};
use crate::error::{Error, Kind, Result};
use crate::storage::address::{RemoteAddress, Service};

/// What signatures name as the region where a store of one's own does not care.
#[cfg(feature = "s3")]
const REGION_OF_OTHERS: &str = "us-east-1";

/// Three ways to the same objects.
pub struct Operators {
    /// For everything.
    pub plain: Operator,
    /// For creating: a move to a name that is taken is refused, where the service knows how to.
    pub creating: Operator,
    /// For uploads that are locked; where there is no lock, the plain one.
    pub locking: Operator,
    /// How a new object gets its name.
    pub placing: Placing,
}

/// How a new object gets its name, whole and without replacing another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// One upload that the store refuses when the name is taken.
    Conditional,
    /// An upload to a temporary name, then a move: whole, but not exclusive.
    Move,
}

/// Builds them.
///
/// # Errors
/// `Usage` for options that the service can't work with; `Storage`.
pub fn operators(address: &RemoteAddress, caller: &Caller, client: &Client) -> Result<Operators> {
    match address.service {
        #[cfg(feature = "s3")]
        Service::S3 => s3(address, client),
        #[cfg(feature = "azblob")]
        Service::Azblob => {
            let endpoint = address
                .endpoint
                .clone()
                .or_else(|| Some(format!("https://{}.blob.core.windows.net", address.account.as_deref()?)));
            let mut builder = opendal::services::Azblob::default().container(&address.host).root(&address.root);
            builder = builder.endpoint(endpoint.as_deref().unwrap_or_default());
            if let Some(account) = &address.account {
                builder = builder.account_name(account);
            }
            same(address, client, builder)
        }
        #[cfg(feature = "gcs")]
        Service::Gcs => {
            let mut builder = opendal::services::Gcs::default().bucket(&address.host).root(&address.root);
            if let Some(endpoint) = &address.endpoint {
                builder = builder.endpoint(endpoint);
            }
            if let Some(class) = &address.storage_class {
                builder = builder.default_storage_class(class);
            }
            if address.anonymous {
                builder = builder.skip_signature();
            }
            same(address, client, builder)
        }
        #[cfg(feature = "sftp")]
        Service::Sftp => {
            let endpoint = format!("ssh://{}", address.host);
            let mut builder =
                opendal::services::Sftp::default().endpoint(&endpoint).root(&format!("/{}", address.root));
            if let Some(user) = &address.user {
                builder = builder.user(user);
            }
            if let Some(key) = &address.key_file {
                builder = builder.key(key);
            }
            if let Some(strategy) = &address.known_hosts {
                builder = builder.known_hosts_strategy(strategy);
            }
            Ok(Operators { placing: Placing::Move, ..same(address, client, builder)? })
        }
        #[cfg(feature = "webdav")]
        Service::Webdav { tls } => {
            let endpoint = format!("{}://{}", if tls { "https" } else { "http" }, address.host);
            let builder = || {
                let mut builder = opendal::services::Webdav::default().endpoint(&endpoint).root(&address.root);
                if let Some(user) = &address.user {
                    builder = builder.username(user);
                }
                if let Some(password) = &caller.webdav_password {
                    builder = builder.password(password);
                }
                builder
            };
            // Of two moves to one name at the same moment, both are let through by some servers: they look, then move.
            let creating = build(address, builder(), client, Change::MoveRefuses)?;
            Ok(Operators { placing: Placing::Move, creating, ..same(address, client, builder())? })
        }
        #[allow(unreachable_patterns)]
        service => {
            let _ = caller;
            Err(Error::new(Kind::Usage, format!("this program was built without {}", service.scheme())))
        }
    }
}

/// One operator for all three uses.
#[allow(dead_code)]
fn same(address: &RemoteAddress, client: &Client, builder: impl Builder) -> Result<Operators> {
    let plain = build(address, builder, client, Change::Nothing)?;
    Ok(Operators { creating: plain.clone(), locking: plain.clone(), plain, placing: Placing::Conditional })
}

fn build(address: &RemoteAddress, builder: impl Builder, client: &Client, change: Change) -> Result<Operator> {
    let operator = Operator::new(builder).map_err(|e| {
        let context = format!("can't use {}", address.location());
        let error = failure::error(address.service, context, &e);
        if e.kind() == opendal::ErrorKind::ConfigInvalid { error.as_kind(Kind::Usage) } else { error }
    })?;
    let context = operator.context().with_http_transport(transport(client, change));
    Ok(operator.with_context(context))
}

#[cfg(feature = "s3")]
fn s3(address: &RemoteAddress, client: &Client) -> Result<Operators> {
    use super::object_lock::Locker;
    use opendal::services::S3;

    type Set = fn(S3, &str) -> S3;

    let builder = |region: Option<&str>| {
        // Servers compare it with what arrived. MD5, since all that speak S3 know it, and locked buckets want one.
        let mut builder = S3::default().bucket(&address.host).root(&address.root).checksum_algorithm("md5");
        let options: [(&Option<String>, Set); 5] = [
            (&address.endpoint, S3::endpoint),
            (&address.storage_class, S3::default_storage_class),
            (&address.encryption, S3::server_side_encryption),
            (&address.encryption_key, S3::server_side_encryption_aws_kms_key_id),
            (&address.profile, |builder, profile| builder.profile(profile)),
        ];
        for (value, set) in options {
            if let Some(value) = value {
                builder = set(builder, value);
            }
        }
        if let Some(region) = region {
            builder = builder.region(region);
        }
        if !address.path_style {
            builder = builder.enable_virtual_host_style();
        }
        if address.anonymous {
            builder = builder.skip_signature();
        }
        builder
    };
    let mut region = address.region.as_deref();
    // Whether the environment says a region is OpenDAL's to find out.
    if region.is_none() && Operator::new(builder(None)).is_err_and(|e| e.message().contains("region is missing")) {
        if address.endpoint.is_none() {
            return Err(Error::new(Kind::Usage, format!("the region of {} is not known", address.location()))
                .hint("say region=… in the address, or set AWS_REGION"));
        }
        region = Some(REGION_OF_OTHERS);
    }
    let operators = same(address, client, builder(region))?;
    let Some(lock) = address.lock else { return Ok(operators) };
    let Some(region) = region.filter(|_| !address.anonymous) else {
        return Err(Error::new(Kind::Usage, "object-lock needs a signature, and region=… in the address"));
    };
    let locker = Locker::new(lock, region, address.profile.as_deref(), transport(client, Change::Nothing));
    let locking = build(address, builder(Some(region)), client, Change::Lock(locker))?;
    Ok(Operators { locking, ..operators })
}
