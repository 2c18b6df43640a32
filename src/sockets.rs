//! Listening sockets: one per address and thread, all bound to the same port (SO_REUSEPORT), so that the
//! kernel spreads connections and threads share no accept queue.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted, per listener; the kernel caps it at `somaxconn` (4,096 by default).
const BACKLOG: i32 = 4096;
/// The pause after an accept that failed for want of descriptors or memory, which only time brings back.
pub(crate) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Binds `address` once per thread; port 0 becomes the same free port for all.
///
/// # Errors
/// When the address cannot be bound, or another program listens on it: sharing a port with a stranger
/// would split the clients between both.
pub(crate) fn bind(address: SocketAddr, threads: usize) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    if address.port() != 0 {
        // Without SO_REUSEPORT the kernel refuses an address that anybody listens on.
        drop(open(address, false)?);
    }
    let first = open(address, true)?;
    let bound = first.local_addr()?;
    let more = (1..threads).map(|_| open(bound, true));
    let listeners = std::iter::once(Ok(first))
        .chain(more)
        .collect::<io::Result<_>>()?;
    Ok((bound, listeners))
}

fn open(address: SocketAddr, share: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Errors that Linux reports at accept although they concern only the connection that would have been
/// accepted (accept(2), "Error handling").
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}
