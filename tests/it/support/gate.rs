//! A port in front of a service that a test can close, slow down, or let swallow everything; it may speak Kafka.
//!
//! Each gate has a loopback address of its own, so that nobody else takes its port while it is closed.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::Rng as _;

/// What happens to what passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Weather {
    Fair,
    /// Each answer takes so much longer.
    Slow(Duration),
    /// Nothing comes through either way, and nobody is told.
    Hole,
    /// Kafka only: answers to requests of this kind (Kafka's `api_key`) never come; all others do.
    Without(i16),
    /// Kafka only: in records that have these bytes, the last one arrives as another.
    Corrupt(&'static [u8]),
}

/// Kafka's `api_key` of a request for records.
pub(crate) const FETCH: i16 = 1;
/// Of a request to be let into a group, and of one for what the group has shared out.
pub(crate) const JOIN_GROUP: i16 = 11;
pub(crate) const SYNC_GROUP: i16 = 14;

pub(crate) struct Gate {
    pub(crate) address: SocketAddrV4,
    shared: Arc<Shared>,
    open: Option<Open>,
}

struct Shared {
    target: String,
    dialect: Dialect,
    weather: Mutex<Weather>,
    changed: Condvar,
}

/// What must be known of the protocol.
enum Dialect {
    Any,
    /// Kafka tells its clients where it is: the first in its answers becomes the second.
    Kafka(Vec<u8>, Vec<u8>),
}

/// What an open port consists of.
struct Open {
    closing: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: JoinHandle<()>,
}

impl Gate {
    /// A closed gate in front of `host:port`.
    pub(crate) fn closed(target: &str) -> Self {
        Self::new(free_address(), target, Dialect::Any)
    }

    /// A closed gate in front of `host:port`, on the port that another gate has, at another address.
    pub(crate) fn beside(other: &Self) -> Self {
        let (address, shared) = (SocketAddrV4::new(loopback(), other.address.port()), &other.shared);
        let dialect = match &shared.dialect {
            Dialect::Any => Dialect::Any,
            Dialect::Kafka(from, to) => Dialect::Kafka(from.clone(), to.clone()),
        };
        Self::new(address, &shared.target, dialect)
    }

    /// A closed gate in front of a Kafka at `host:port`. Clients are told that Kafka is here.
    pub(crate) fn kafka(target: &str) -> Self {
        let address = free_address();
        Self::kafka_by_name(target, address, &address.ip().to_string())
    }

    /// A closed gate at `address` in front of a Kafka at `host:port`. Clients are told that Kafka is at `name`.
    pub(crate) fn kafka_by_name(target: &str, address: SocketAddrV4, name: &str) -> Self {
        let (host, port) = target.rsplit_once(':').unwrap();
        assert_eq!(name.len(), host.len(), "{name} takes the place of {host} in Kafka's answers, byte for byte");
        let place = |host: &str, port: u16| [host.as_bytes(), &i32::from(port).to_be_bytes()].concat();
        let dialect = Dialect::Kafka(place(host, port.parse().unwrap()), place(name, address.port()));
        Self::new(address, target, dialect)
    }

    fn new(address: SocketAddrV4, target: &str, dialect: Dialect) -> Self {
        let shared = Shared { target: target.to_owned(), dialect, weather: Mutex::new(Weather::Fair), changed: Condvar::new() };
        Self { address, shared: Arc::new(shared), open: None }
    }

