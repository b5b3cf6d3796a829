//! A port in front of a service that cuts a connection at the worst moment: within a request, or instead of a reply.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// When the next connection is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// After so many bytes of what the client sends.
    Request(usize),
    /// After so many pieces of what the service answers: the next one is lost.
    Reply(usize),
}

pub(crate) struct Cutter {
    pub(crate) port: u16,
    armed: Arc<Mutex<Option<Cut>>>,
}

impl Cutter {
    /// `target` is `host:port`. Listens as long as the test process lives.
    pub(crate) fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(Mutex::new(None));
        let (shared, target) = (Arc::clone(&armed), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&target).unwrap());
                forward(Direction::Request, &client, &server, &shared);
                forward(Direction::Reply, &server, &client, &shared);
            }
        });
        Self { port, armed }
    }

    /// From now on counts towards one cut.
    pub(crate) fn arm(&self, cut: Cut) {
        *self.armed.lock().unwrap() = Some(cut);
    }

    /// Whether the cut has not come yet; takes it back.
    pub(crate) fn disarm(&self) -> bool {
        self.armed.lock().unwrap().take().is_some()
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Request,
    Reply,
}

fn forward(direction: Direction, from: &TcpStream, to: &TcpStream, armed: &Arc<Mutex<Option<Cut>>>) {
    let (mut from, mut to, armed) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(armed));
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let passed = pass(direction, length, &mut armed.lock().unwrap());
            if to.write_all(&buffer[..passed]).is_err() || passed < length {
                break;
            }
        }
        // Both directions end; the other side may have gone already.
        from.shutdown(Shutdown::Both).ok();
        to.shutdown(Shutdown::Both).ok();
    });
}

/// How many of `length` bytes go through.
fn pass(direction: Direction, length: usize, armed: &mut Option<Cut>) -> usize {
    match (direction, *armed) {
        (Direction::Request, Some(Cut::Request(left))) if left < length => {
            *armed = None;
            left
        }
        (Direction::Request, Some(Cut::Request(left))) => {
            *armed = Some(Cut::Request(left - length));
            length
        }
        (Direction::Reply, Some(Cut::Reply(0))) => {
            *armed = None;
            0
        }
        (Direction::Reply, Some(Cut::Reply(left))) => {
            *armed = Some(Cut::Reply(left - 1));
            length
        }
        _ => length,
    }
}
