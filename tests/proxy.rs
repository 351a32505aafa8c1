//! A bad network, made to order: a proxy on loopback that stands between the program and a real server, and delays,
//! cuts, truncates, refuses, or swallows what passes. Its own tests are at the end.
//!
//! In HTTP mode it knows where a request begins and ends. A delay holds back the head of each request and nothing
//! else, so every request costs that much more and throughput stays what it was, as on a long line. In TCP mode, for
//! SFTP, every piece sent to the server arrives that much later.
//!
//! Chance is seeded: the same requests in the same order meet the same faults. Modes are switched while it runs and
//! hold for the requests that come after.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A piece of a body under way.
const PIECE_BYTES: usize = 64 << 10;
/// Longest head of a request or an answer.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// How soon a thread that waits notices that the modes have changed.
const TICK: Duration = Duration::from_millis(20);
/// How long the rest of a request may take once it has been answered.
const LINGER: Duration = Duration::from_secs(2);

/// What goes wrong. Chances are between 0 and 1, for each request; in TCP mode for each piece.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Every request takes this much longer.
    pub delay: Duration,
    /// Chance that the connection ends in the middle of the request's body or, when that has arrived whole,
    /// before its answer: the client can't know whether the request was carried out.
    pub cut: f64,
    /// Chance that the connection ends in the middle of the answer.
    pub truncate: f64,
    /// Chance that one of `statuses` answers, and the server never hears of the request.
    pub answer: f64,
    /// What then answers.
    pub statuses: Vec<u16>,
    /// Requests are taken and nothing ever comes back. When this ends, those under way are cut.
    pub black_hole: bool,
    /// Nobody listens. Connections that exist go on.
    pub refuse: bool,
}

/// What has passed.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Connections from clients.
    pub connections: u64,
    /// Requests by method, those that met a fault included.
    pub requests: BTreeMap<String, u64>,
    /// Bytes sent to the server, heads included.
    pub bytes_up: u64,
    /// Bytes that came back.
    pub bytes_down: u64,
    /// Faults that came about by chance, and requests that the black hole took.
    pub faults: u64,
}

impl Counts {
    /// All requests.
    pub fn all(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// The proxy. It ends with the value.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    target: u16,
    http: bool,
    faults: Mutex<Faults>,
    random: Mutex<u64>,
    counts: Mutex<Counts>,
    ended: AtomicBool,
    next: AtomicU64,
    /// Both sides of every connection, to end them.
    open: Mutex<BTreeMap<u64, Vec<TcpStream>>>,
}

/// The fate of one request.
enum Fate {
    Pass,
    /// The part of the request's body that gets through; 1 is all of it, and no answer.
    Cut(f64),
    /// The part of the answer's body that gets through.
    Truncate(f64),
    Answer(u16),
    Swallow,
}

impl Proxy {
    /// In front of an HTTP server on loopback.
    pub fn http(target: u16, seed: u64) -> Self {
        Self::start(target, seed, true)
    }

    /// In front of any other server on loopback.
    pub fn tcp(target: u16, seed: u64) -> Self {
        Self::start(target, seed, false)
    }

