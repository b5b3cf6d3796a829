//! A port in front of a service that can be slow, swallow everything that is sent, or end every connection.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use trigger_dispatcher::clock;

/// What happens to bytes, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Free,
    /// Each piece is passed on that much later.
    Late(Duration),
    /// Nothing is passed on, nor refused.
    Held,
    /// Every connection ends at once.
    Cut,
}

pub(crate) struct Wire {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    flow: Mutex<Flow>,
    changed: Condvar,
    accepted: AtomicUsize,
    open: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// Between some port of `host`, a loopback address, and `target`, which is `host:port`. Listens as long as the test
    /// process lives.
    pub(crate) fn start(host: &str, port: u16, target: &str) -> Self {
        let listener = TcpListener::bind((host, port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            flow: Mutex::new(Flow::Free),
            changed: Condvar::new(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            streams: Mutex::default(),
        });
        let (shared, target) = (Arc::clone(&state), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                if *shared.flow.lock().unwrap() == Flow::Cut {
                    continue;
                }
                let server = TcpStream::connect(&target).unwrap();
                shared.accepted.fetch_add(1, Ordering::AcqRel);
                shared.open.fetch_add(1, Ordering::AcqRel);
                shared.streams.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                forward(&server, &client, &shared, false);
                forward(&client, &server, &shared, true);
            }
        });
        Self { port, state }
    }

    pub(crate) fn set(&self, flow: Flow) {
        *self.state.flow.lock().unwrap() = flow;
        self.state.changed.notify_all();
        if flow == Flow::Cut {
            self.cut();
        }
    }

    /// Connections that were ever made.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Acquire)
    }

    /// Connections that the client has not ended.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::Acquire)
    }

    /// Ends every connection; new ones are taken.
    pub(crate) fn cut(&self) {
        for stream in self.state.streams.lock().unwrap().drain(..) {
            // One side may have gone already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn forward(from: &TcpStream, to: &TcpStream, state: &Arc<State>, is_client: bool) {
    let (mut from, mut to, shared) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(state));
    let (pieces, arrived) = mpsc::channel::<(Instant, Vec<u8>)>();
    // Reads on while nothing is passed on: it must see when its side ends.
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if pieces.send((clock::now(), buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        if is_client {
            shared.open.fetch_sub(1, Ordering::AcqRel);
        }
    });
    let shared = Arc::clone(state);
    std::thread::spawn(move || {
        for (came, piece) in arrived {
            shared.wait(came);
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        // Both directions end; the other side may have gone already.
        to.shutdown(Shutdown::Both).ok();
    });
}

impl State {
    /// Until a piece that came then may go.
    fn wait(&self, came: Instant) {
        let mut flow = self.flow.lock().unwrap();
        while *flow == Flow::Held {
            flow = self.changed.wait(flow).unwrap();
        }
        let Flow::Late(by) = *flow else { return };
        // The fault itself: this is how late a byte is, unless the fault ends before. What comes together is late together.
        let by = (came + by).saturating_duration_since(clock::now());
        drop(self.changed.wait_timeout_while(flow, by, |flow| *flow != Flow::Free).unwrap());
    }
}
