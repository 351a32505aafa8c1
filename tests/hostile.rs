//! Servers that do what they like: a command fails, within bounds of time and memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::error::Kind;
use alluvium::storage::address::Address;
use alluvium::storage::remote::Remote;
use alluvium::storage::{Caller, Listed, Storage};

/// What a server says that it has: no test could hold it.
const HUGE: u64 = 1 << 40;
/// What the buffers of a connection may take of it.
const IN_FLIGHT_MAX: u64 = 64 << 20;

/// A request, as far as a server here looks at it.
struct Request {
    method: String,
    path: String,
}

/// A server on loopback that answers every request by `answer`, until the test process ends.
struct Server {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Server {
    /// `answer` returns a status, further headers, the beginning of a body, and whether zeros follow it for ever.
    fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = listener.local_addr().expect("is bound").port();
        let (answer, sent) = (Arc::new(answer), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&sent);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (answer, sent) = (Arc::clone(&answer), Arc::clone(&counted));
                // A client that hangs up ends its thread.
                std::thread::spawn(move || serve(&connection, answer.as_ref(), &sent));
            }
        });
        Self { port, sent }
    }

    fn s3(&self) -> Remote {
        let port = self.port;
        let options = "region=us-east-1&anonymous=true&timeout=2s&retries=1";
        open(&format!("s3://bucket/shop?endpoint=http://127.0.0.1:{port}&{options}"))
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    is_endless: bool,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// Zeros for ever, said to be `HUGE` many.
    fn endless(status: u16) -> Self {
        Self { status, is_endless: true, ..Self::default() }
    }
}

fn open(address: &str) -> Remote {
    let Address::Remote(address) = Address::parse(address.as_ref()).expect("an address") else {
        panic!("{address} is a path");
    };
    Remote::open(*address, &Caller::default()).expect("opens")
}

fn serve(mut connection: &TcpStream, answer: &dyn Fn(&Request) -> Answer, sent: &AtomicU64) -> Option<()> {
    let mut received = BufReader::new(connection);
    loop {
        let mut first = String::new();
        received.read_line(&mut first).ok()?;
        let mut words = first.split(' ');
        let request = Request { method: words.next()?.to_owned(), path: words.next()?.to_owned() };
        let mut length = 0;
        loop {
            let mut line = String::new();
            received.read_line(&mut line).ok()?;
            let line = line.trim().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        received.read_exact(&mut vec![0; length]).ok()?;
        let Answer { status, headers, body, is_endless } = answer(&request);
        let length = if is_endless { HUGE } else { body.len() as u64 };
        write!(connection, "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n").ok()?;
        if request.method == "HEAD" {
            continue;
        }
        connection.write_all(&body).ok()?;
        if is_endless {
            loop {
                connection.write_all(&[0; 1 << 14]).ok()?;
                sent.fetch_add(1 << 14, Ordering::SeqCst);
            }
        }
    }
}

/// A page of an S3 listing that says that there are more.
fn page(keys: &[&str]) -> Answer {
    let modified = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>";
    let object = |key: &&str| format!("<Contents><Key>shop/{key}</Key><Size>1</Size>{modified}</Contents>");
    let objects: String = keys.iter().map(object).collect();
    let body = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>\
         <NextContinuationToken>again</NextContinuationToken>{objects}</ListBucketResult>"
    );
    Answer { headers: "content-type: application/xml\r\n".to_owned(), ..Answer::new(200, body) }
}

#[test]
fn an_object_longer_than_allowed_is_not_read() {
    let server = Server::start(|_| Answer::endless(200));
    let error = server.s3().get("config", 64 << 10).expect_err("too long");
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    assert_eq!(error.to_string(), format!("config: has {HUGE} bytes, at most {} are allowed", 64 << 10));
    assert!(server.sent() < IN_FLIGHT_MAX, "{} bytes were taken", server.sent());
}

/// The server takes no notice of the range, and gives all that it has.
#[test]
fn a_range_takes_no_more_than_its_length() {
    let server = Server::start(|_| Answer::endless(200));
    let error = server.s3().get_range("packs/4f/4f0c", 5, 1000).expect_err("too much");
    assert_eq!(error.kind(), Kind::Storage, "{error}");
    assert!(error.to_string().contains("gave more bytes"), "{error}");
    assert!(server.sent() < IN_FLIGHT_MAX, "{} bytes were taken", server.sent());
}

#[test]
fn a_failure_is_not_read_for_ever() {
    let server = Server::start(|_| Answer::endless(403));
    assert_ne!(server.s3().get("config", 64 << 10).expect_err("refused").kind(), Kind::NotFound);
    server.s3().list("packs/").expect_err("refused");
    server.s3().put_new("config", b"x").expect_err("refused");
    assert!(server.sent() < IN_FLIGHT_MAX, "{} bytes were taken", server.sent());
}