    pub(crate) fn open(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let (closing, streams) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, kept, shared) = (Arc::clone(&closing), Arc::clone(&streams), Arc::clone(&self.shared));
        let acceptor = std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                forward(client.unwrap(), TcpStream::connect(&shared.target).unwrap(), &kept, &stop, &shared);
            }
        });
        self.open = Some(Open { closing, streams, acceptor });
    }

    /// Cuts every connection and listens no more.
    pub(crate) fn close(&mut self) {
        let Some(Open { closing, streams, acceptor }) = self.open.take() else { return };
        closing.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        // Wakes the acceptor; what counts is that it has ended.
        drop(TcpStream::connect(self.address));
        acceptor.join().unwrap();
        for stream in streams.lock().unwrap().iter() {
            // One side may have gone already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    pub(crate) fn weather(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap() = weather;
        self.shared.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}

/// As long as `127.0.0.1`, for the sake of Kafka's answers.
fn loopback() -> Ipv4Addr {
    let mut random = rand::rng();
    let mut part = || random.random_range(1..=9);
    Ipv4Addr::new(127, part(), part(), part())
}

/// An address of loopback with a port that is free there.
pub(crate) fn free_address() -> SocketAddrV4 {
    let ip = loopback();
    SocketAddrV4::new(ip, TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port())
}

/// One connection: who has asked what is known to both of its directions.
#[derive(Clone)]
struct Line {
    shared: Arc<Shared>,
    closing: Arc<AtomicBool>,
    asked: Arc<Mutex<HashMap<[u8; 4], i16>>>,
}

fn forward(client: TcpStream, server: TcpStream, kept: &Mutex<Vec<TcpStream>>, closing: &Arc<AtomicBool>, shared: &Arc<Shared>) {
    let line = Line { shared: Arc::clone(shared), closing: Arc::clone(closing), asked: Arc::default() };
    let copy = |from: &TcpStream, to: &TcpStream, step: fn(&Line, &mut [u8]) -> bool| {
        let (mut from, mut to, line) = (from.try_clone().unwrap(), to.try_clone().unwrap(), line.clone());
        std::thread::spawn(move || {
            while let Some(mut piece) = read(&mut from, &line.shared.dialect) {
                if step(&line, &mut piece) && to.write_all(&piece).is_err() {
                    break;
                }
            }
            // A cut is what the test wants; either way both directions end.
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
        });
    };
    copy(&client, &server, Line::request);
    copy(&server, &client, Line::reply);
    kept.lock().unwrap().extend([client, server]);
}

/// The next piece; of Kafka a whole request or answer with its length before it.
fn read(from: &mut TcpStream, dialect: &Dialect) -> Option<Vec<u8>> {
    if let Dialect::Any = dialect {
        let mut buffer = vec![0; 16 * 1024];
        let length = from.read(&mut buffer).ok()?;
        buffer.truncate(length);
        return Some(buffer).filter(|buffer| !buffer.is_empty());
    }
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let mut piece = vec![0; 4 + u32::from_be_bytes(length) as usize];
    piece[..4].copy_from_slice(&length);
    from.read_exact(&mut piece[4..]).ok()?;
    Some(piece)
}

impl Line {
    /// Whether a request goes on to the service.
    fn request(&self, piece: &mut [u8]) -> bool {
        if let Dialect::Kafka(..) = self.shared.dialect {
            // length, api_key, api_version, correlation_id
            let (kind, id) = (i16::from_be_bytes([piece[4], piece[5]]), [piece[8], piece[9], piece[10], piece[11]]);
            self.asked.lock().unwrap().insert(id, kind);
        }
        self.leave_the_hole();
        true
    }

    /// Whether an answer goes back to the client.
    fn reply(&self, piece: &mut [u8]) -> bool {
        let mut kind = None;
        if let Dialect::Kafka(from, to) = &self.shared.dialect {
            let id = [piece[4], piece[5], piece[6], piece[7]];
            kind = self.asked.lock().unwrap().remove(&id);
            let places: Vec<_> =
                (0..=piece.len().saturating_sub(from.len())).filter(|at| piece[*at..].starts_with(from)).collect();
            for at in places {
                piece[at..at + to.len()].copy_from_slice(to);
            }
        }
        match self.leave_the_hole() {
            Weather::Slow(delay) => self.delay(delay),
            Weather::Without(withheld) => return kind != Some(withheld),
            Weather::Corrupt(bytes) if kind == Some(FETCH) => corrupt(piece, bytes),
            Weather::Corrupt(_) | Weather::Fair | Weather::Hole => {}
        }
        true
    }

    /// Waits until something may pass; says what the weather is then.
    fn leave_the_hole(&self) -> Weather {
        let mut weather = self.shared.weather.lock().unwrap();
        while *weather == Weather::Hole && !self.closing.load(Ordering::Acquire) {
            // Also looks by itself: `close` may have told before we listened.
            weather = self.shared.changed.wait_timeout(weather, Duration::from_millis(100)).unwrap().0;
        }
        *weather
    }

    fn delay(&self, delay: Duration) {
        let deadline = Instant::now() + delay;
        let mut weather = self.shared.weather.lock().unwrap();
        while matches!(*weather, Weather::Slow(_)) && !self.closing.load(Ordering::Acquire) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            weather = self.shared.changed.wait_timeout(weather, left.min(Duration::from_millis(100))).unwrap().0;
        }
    }
}

/// Changes the last byte wherever these bytes are.
fn corrupt(piece: &mut [u8], bytes: &[u8]) {
    let places: Vec<_> = (0..=piece.len().saturating_sub(bytes.len())).filter(|at| piece[*at..].starts_with(bytes)).collect();
    for at in places {
        piece[at + bytes.len() - 1] ^= 1;
    }
}
