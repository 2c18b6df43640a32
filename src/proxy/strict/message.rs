//! All that one side of a connection sends: heads, bodies, one after the other. Pure.

use super::chunk::ChunkScanner;
use super::fields::Framing;
use super::head::{Head, HeadScanner, Kind};
use super::violation::Violation;

/// What a message may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request line, without its end.
    pub request_line_bytes_max: usize,
    /// Bytes of a head; a trailer section may have as many.
    pub head_bytes_max: usize,
    /// Fields of a head; a trailer section may have as many.
    pub fields_max: usize,
    /// Bytes of a request's body that has no Content-Length.
    pub body_bytes_max: u64,
}

/// What became of bytes that were scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// So many of them, from the first, may pass. Scan the others again when there are more.
    pub pass: usize,
    /// Why no more.
    pub stop: Stop,
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What is left, if anything, is part of a head.
    More,
    /// A request to switch protocols: whether what is left is HTTP depends on the answer.
    Upgrade,
    /// What is left begins a head that breaks a rule.
    Refused(Violation),
    /// The next byte breaks a rule in a body.
    Broken(Violation),
}

/// Follows what a client sends. Split the bytes as you like: what passes is the same.
#[derive(Clone, Debug)]
pub struct RequestScanner {
    limits: Limits,
    state: State,
    heads: u32,
    /// The request in progress asks to switch protocols.
    is_upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head(HeadScanner),
    Length(u64),
    Chunked(ChunkScanner),
    Upgrade,
    Refused(Violation),
    Broken(Violation),
}

impl RequestScanner {
    /// Before the first byte.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Head(HeadScanner::new(Kind::Request)),
            heads: 0,
            is_upgrade: false,
        }
    }

    /// Goes on with `bytes`: those that the last step did not let pass, and new ones.
    ///
    /// A request whose body breaks a rule right after its head is refused as a whole: then no part of it
    /// goes further.
    pub fn scan(&mut self, bytes: &[u8]) -> Step {
        let mut pass = 0;
        let mut head_at = None;
        loop {
            let rest = bytes.get(pass..).unwrap_or_default();
            let stop = match &mut self.state {
                State::Head(head) => match head.scan(rest, &self.limits) {
                    Ok(Some(head)) => {
                        head_at = Some(pass);
                        pass += head.bytes;
                        self.begin_body(head);
                        continue;
                    }
                    Ok(None) => Stop::More,
                    Err(violation) => {
                        self.state = State::Refused(violation);
                        Stop::Refused(violation)
                    }
                },
                State::Length(left) => {
                    pass += take(left, rest.len());
                    if *left == 0 {
                        self.end_body();
                        continue;
                    }
                    Stop::More
                }
                State::Chunked(chunks) => {
                    let (taken, result) = chunks.scan(rest, &self.limits);
                    pass += taken;
                    if let Err(violation) = result {
                        if let Some(at) = head_at {
                            return self.refuse_whole(at, violation);
                        }
                        self.state = State::Broken(violation);
                        Stop::Broken(violation)
                    } else if chunks.is_over() {
                        self.end_body();
                        continue;
                    } else {
                        Stop::More
                    }
                }
                State::Upgrade => Stop::Upgrade,
                State::Refused(violation) => Stop::Refused(*violation),
                State::Broken(violation) => Stop::Broken(*violation),
            };
            return Step { pass, stop };
        }
    }

    /// The switch of protocols was declined: what follows is HTTP.
    pub fn decline_upgrade(&mut self) {
        if self.state == State::Upgrade {
            self.state = State::Head(HeadScanner::new(Kind::Request));
        }
    }

    /// How many heads have passed.
    #[must_use]
    pub fn heads(&self) -> u32 {
        self.heads
    }

    /// A body has begun, and not ended.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    fn refuse_whole(&mut self, pass: usize, violation: Violation) -> Step {
        self.heads = self.heads.wrapping_sub(1);
        self.state = State::Refused(violation);
        let stop = Stop::Refused(violation);
        Step { pass, stop }
    }

    fn begin_body(&mut self, head: Head) {
        self.heads = self.heads.wrapping_add(1);
        self.is_upgrade = head.has_upgrade;
        match head.framing {
            Framing::None | Framing::Length(0) => self.end_body(),
            Framing::Length(length) => self.state = State::Length(length),
            Framing::Chunked => self.state = State::Chunked(ChunkScanner::new()),
        }
    }

    fn end_body(&mut self) {
        self.state = if std::mem::take(&mut self.is_upgrade) {
            State::Upgrade
        } else {
            State::Head(HeadScanner::new(Kind::Request))
        };
    }
}

