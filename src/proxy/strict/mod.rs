//! HTTP/1 as RFC 9112 writes it, and no other: what a client or an upstream sends is checked byte by byte
//! before a parser sees it.
//!
//! Two servers that read the same bytes as different messages let one client's request hide in another's.
//! So whatever allows two readings is refused here, and what passes is unambiguous to any parser after it.
//! The scanners are pure and incremental: how bytes are split does not change what they say. The guards put
//! them around a connection:
//!
//! - `Guard` around a client's: a request with a bad head is answered in place, after the requests before
//!   it; a bad body breaks off. Then nothing more is read.
//! - `ResponseGuard` around an upstream's: a bad response is an error of its connection.
//! - `FrameGuard` around a client's HTTP/2 connection: closes it when frames do nothing but cost.
//!
//! Memory is bounded by the limits on heads; bodies are not held back.

mod bounded_body;
mod chunk;
mod clients;
mod fields;
mod form;
mod frames;
mod guard;
mod head;
mod held;
mod ledger;
mod linger;
mod message;
mod names;
mod response;
mod streams;
mod target;
mod through;
mod unread;
mod upload;
mod violation;
mod watched;

pub(super) use bounded_body::BoundedBody;
pub(super) use clients::{ClientSlot, ClientSlots};
pub(super) use form::{check as check_form, is_malformed};
pub(super) use frames::{CONTROL_PER_SECOND, FrameGuard};
pub(super) use guard::Guard;
pub(super) use ledger::Ledger;
pub use message::{Limits, RequestScanner, ResponseScanner, Step, Stop};
pub(super) use names::{drop_untrusted, drop_untrusted_trailers};
pub(super) use response::{Asked, ResponseGuard};
use target::{authority_is_valid, path_is_valid};
pub(super) use through::write_through;
pub(super) use unread::discard;
pub(super) use upload::{Motion, Upload};
pub use violation::Violation;
pub(super) use watched::Watched;
