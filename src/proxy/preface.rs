//! Which HTTP a client speaks: told by its first bytes, which are then read again.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;

use super::connection::{Connection, Signal};
use super::strict::{Ledger, write_through};
use super::transport::ClientStream;

/// What a client that speaks HTTP/2 from the start sends first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is plain whether the client speaks HTTP/2. `None` when the connection ended or was told
/// to before that.
pub(super) async fn read_preface(connection: &Connection, mut stream: ClientStream) -> Option<Prefixed> {
    let mut prefix = [0; PREFACE.len()];
    let length = Cell::new(0);
    let mut read = pin!(async {
        let mut filled = 0;
        while filled < PREFACE.len() && PREFACE.starts_with(prefix.get(..filled)?) {
            match stream.read(prefix.get_mut(filled..)?).await {
                Ok(0) | Err(_) => return None,
                Ok(more) => filled += more,
            }
            length.set(filled);
        }
        Some((prefix, stream))
    });
    let read = poll_fn(|cx| match (read.as_mut().poll(cx), connection.attend(cx)) {
        (Poll::Ready(read), _) => Poll::Ready(read),
        (Poll::Pending, Signal::Expire) => Poll::Ready(None),
        (Poll::Pending, Signal::Drain) if length.get() == 0 => Poll::Ready(None),
        (Poll::Pending, _) => Poll::Pending,
    });
    let (prefix, stream) = read.await?;
    if !stream.allows(length.get() == PREFACE.len() && prefix == *PREFACE) {
        return None;
    }
    let stream = TokioIo::new(stream);
    let ledger = Arc::clone(connection.ledger());
    Some(Prefixed {
        prefix,
        length: length.get(),
        taken: 0,
        stream,
        ledger,
    })
}

/// A stream, preceded by the bytes that were read to find out what it speaks.
pub(super) struct Prefixed {
    prefix: [u8; PREFACE.len()],
    length: usize,
    taken: usize,
    stream: TokioIo<ClientStream>,
    ledger: Arc<Ledger>,
}

impl Prefixed {
    /// The client speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.prefix == *PREFACE && self.length == PREFACE.len()
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(bytes)) => self.ledger.count_write(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.ledger.block(self.stream.inner().untaken()),
        }
    }
}

impl Drop for Prefixed {
    fn drop(&mut self) {
        if self.ledger.is_cut() {
            self.stream.inner().reset_at_end();
        }
    }
}

impl Read for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.prefix.get(self.taken..self.length).unwrap_or_default();
        if left.is_empty() {
            let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
            if polled.is_ready() {
                self.ledger.count_read();
            }
            return polled;
        }
        let take = left.len().min(buf.remaining());
        buf.put_slice(left.get(..take).unwrap_or_default());
        self.taken += take;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // The rest of the same packet, so that the head is parsed in one go.
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => Poll::Ready(Ok(())),
            ready => ready,
        }
    }
}

write_through!(impl[] for Prefixed, to stream, telling wrote);