    fn start(target: u16, seed: u64, http: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { target, http, random: Mutex::new(seed), ..Shared::default() });
        let listening = Some(thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.listen(listener, port)
        }));
        Self { port, shared, listening }
    }

    /// Where clients connect, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on.
    pub fn set(&self, faults: Faults) {
        *hold(&self.shared.faults) = faults;
        // A listener that must go, or come back, does so within a tick.
        thread::sleep(TICK * 3);
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        hold(&self.shared.counts).clone()
    }

    /// Ends every connection now, whatever it is doing.
    pub fn cut_all(&self) {
        self.shared.cut_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
        self.shared.cut_all();
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn faults(&self) -> Faults {
        hold(&self.faults).clone()
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut hold(&self.counts));
    }

    fn cut_all(&self) {
        for stream in hold(&self.open).values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// A number from 0 to below 1 (Steele, Lea, Flood: `SplitMix64`).
    fn random(&self) -> f64 {
        let mut state = hold(&self.random);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn fate(&self) -> Fate {
        let faults = self.faults();
        // Always as many numbers, so that one mode does not move the luck of another.
        let [cut, truncate, answer, part, which] = std::array::from_fn(|_| self.random());
        let fate = if faults.black_hole {
            Fate::Swallow
        } else if answer < faults.answer && !faults.statuses.is_empty() {
            Fate::Answer(faults.statuses[(which * faults.statuses.len() as f64) as usize])
        } else if cut < faults.cut {
            // Every other request arrives whole and loses its answer.
            Fate::Cut((part * 2.0).min(1.0))
        } else if truncate < faults.truncate {
            Fate::Truncate(part)
        } else {
            return Fate::Pass;
        };
        self.count(|c| c.faults += 1);
        fate
    }

    fn listen(self: Arc<Self>, listener: TcpListener, port: u16) {
        let mut listener = Some(listener);
        while !self.ended() {
            if self.faults().refuse {
                listener = None;
                thread::sleep(TICK);
                continue;
            }
            let Some(listening) = &listener else {
                listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
                continue;
            };
            if !readable(&[listening], TICK)[0] {
                continue;
            }
            let Ok((client, _)) = listening.accept() else { continue };
            self.count(|c| c.connections += 1);
            let shared = Arc::clone(&self);
            thread::spawn(move || {
                let number = shared.next.fetch_add(1, Ordering::SeqCst);
                // How a connection ends is what its two sides see.
                let _ = shared.serve(number, client);
                for stream in hold(&shared.open).remove(&number).into_iter().flatten() {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            });
        }
    }

    fn serve(&self, number: u64, client: TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        hold(&self.open).insert(number, vec![client.try_clone()?]);
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target))?;
        server.set_nodelay(true)?;
        hold(&self.open).entry(number).or_default().push(server.try_clone()?);
        if self.ended() {
            return Ok(());
        }
        if self.http {
            return self.serve_http(client, &server);
        }
        self.serve_tcp(&client, &server);
        Ok(())
    }

    // ---- HTTP ------------------------------------------------------------------------------

    fn serve_http(&self, client: TcpStream, server: &TcpStream) -> Result<()> {
        let mut from_client = BufReader::with_capacity(PIECE_BYTES, client.try_clone()?);
        let mut from_server = BufReader::with_capacity(PIECE_BYTES, server.try_clone()?);
        loop {
            // A server that ends an idle connection is seen to do so.
            while from_client.buffer().is_empty() {
                let [asks, ends] = readable(&[&client, server], TICK)[..] else { unreachable!("two were asked") };
                if ends && !asks || self.ended() {
                    return Ok(());
                }
                if asks {
                    break;
                }
            }
            let Some(head) = read_head(&mut from_client)? else { return Ok(()) };
            let method = head.first_line().split(' ').next().unwrap_or_default().to_owned();
            let body = head.body_of_request()?;
            self.count(|c| *c.requests.entry(method.clone()).or_default() += 1);
            let fate = self.fate();
            thread::sleep(self.faults().delay);
            match fate {
                Fate::Swallow => return self.swallow(&mut from_client),
                Fate::Answer(status) => return self.answer(status, client, &mut from_client),
                _ => {}
            }
            let goes_on = thread::scope(|scope| {
                let upload = scope.spawn(|| {
                    let mut up = Pump { to: server, bytes: 0, count: |n| self.count(|c| c.bytes_up += n) };
                    up.send(&head.bytes)?;
                    let limit = match fate {
                        Fate::Cut(part) if part < 1.0 => part_of(body, part),
                        _ => u64::MAX,
                    };
                    let sent = up.body(&mut from_client, body, limit);
                    // The server may have answered early and left: then what it said still comes through.
                    match sent.as_ref().map_err(Error::kind) {
                        Ok(()) => {}
                        Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                            drop(server.shutdown(Shutdown::Write));
                        }
                        Err(_) => drop(server.shutdown(Shutdown::Both)),
                    }
                    sent
                });
                let down = self.relay_answer(&mut from_server, &client, &method, &fate);
                // An answer that comes before the whole request was read ends the connection, unless the rest follows.
                let since = Instant::now();
                while !upload.is_finished() {
                    if down.is_err() || since.elapsed() > LINGER {
                        let _ = client.shutdown(Shutdown::Both);
                        let _ = server.shutdown(Shutdown::Both);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                let up = upload.join().expect("a pump does not panic");
                down.and_then(|goes_on| up.map(|()| goes_on))
            })?;
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Hands the answer on, the interim ones (100) too. True when another request may follow.
    fn relay_answer(
        &self,
        from_server: &mut BufReader<TcpStream>,
        client: &TcpStream,
        method: &str,
        fate: &Fate,
    ) -> Result<bool> {
        let mut down = Pump { to: client, bytes: 0, count: |n| self.count(|c| c.bytes_down += n) };
        loop {
            let head = read_head(from_server)?.ok_or(ErrorKind::UnexpectedEof)?;
            let status = head.status()?;
            if matches!(fate, Fate::Cut(_)) && status >= 200 {
                return Err(Error::other("cut before the answer"));
            }
            down.send(&head.bytes)?;
            if status >= 200 {
                let body = head.body_of_answer(method, status)?;
                let limit = match fate {
                    Fate::Truncate(part) => part_of(body, *part),
                    _ => u64::MAX,
                };
                down.body(from_server, body, limit)?;
                return Ok(!matches!(body, Body::ToTheEnd) && !head.closes() && limit == u64::MAX);
            }
        }
    }

    fn answer(&self, status: u16, mut client: TcpStream, from_client: &mut BufReader<TcpStream>) -> Result<()> {
        let code = if status == 500 { "InternalError" } else { "SlowDown" };
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>made to order</Message></Error>");
        let head = format!(
            "HTTP/1.1 {status} Fault\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        client.write_all((head + &body).as_bytes())?;
        client.shutdown(Shutdown::Write)?;
        // Closing with bytes unread would take the answer away from the client.
        client.set_read_timeout(Some(LINGER))?;
        while read_piece(from_client, PIECE_BYTES)? > 0 && !self.ended() {}
        Ok(())
    }

    /// Takes everything and says nothing, until the client gives up or the mode ends.
    fn swallow(&self, from_client: &mut BufReader<TcpStream>) -> Result<()> {
        from_client.get_ref().set_read_timeout(Some(TICK))?;
        while self.faults().black_hole && !self.ended() {
            match read_piece(from_client, PIECE_BYTES) {
                Ok(0) => return Ok(()),
                Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    // ---- TCP -------------------------------------------------------------------------------

    fn serve_tcp(&self, client: &TcpStream, server: &TcpStream) {
        let (send, receive) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
        let end = || {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        };
        thread::scope(|scope| {
            // To the server: read now, written when the delay is over.
            scope.spawn(|| {
                let send = send;
                let mut piece = vec![0; PIECE_BYTES];
                while let Ok(n @ 1..) = (&*client).read(&mut piece) {
                    if !self.lets_pass()
                        || send.send((Instant::now() + self.faults().delay, piece[..n].into())).is_err()
                    {
                        end();
                    }
                }
            });
            scope.spawn(|| {
                for (due, piece) in receive {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if (&*server).write_all(&piece).is_err() {
                        end();
                        return;
                    }
                    self.count(|c| c.bytes_up += piece.len() as u64);
                }
                let _ = server.shutdown(Shutdown::Write);
            });
            let mut piece = vec![0; PIECE_BYTES];
            while let Ok(n @ 1..) = (&*server).read(&mut piece) {
                if !self.lets_pass() || (&*client).write_all(&piece[..n]).is_err() {
                    break;
                }
                self.count(|c| c.bytes_down += n as u64);
            }
            end();
        });
    }

    /// Waits in the black hole; false when the connection must end.
    fn lets_pass(&self) -> bool {
        match self.fate() {
            Fate::Swallow => {
                while self.faults().black_hole && !self.ended() {
                    thread::sleep(TICK);
                }
                false
            }
            Fate::Pass | Fate::Answer(_) => true,
            Fate::Cut(_) | Fate::Truncate(_) => false,
        }
    }
}

/// Which of these have something to say, after at most `patience`.
fn readable<T: std::os::fd::AsFd>(of: &[T], patience: Duration) -> Vec<bool> {
    let mut asked: Vec<PollFd> = of.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    let _ = poll(&mut asked, Some(&patience));
    asked.iter().map(|fd| !fd.revents().is_empty()).collect()
}

/// Reads a piece and forgets it; 0 at the end.
fn read_piece(from: &mut BufReader<TcpStream>, most: usize) -> Result<usize> {
    let n = from.fill_buf()?.len().min(most);
    from.consume(n);
    Ok(n)
}

// ---- as much of HTTP/1.1 (RFC 9112) as is needed -----------------------------------------------

/// A request's or answer's first line and fields, as they came.
struct Head {
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Body {
    Bytes(u64),
    Chunked,
    ToTheEnd,
}

/// `None` where the connection ends instead.
fn read_head(from: &mut BufReader<TcpStream>) -> Result<Option<Head>> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        from.by_ref().take(HEAD_BYTES_MAX as u64).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() == before || bytes.len() > HEAD_BYTES_MAX {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if bytes[before..] == *b"\r\n" && before > 0 {
            return Ok(Some(Head { bytes }));
        }
    }
}

impl Head {
    fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    fn first_line(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_owned()
    }

    fn field(&self, name: &str) -> Option<String> {
        let text = self.text();
        let mut fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_ascii_lowercase())
    }

    fn status(&self) -> Result<u16> {
        let line = self.first_line();
        line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| Error::other(line))
    }

    fn closes(&self) -> bool {
        self.field("connection").is_some_and(|c| c.contains("close")) || self.first_line().starts_with("HTTP/1.0")
    }

    fn length(&self) -> Result<Option<Body>> {
        if self.field("transfer-encoding").is_some_and(|t| t.contains("chunked")) {
            return Ok(Some(Body::Chunked));
        }
        let length = self.field("content-length").map(|n| n.parse().map_err(Error::other)).transpose()?;
        Ok(length.map(Body::Bytes))
    }

    fn body_of_request(&self) -> Result<Body> {
        Ok(self.length()?.unwrap_or(Body::Bytes(0)))
    }

    fn body_of_answer(&self, method: &str, status: u16) -> Result<Body> {
        if method == "HEAD" || matches!(status, 204 | 304) {
            return Ok(Body::Bytes(0));
        }
        Ok(self.length()?.unwrap_or(Body::ToTheEnd))
    }
}

/// Where to cut a body. Nobody knows how long a chunked one becomes: early, then.
fn part_of(body: Body, part: f64) -> u64 {
    let bytes = if let Body::Bytes(n) = body { n } else { 4096 };
    (bytes as f64 * part) as u64
}

/// Hands bytes on and counts them.
struct Pump<'a, C: Fn(u64)> {
    to: &'a TcpStream,
    /// Of the body.
    bytes: u64,
    count: C,
}

impl<C: Fn(u64)> Pump<'_, C> {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes)?;
        (self.count)(bytes.len() as u64);
        Ok(())
    }

    /// A whole body; an error after `limit` bytes of it.
    fn body(&mut self, from: &mut BufReader<TcpStream>, body: Body, limit: u64) -> Result<()> {
        match body {
            Body::Bytes(n) => self.exactly(from, n, limit)?,
            Body::ToTheEnd => while self.piece(from, u64::MAX, limit)? > 0 {},
            Body::Chunked => loop {
                let line = self.line(from, limit)?;
                let size = String::from_utf8_lossy(&line).trim().split(';').next().unwrap_or_default().to_owned();
                let size = u64::from_str_radix(&size, 16).map_err(Error::other)?;
                if size == 0 {
                    // Trailers, and an empty line.
                    while self.line(from, limit)? != b"\r\n" {}
                    break;
                }
                self.exactly(from, size + 2, limit)?;
            },
        }
        // A cut after the last byte, or in a body of no bytes.
        if self.bytes >= limit { Err(Error::other("cut")) } else { Ok(()) }
    }

    fn exactly(&mut self, from: &mut BufReader<TcpStream>, mut n: u64, limit: u64) -> Result<()> {
        while n > 0 {
            let passed = self.piece(from, n, limit)?;
            if passed == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            n -= passed;
        }
        Ok(())
    }

    fn piece(&mut self, from: &mut BufReader<TcpStream>, most: u64, limit: u64) -> Result<u64> {
        if self.bytes >= limit {
            return Err(Error::other("cut"));
        }
        let piece = from.fill_buf()?;
        let n = piece.len().min(most.min(limit - self.bytes) as usize);
        self.to.write_all(&piece[..n])?;
        from.consume(n);
        self.bytes += n as u64;
        (self.count)(n as u64);
        Ok(n as u64)
    }

    fn line(&mut self, from: &mut BufReader<TcpStream>, limit: u64) -> Result<Vec<u8>> {
        if self.bytes >= limit {
            return Err(Error::other("cut"));
        }
        let mut line = Vec::new();
        from.by_ref().take(HEAD_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.send(&line)?;
        self.bytes += line.len() as u64;
        Ok(line)
    }
}

// ---- the proxy's own tests ---------------------------------------------------------------------

/// A server for one file's worth of HTTP: `GET /N` gives N bytes, `GET /chunked` gives 3 chunks, everything else
/// answers with the length of what it was sent.
fn tiny_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || tiny_connection(client));
        }
    });
    port
}