/// Pages for ever, each with the token of the one before.
#[test]
fn a_listing_that_goes_round_in_a_circle_ends() {
    let keys: Vec<String> = (0..1000).map(|i| format!("packs/4f/4f{i:030}")).collect();
    for first in [0, 1, 999] {
        let keys = keys.clone();
        let server = Server::start(move |request| {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            if request.path.contains("continuation-token") { page(&keys) } else { page(&keys[..first]) }
        });
        let error = server.s3().list("packs/").expect_err("never ends");
        assert_eq!(error.kind(), Kind::Storage, "{error}");
        let cause = std::error::Error::source(&error).expect("has a cause").to_string();
        assert!(cause.contains("twice"), "{cause}");
    }
    let server = Server::start(|_| page(&[]));
    let error = server.s3().list("packs/").expect_err("never comes to an object");
    assert_eq!(error.kind(), Kind::Storage, "{error}");
}

/// A path that is not in the repository makes the library below panic. That is a failure like any other.
#[cfg(feature = "webdav")]
#[test]
fn an_answer_that_makes_no_sense_is_a_failure() {
    let server = Server::start(|_| {
        let body = "<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/</D:href>\
             <D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype>\
             <D:getlastmodified>Thu, 01 Jan 2026 00:00:00 GMT</D:getlastmodified></D:prop>\
             <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>";
        Answer { headers: "content-type: application/xml\r\n".to_owned(), ..Answer::new(207, body) }
    });
    let store = open(&format!("webdav://127.0.0.1:{}/shop?timeout=2s&retries=0", server.port));
    assert_eq!(store.list("packs/").expect_err("makes no sense").kind(), Kind::Storage);
}

#[cfg(feature = "webdav")]
#[test]
fn a_listing_tells_when_objects_were_written() {
    let server = Server::start(|_| {
        let body = "<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\"><D:response>\
             <D:href>/shop/index/1</D:href><D:propstat><D:prop><D:resourcetype/>\
             <D:getcontentlength>3</D:getcontentlength>\
             <D:getlastmodified>Thu, 01 Jan 2026 00:00:00 GMT</D:getlastmodified></D:prop>\
             <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>";
        Answer { headers: "content-type: application/xml\r\n".to_owned(), ..Answer::new(207, body) }
    });
    let store = open(&format!("webdav://127.0.0.1:{}/shop?timeout=2s&retries=0", server.port));
    let listed = store.list("index/").expect("lists");
    let modified = Some("2026-01-01T00:00:00Z".parse().expect("a time"));
    assert_eq!(listed, [Listed { name: "index/1".to_owned(), size: 3, modified }]);
}

/// Every folder of the server has itself, the folder above and a folder in it.
#[cfg(feature = "webdav")]
#[test]
fn folders_in_folders_end() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let server = Server::start(move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        let folder = format!("{}/", request.path.trim_end_matches('/'));
        let above = folder.trim_end_matches('/').rsplit_once('/').expect("below the root").0;
        let above = if folder == "/shop/" { folder.trim_end_matches('/') } else { above };
        let response = |path: &str, kind: &str| {
            format!(
                "<D:response><D:href>{path}</D:href><D:propstat><D:prop><D:resourcetype>{kind}</D:resourcetype>\
                 <D:getcontentlength>3</D:getcontentlength>\
                 <D:getlastmodified>Thu, 01 Jan 2026 00:00:00 GMT</D:getlastmodified></D:prop>\
                 <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
            )
        };
        let collection = "<D:collection/>";
        let body = [
            response(&folder, collection),
            response(&format!("{above}/"), collection),
            response(&format!("{folder}a/"), collection),
            response(&format!("{folder}a/b/"), collection),
            response(&format!("{folder}object"), ""),
        ];
        let body = format!("<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\">{}</D:multistatus>", body.concat());
        Answer { headers: "content-type: application/xml\r\n".to_owned(), ..Answer::new(207, body) }
    });
    let store = open(&format!("webdav://127.0.0.1:{}/shop?timeout=2s&retries=0", server.port));
    let names = |prefix: &str| {
        let mut names: Vec<_> = store.list(prefix).expect("lists").into_iter().map(|object| object.name).collect();
        names.sort();
        names
    };
    assert_eq!(names("packs/"), ["packs/a/object", "packs/object"]);
    assert_eq!(names(""), ["a/a/object", "a/object", "object"]);
    assert_eq!(asked.load(Ordering::SeqCst), 5, "nothing is asked for twice");
}
