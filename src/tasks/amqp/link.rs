//! A connection to RabbitMQ that can be given up at any time. Does IO.
//!
//! lapin drives each connection on a thread of its own, which ends when the server says so or the socket does. A server that
//! is stopped, or a network that swallows everything, does neither, and every new attempt would leave another thread and
//! socket behind. So the socket is held here too, and shut down when the link is dropped.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::{AMQPUriTcpExt as _, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, Error};

use crate::config::AmqpAddress;

/// A connection, and a channel on it that confirms.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
    _socket: Socket,
}

impl Link {
    /// May be dropped half-way, like every future: nothing stays behind.
    pub(super) async fn connect(address: &AmqpAddress) -> Result<Self, Error> {
        let mut uri: AMQPUri = address.expose().parse().map_err(|error: String| Error::from(io::Error::other(error)))?;
        // The library reads an IPv6 address as `localhost`, and whoever listens there would get the password.
        uri.authority.host.clone_from(&address.host);
        let socket = Socket::default();
        let shared = Arc::clone(&socket.0);
        let tls = OwnedTLSConfig::default();
        let properties = ConnectionProperties::default().with_connection_name("trigger-dispatcher".into());
        let connection = Connection::connector(
            uri,
            lapin::runtime::default_runtime()?,
            async move |uri, runtime| {
                let stream = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
                let plain = match &stream {
                    AsyncTcpStream::Plain(plain) => plain,
                    AsyncTcpStream::Rustls(encrypted) => encrypted.get_ref().0,
                    _ => return Err(Error::from(io::Error::other("a kind of stream that cannot be ended"))),
                };
                hold(&shared, plain.get_ref().as_fd().try_clone_to_owned()?.into())?;
                Ok(stream)
            },
            properties,
        )
        .await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel, _socket: socket })
    }
}

#[derive(Default)]
enum State {
    /// The socket does not stand yet.
    #[default]
    Coming,
    Open(TcpStream),
    /// Whoever asked for it is gone.
    GivenUp,
}

/// The link's own hold on the socket that lapin reads and writes.
#[derive(Default)]
struct Socket(Arc<Mutex<State>>);

fn hold(state: &Mutex<State>, socket: TcpStream) -> io::Result<()> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*state, State::GivenUp) {
        return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
    }
    *state = State::Open(socket);
    Ok(())
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Open(socket) = std::mem::replace(&mut *state, State::GivenUp) {
            // Fails where the other side has ended it already, which is all that we want.
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}
