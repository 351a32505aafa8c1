//! What a store's failures mean to people: `OpenDAL`'s error becomes ours, with what to do about it.
//!
//! Of `OpenDAL`'s error only kind, message and innermost cause are told. Its context has the request's address,
//! which for some services holds a signature.

use std::error::Error as _;

use opendal::ErrorKind;

use crate::error::{Error, Kind};
use crate::storage::address::Service;

/// Longest cause that is told; some servers answer with pages of HTML.
const CAUSE_CHARS_MAX: usize = 300;

/// `context` says what failed on which object.
pub fn error(service: Service, context: String, cause: &opendal::Error) -> Error {
    let told = told(cause);
    let kind = match cause.kind() {
        _ if is_missing_bucket(cause) => Kind::Storage,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::PermissionDenied => Kind::Denied,
        _ if is_unauthorized(&told) => Kind::Denied,
        _ => Kind::Storage,
    };
    let error = Error::new(kind, context).because(told.clone());
    match advice(service, cause, &told) {
        Some(advice) => error.hint(advice),
        None => error,
    }
}

/// True for a bucket or container that is not there: never an empty listing, never a missing object.
pub fn is_missing_bucket(cause: &opendal::Error) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"]
        .iter()
        .any(|word| cause.message().contains(word))
}

/// True for a failure that looks like a passing one and is not: a certificate does not become right.
pub fn is_lasting(cause: &opendal::Error) -> bool {
    let innermost = innermost(cause);
    is_certificate(&innermost) || innermost.contains("InvalidContentType")
}

fn is_certificate(text: &str) -> bool {
    ["certificate", "UnknownIssuer", "NotValidForName"].iter().any(|word| text.contains(word))
}

fn is_unauthorized(text: &str) -> bool {
    ["401 Unauthorized", "InvalidAuthenticationInfo", "AuthenticationFailed", "AuthorizationFailure", "(publickey"]
        .iter()
        .any(|word| text.contains(word))
}

fn innermost(cause: &opendal::Error) -> String {
    let sources = std::iter::successors(cause.source(), |&source| source.source());
    sources.last().map(ToString::to_string).unwrap_or_default()
}

