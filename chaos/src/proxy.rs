//! A port between the dispatchers and a service: slow, deaf, cutting replies short, or swallowing them whole.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use crate::clock;

/// What the proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Every reply comes so much later.
    Slow(Duration),
    /// Nothing goes through in either direction, and nobody is told.
    BlackHole,
    /// Connections end, and new ones end at once; what was asked is never done.
    Closed,
    /// The next reply of every connection that stands by now breaks off in its middle.
    CutReply,
    /// The request of every connection that stands by now is done, and its reply never comes: the connection ends instead.
    DropReply,
}

#[derive(Debug)]
struct Shared {
    mode: Mutex<(Mode, u64)>,
    /// Numbers connections.
    connections: AtomicU64,
    /// Replies that were cut or dropped.
    broken: AtomicU64,
    /// No connection is taken any more.
    ended: AtomicBool,
    target: String,
}

/// A port before a service. Free again when it goes out of scope: the next run may need the same.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the thread that waits for connections. If nobody listens any more, it has ended already.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        if let Some(accepting) = self.accepting.take() {
            accepting.join().ok();
        }
    }
}

impl Proxy {
    /// Listens on any free port. `target` is `host:port`.
    pub(crate) fn start(target: &str) -> anyhow::Result<Self> {
        Self::start_at("127.0.0.1:0", target)
    }

    /// Listens where it is told to.
    pub(crate) fn start_at(address: &str, target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("a proxy cannot listen at {address}"))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            mode: Mutex::new((Mode::Pass, 0)),
            connections: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            target: target.to_owned(),
        });
        let accepting = Arc::clone(&shared);
        let accepting = std::thread::Builder::new().name("proxy".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::Acquire) {
                    return;
                }
                // A service that is down refuses: so do we, by hanging up.
                if accepting.mode().0 == Mode::Closed {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(&accepting.target) {
                    accepting.join(&client, &server);
                }
            }
        })?;
        Ok(Self { port, shared, accepting: Some(accepting) })
    }

    pub(crate) fn set(&self, mode: Mode) {
        let newest = self.shared.connections.load(Ordering::Acquire);
        *self.shared.mode.lock().unwrap_or_else(PoisonError::into_inner) = (mode, newest);
    }

    /// Replies that were cut or dropped so far.
    pub(crate) fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::Acquire)
    }
}

impl Shared {
    fn mode(&self) -> (Mode, u64) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::AcqRel) + 1;
        for stream in [client, server] {
            // Only slower without it.
            stream.set_nodelay(true).ok();
        }
        let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
        let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { return };
        let (requests, replies) = (Arc::clone(self), Arc::clone(self));
        std::thread::spawn(move || requests.pump(from_client, to_server, |_, _| Verdict::Pass));
        std::thread::spawn(move || replies.pump(from_server, to_client, |shared, _| shared.reply(number)));
    }

    fn reply(&self, number: u64) -> Verdict {
        match self.mode() {
            (Mode::Slow(time), _) => {
                std::thread::sleep(time);
                Verdict::Pass
            }
            (Mode::CutReply, newest) if number <= newest => Verdict::Cut,
            (Mode::DropReply, newest) if number <= newest => Verdict::Drop,
            _ => Verdict::Pass,
        }
    }

    /// Moves bytes until one side ends; both end then.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, judge: impl Fn(&Self, usize) -> Verdict) {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            while self.mode().0 == Mode::BlackHole && clock::check().is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            if self.mode().0 == Mode::Closed {
                break;
            }
            let passing = match judge(self, count) {
                Verdict::Pass => count,
                Verdict::Cut => count / 2,
                Verdict::Drop => 0,
            };
            if to.write_all(&bytes[..passing]).is_err() {
                break;
            }
            if passing < count {
                self.broken.fetch_add(1, Ordering::AcqRel);
                break;
            }
        }
        for stream in [from, to] {
            // The other side may have gone already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

enum Verdict {
    Pass,
    Cut,
    Drop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_passes_bytes_on_and_its_port_is_free_again_after_it() {
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = service.local_addr().unwrap().to_string();
        let proxy = Proxy::start(&target).unwrap();
        let address = format!("127.0.0.1:{}", proxy.port);
        let mut client = TcpStream::connect(&address).unwrap();
        client.write_all(b"hello").unwrap();
        let mut server = service.accept().unwrap().0;
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        assert!(Proxy::start_at(&address, &target).is_err(), "it listens");
        drop(proxy);
        // A connection still stands; only the listener must be gone.
        drop(Proxy::start_at(&address, &target).unwrap());
    }
}
