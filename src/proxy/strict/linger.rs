//! Closing a connection whose sender has not finished.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, Write};

/// Most bytes discarded after the last response. A client that sends more before it reads has a large
/// upload in flight, and may lose the response.
const BYTES_MAX: usize = 256 * 1024;
const READ_BYTES: usize = 8 * 1024;

/// Ends our side, and discards what the other still sends until it ends its own. The worker's heartbeat
/// bounds the time.
#[derive(Default)]
pub(super) struct Linger {
    is_shut: bool,
    discarded: usize,
}

impl Linger {
    /// Ready once the sender has ended or sent too much.
    pub(super) fn poll<T: Read + Write + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        while self.discarded < BYTES_MAX {
            let mut read = ReadBuf::uninit(&mut space);
            // A reset is an end, too.
            if ready!(Pin::new(&mut *io).poll_read(cx, read.unfilled())).is_err() {
                break;
            }
            match read.filled().len() {
                0 => break,
                more => self.discarded += more,
            }
        }
        Poll::Ready(Ok(()))
    }
}