/// One line: what the server said, or the innermost cause of having no answer.
pub fn told(cause: &opendal::Error) -> String {
    let message = cause.message();
    let said = match (field(message, "code: \""), field(message, "message: \"")) {
        (Some(code), Some(text)) if !code.is_empty() => format!("{code}: {text}"),
        (Some(code), None) if !code.is_empty() => code.to_owned(),
        _ => message.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let innermost = innermost(cause);
    let mut text = match (said.is_empty(), innermost.is_empty()) {
        (false, true) => said,
        (true, true) => status(cause).unwrap_or_else(|| cause.kind().to_string()),
        (_, false) => innermost,
    };
    if let Some((end, _)) = text.char_indices().nth(CAUSE_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The value of a field in the debug form of what a server said.
fn field<'m>(message: &'m str, lead: &str) -> Option<&'m str> {
    let rest = &message[message.find(lead)? + lead.len()..];
    Some(rest[..rest.find('"')?].trim())
}

/// The answer's status, which stands only in the context, and there first.
fn status(cause: &opendal::Error) -> Option<String> {
    let text = cause.to_string();
    let rest = &text[text.find("status: ")? + "status: ".len()..];
    Some(format!("the server answered {}", rest.split([',', '}']).next()?.trim()))
}

/// What to do about it.
fn advice(service: Service, cause: &opendal::Error, told: &str) -> Option<String> {
    let has = |words: &[&str]| words.iter().any(|word| told.contains(word));
    let s3 = service == Service::S3;
    let text = if is_missing_bucket(cause) {
        "make it first, with the tools of the store, or check its name and the endpoint"
    } else if has(&["AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocation"]) {
        "the bucket is in another region: say region=… in the address, or set AWS_REGION"
    } else if has(&["RequestTimeTooSkewed"]) {
        "this host's clock is wrong: set it right"
    } else if is_unauthorized(told)
        || has(&["InvalidAccessKeyId", "SignatureDoesNotMatch"])
        || (told.contains("credential") && cause.kind() != ErrorKind::PermissionDenied)
    {
        credentials(service)
    } else if cause.kind() == ErrorKind::PermissionDenied {
        "these credentials may not do this: check them, and the rights that docs/storage.md lists"
    } else if has(&["InvalidContentType"]) || has(&["HTTP request to an HTTPS server"]) {
        "http and https do not match: check how the endpoint in the address begins"
    } else if is_certificate(told) {
        "the server's certificate is not trusted, or is for another name: check the endpoint's name; set SSL_CERT_FILE to the certificate of a private authority"
    } else if has(&["Connection refused"]) {
        "nothing listens there: check host and port, and whether the store is running"
    } else if has(&["dns error", "lookup", "Name or service", "name resolution", "nodename"]) {
        "there is no such host: check the endpoint in the address, and the network"
    } else if has(&["no answer", "timed out", "unreachable"]) {
        "the store does not answer: check the endpoint in the address, the network, and firewalls between"
    } else if has(&["Host key verification failed"]) {
        "connect once with `ssh`, check the host's key, and accept it"
    } else if s3 && has(&["missing field", "unknown variant", "xml", "<html", "<HTML"]) {
        "what answers does not seem to speak S3: check the endpoint in the address"
    } else {
        return None;
    };
    Some(text.to_owned())
}

fn credentials(service: Service) -> &'static str {
    match service {
        Service::S3 => {
            "check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile of ~/.aws/credentials (profile=…), or the machine's role"
        }
        Service::Azblob => {
            "check the credentials: AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or the machine's identity"
        }
        Service::Gcs => {
            "check the credentials: GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's service account"
        }
        Service::Sftp => "check the key: key-file=… in the address, or the ssh agent",
        Service::Webdav { .. } => "check the user in the address, and the password in ALLUVIUM_WEBDAV_PASSWORD",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: ErrorKind, message: &str, source: &str) -> Error {
        let mut cause = opendal::Error::new(kind, message).with_context("url", "https://x/?sig=SECRET");
        if !source.is_empty() {
            cause = cause.set_source(std::io::Error::other(source.to_owned()));
        }
        error(Service::S3, "can't write packs/1".to_owned(), &cause)
    }

    #[test]
    fn failures_that_a_person_can_mend_say_how() {
        let s3 = |code: &str| format!("S3Error {{ code: \"{code}\", message: \"said\", resource: \"\" }}");
        for (kind, message, source, expected, advice) in [
            (ErrorKind::ConfigInvalid, s3("NoSuchBucket"), "", Kind::Storage, "make it first"),
            (
                ErrorKind::NotFound,
                "AzblobError { code: \"ContainerNotFound\" }".to_owned(),
                "",
                Kind::Storage,
                "make it",
            ),
            (ErrorKind::PermissionDenied, s3("SignatureDoesNotMatch"), "", Kind::Denied, "AWS_SECRET"),
            (ErrorKind::PermissionDenied, s3("AccessDenied"), "", Kind::Denied, "rights"),
            (ErrorKind::Unexpected, s3("AuthorizationHeaderMalformed"), "", Kind::Storage, "region="),
            (ErrorKind::PermissionDenied, s3("RequestTimeTooSkewed"), "", Kind::Denied, "clock"),
            (ErrorKind::Unexpected, "send".to_owned(), "Connection refused (os error 111)", Kind::Storage, "listens"),
            (
                ErrorKind::Unexpected,
                "send".to_owned(),
                "invalid peer certificate: UnknownIssuer",
                Kind::Storage,
                "SSL_CERT_FILE",
            ),
            (
                ErrorKind::Unexpected,
                "sign".to_owned(),
                "failed to load signing credential",
                Kind::Storage,
                "AWS_ACCESS_KEY_ID",
            ),
        ] {
            let error = failure(kind, &message, source);
            assert_eq!(error.kind(), expected, "{message} {source}");
            assert!(
                error.advice().is_some_and(|text| text.contains(advice)),
                "{message} {source}: {:?}",
                error.advice()
            );
            let cause = error.source().expect("has a cause").to_string();
            assert!(!cause.contains("SECRET") && !error.to_string().contains("SECRET"), "{cause}");
        }
    }

    #[test]
    fn an_answer_is_told_in_one_short_line() {
        let cause = |message: &str| told(&opendal::Error::new(ErrorKind::Unexpected, message));
        assert_eq!(
            cause("S3Error { code: \"SlowDown\", message: \"Reduce your rate\" }"),
            "SlowDown: Reduce your rate"
        );
        assert_eq!(cause("<html>\n  <p>no</p>"), "<html> <p>no</p>");
        assert_eq!(cause(&"ä".repeat(1000)).chars().count(), CAUSE_CHARS_MAX + 1);
    }
}