/// Follows what an upstream sends in answer to requests that it is told of.
#[derive(Clone, Debug)]
pub struct ResponseScanner {
    limits: Limits,
    state: Answer,
    /// The response answers a HEAD.
    is_bodiless: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Unasked,
    Head(HeadScanner),
    Length(u64),
    Chunked(ChunkScanner),
    /// Until the connection ends, as a body or as another protocol.
    Rest,
    Broken(Violation),
}

impl ResponseScanner {
    /// Before the first request. Of `limits`, heads' are used.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let limits = Limits {
            body_bytes_max: u64::MAX,
            ..limits
        };
        Self {
            limits,
            state: Answer::Unasked,
            is_bodiless: false,
        }
    }

    /// The next response answers a request that is now sent: a HEAD, or another.
    pub fn ask(&mut self, is_head: bool) {
        if self.state == Answer::Unasked {
            self.is_bodiless = is_head;
            self.state = Answer::Head(HeadScanner::new(Kind::Response));
        }
    }

    /// Goes on with `bytes`: those that the last step did not let pass, and new ones.
    pub fn scan(&mut self, bytes: &[u8]) -> Step {
        let mut pass = 0;
        loop {
            let rest = bytes.get(pass..).unwrap_or_default();
            let violation = match &mut self.state {
                Answer::Unasked if rest.is_empty() => return more(pass),
                Answer::Unasked => Violation::Unexpected,
                Answer::Head(head) => match head.scan(rest, &self.limits) {
                    Ok(Some(head)) => {
                        pass += head.bytes;
                        self.begin_body(head);
                        continue;
                    }
                    Ok(None) => return more(pass),
                    Err(violation) => violation,
                },
                Answer::Length(left) => {
                    pass += take(left, rest.len());
                    if *left > 0 {
                        return more(pass);
                    }
                    self.state = Answer::Unasked;
                    continue;
                }
                Answer::Chunked(chunks) => {
                    let (taken, result) = chunks.scan(rest, &self.limits);
                    pass += taken;
                    match result {
                        Err(violation) => violation,
                        Ok(()) if chunks.is_over() => {
                            self.state = Answer::Unasked;
                            continue;
                        }
                        Ok(()) => return more(pass),
                    }
                }
                Answer::Rest => return more(bytes.len()),
                Answer::Broken(violation) => *violation,
            };
            self.state = Answer::Broken(violation);
            let stop = Stop::Broken(violation);
            return Step { pass, stop };
        }
    }

    /// RFC 9112 §6.3, the cases in their order.
    fn begin_body(&mut self, head: Head) {
        self.state = match (head.status, head.framing) {
            (101, _) => Answer::Rest,
            (..200, _) => Answer::Head(HeadScanner::new(Kind::Response)),
            (204 | 304, _) => Answer::Unasked,
            _ if self.is_bodiless => Answer::Unasked,
            (_, Framing::Chunked) => Answer::Chunked(ChunkScanner::new()),
            (_, Framing::Length(0)) => Answer::Unasked,
            (_, Framing::Length(length)) => Answer::Length(length),
            (_, Framing::None) => Answer::Rest,
        };
    }
}

fn more(pass: usize) -> Step {
    Step {
        pass,
        stop: Stop::More,
    }
}

/// Takes up to `available` bytes of those `left`, and answers how many.
fn take(left: &mut u64, available: usize) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(available);
    *left -= taken as u64;
    taken
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