fn tiny_connection(mut client: TcpStream) -> Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    while let Some(head) = read_head(&mut from)? {
        let line = head.first_line();
        if head.field("expect").is_some() {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let sent = read_body(&mut from, head.body_of_request()?)?;
        let path = line.split(' ').nth(1).unwrap_or_default();
        let answer = match (line.starts_with("GET"), path.trim_start_matches('/').parse::<usize>()) {
            (true, Ok(n)) => vec![b'x'; n],
            (true, Err(_)) => {
                let chunks = "5\r\nfirst\r\n6\r\nsecond\r\n5;a=b\r\nthird\r\n0\r\nfield: value\r\n\r\n";
                write!(client, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")?;
                continue;
            }
            _ => sent.len().to_string().into_bytes(),
        };
        write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len())?;
        client.write_all(&answer)?;
    }
    Ok(())
}

fn read_body(from: &mut BufReader<TcpStream>, body: Body) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match body {
        Body::Bytes(n) => {
            bytes.resize(n as usize, 0);
            from.read_exact(&mut bytes)?;
        }
        Body::ToTheEnd => drop(from.read_to_end(&mut bytes)?),
        Body::Chunked => loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(Error::other)?;
            let mut piece = vec![0; size + 2];
            if size == 0 {
                while from.read_line(&mut line)? > 2 {}
                return Ok(bytes);
            }
            from.read_exact(&mut piece)?;
            bytes.extend_from_slice(&piece[..size]);
        },
    }
    Ok(bytes)
}

