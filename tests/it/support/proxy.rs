//! A port in front of a service, which a test can close and open again.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    target: String,
    open: Option<Open>,
}

/// What an open port consists of.
struct Open {
    closing: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    /// A port that nobody listens on until it is opened. `target` is `host:port`.
    pub(crate) fn closed(target: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, target: target.to_owned(), open: None }
    }

    pub(crate) fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let (closing, streams) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, kept, target) = (Arc::clone(&closing), Arc::clone(&streams), self.target.clone());
        let acceptor = std::thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                forward(client.unwrap(), TcpStream::connect(&target).unwrap(), &kept);
            }
        });
        self.open = Some(Open { closing, streams, acceptor });
    }

    /// Cuts every connection and listens no more.
    pub(crate) fn close(&mut self) {
        let Some(Open { closing, streams, acceptor }) = self.open.take() else { return };
        closing.store(true, Ordering::Release);
        // Wakes the acceptor; what counts is that it has ended.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        acceptor.join().unwrap();
        for stream in streams.lock().unwrap().iter() {
            // One side may have gone already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

fn forward(client: TcpStream, server: TcpStream, kept: &Mutex<Vec<TcpStream>>) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            // A cut is what the test wants; either way both directions end.
            io::copy(&mut from, &mut to).ok();
            to.shutdown(Shutdown::Both).ok();
        });
    };
    copy(client.try_clone().unwrap(), server.try_clone().unwrap());
    copy(server.try_clone().unwrap(), client.try_clone().unwrap());
    kept.lock().unwrap().extend([client, server]);
}