/// A client that keeps its connection.
struct Client {
    to: TcpStream,
    from: BufReader<TcpStream>,
}

impl Client {
    fn new(port: u16) -> Self {
        Self::try_new(port).expect("somebody listens")
    }

    fn try_new(port: u16) -> Result<Self> {
        let to = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        to.set_read_timeout(Some(Duration::from_secs(10)))?;
        let from = BufReader::new(to.try_clone()?);
        Ok(Self { to, from })
    }

    fn ask(&mut self, line: &str, fields: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        write!(self.to, "{line} HTTP/1.1\r\nHost: tiny\r\n{fields}\r\n")?;
        if fields.contains("100-continue") {
            let interim = read_head(&mut self.from)?.ok_or(ErrorKind::UnexpectedEof)?;
            assert_eq!(interim.status()?, 100);
        }
        self.to.write_all(body)?;
        let head = read_head(&mut self.from)?.ok_or(ErrorKind::UnexpectedEof)?;
        let body = head.body_of_answer(line, head.status()?)?;
        Ok((head.status()?, read_body(&mut self.from, body)?))
    }

    fn get(&mut self, n: usize) -> Result<(u16, Vec<u8>)> {
        self.ask(&format!("GET /{n}"), "", b"")
    }

    fn put(&mut self, n: usize) -> Result<(u16, Vec<u8>)> {
        self.ask("PUT /here", &format!("Content-Length: {n}\r\n"), &vec![b'y'; n])
    }
}

#[test]
fn without_faults_everything_passes_and_is_counted() {
    let proxy = Proxy::http(tiny_server(), 1);
    let mut client = Client::new(proxy.port());
    for n in [0, 1, 300_000] {
        assert_eq!(client.get(n).expect("passes"), (200, vec![b'x'; n]));
        assert_eq!(client.put(n).expect("passes"), (200, n.to_string().into_bytes()));
    }
    assert_eq!(client.ask("GET /chunked", "", b"").expect("passes").1, b"firstsecondthird");
    let chunked = client.ask("PUT /x", "Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(chunked.expect("passes").1, b"3");
    let expecting = client.ask("PUT /x", "Expect: 100-continue\r\nContent-Length: 4\r\n", b"four");
    assert_eq!(expecting.expect("passes").1, b"4");
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.all(), counts.faults), (1, 9, 0));
    assert_eq!(counts.requests, BTreeMap::from([("GET".into(), 4), ("PUT".into(), 5)]));
    assert!(counts.bytes_up > 300_000 && counts.bytes_down > 300_000, "{counts:?}");
}

#[test]
fn a_delay_costs_each_request_and_no_throughput() {
    let proxy = Proxy::http(tiny_server(), 2);
    let delay = Duration::from_millis(60);
    proxy.set(Faults { delay, ..Faults::default() });
    let mut client = Client::new(proxy.port());
    let started = Instant::now();
    for _ in 0..5 {
        client.get(1).expect("passes");
    }
    assert!(started.elapsed() >= delay * 5, "{:?}", started.elapsed());
    // Sixteen megabytes are 256 pieces: each delayed, they would take fifteen seconds.
    let started = Instant::now();
    client.get(16 << 20).expect("passes");
    client.put(16 << 20).expect("passes");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[test]
fn chance_repeats_with_its_seed() {
    let target = tiny_server();
    let luck = |seed, faults: &Faults| -> Vec<String> {
        let proxy = Proxy::http(target, seed);
        proxy.set(faults.clone());
        let one = |_| match Client::new(proxy.port()).put(10_000) {
            Ok((status, _)) => status.to_string(),
            Err(_) => "cut".to_owned(),
        };
        let all = (0..40).map(one).collect();
        assert!(proxy.counts().faults > 0, "{:?}", proxy.counts());
        all
    };
    let faults = Faults { cut: 0.3, answer: 0.3, statuses: vec![500, 503, 429], ..Faults::default() };
    let first = luck(7, &faults);
    assert_eq!(first, luck(7, &faults));
    assert_ne!(first, luck(8, &faults));
    for outcome in ["200", "500", "503", "429", "cut"] {
        assert!(first.iter().any(|o| o == outcome), "{outcome} in {first:?}");
    }
}

#[test]
fn a_truncated_answer_ends_early_and_says_how_long_it_should_have_been() {
    let proxy = Proxy::http(tiny_server(), 3);
    proxy.set(Faults { truncate: 1.0, ..Faults::default() });
    for _ in 0..5 {
        let mut client = Client::new(proxy.port());
        write!(client.to, "GET /100000 HTTP/1.1\r\n\r\n").expect("sent");
        let head = read_head(&mut client.from).expect("a head").expect("a head");
        assert_eq!(head.body_of_answer("GET", 200).expect("a length"), Body::Bytes(100_000));
        let mut rest = Vec::new();
        let _ = client.from.read_to_end(&mut rest);
        assert!(rest.len() < 100_000, "{}", rest.len());
    }
}

#[test]
fn the_black_hole_says_nothing_until_it_closes() {
    let proxy = Proxy::http(tiny_server(), 4);
    let mut client = Client::new(proxy.port());
    client.get(1).expect("passes");
    proxy.set(Faults { black_hole: true, ..Faults::default() });
    client.to.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    let silence = client.get(1).expect_err("nothing comes back");
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    proxy.set(Faults::default());
    client.to.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    assert_ne!(client.get(1).expect_err("cut").kind(), ErrorKind::WouldBlock);
    Client::new(proxy.port()).get(1).expect("passes again");
}

#[test]
fn nobody_listens_for_a_while() {
    let proxy = Proxy::http(tiny_server(), 5);
    let mut before = Client::new(proxy.port());
    before.get(1).expect("passes");
    proxy.set(Faults { refuse: true, ..Faults::default() });
    let refused = Client::try_new(proxy.port()).map(|_| ()).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    before.get(1).expect("what exists goes on");
    proxy.set(Faults::default());
    Client::new(proxy.port()).get(1).expect("passes again");
    proxy.cut_all();
    before.get(1).expect_err("cut");
}

#[test]
fn any_protocol_passes_later_or_not_at_all() {
    let proxy = Proxy::tcp(tiny_server(), 6);
    let mut client = Client::new(proxy.port());
    assert_eq!(client.put(3_000_000).expect("passes").1, b"3000000");
    assert_eq!(client.get(3_000_000).expect("passes").1.len(), 3_000_000);
    let delay = Duration::from_millis(80);
    proxy.set(Faults { delay, ..Faults::default() });
    let started = Instant::now();
    client.put(3_000_000).expect("passes");
    assert!(started.elapsed() >= delay && started.elapsed() < delay * 20, "{:?}", started.elapsed());
    proxy.set(Faults { cut: 1.0, ..Faults::default() });
    client.get(1).expect_err("cut");
    let counts = proxy.counts();
    assert!(counts.faults > 0 && counts.bytes_up > 6_000_000 && counts.bytes_down > 3_000_000, "{counts:?}");
}
