//! One question about one file: what is sent when, and what the answer means.
//!
//! ```text
//!           +--(the file is longer)--> Preview --100 Continue--> Body ---+
//! start ----+                                                            +--> Sent
//!           +--(it is not, or the service wants no preview)--------------+
//!
//! Head --100--> Head --204--------------------------> Done
//!                    --200--> encapsulated head --> its body, passed over --> Done
//!                    --others-----------------------> Done (Failed)
//! ```
//!
//! Both go on at the same time: a service may answer at any point, and one that begins its answer before it has
//! everything must be listened to, or both sides wait for each other.

use crate::chunked::{self, Skip};
use crate::head::{Head, printable};
use crate::outcome::infection;
use crate::{IcapError, Outcome, ServiceUrl, Subject, request};

/// Bytes of an answer's body that are passed over to keep a connection; with more, a new one is cheaper.
const SKIP_MAX: usize = 256 * 1024;
/// The most content that is in one chunk. Bytes.
const CHUNK_MAX: u64 = 64 * 1024;
/// Parts of an encapsulated message: a head and a body, of a request or a response.
const PARTS_MAX: usize = 4;

/// See the module's documentation. The caller sends [`transmit`](Self::transmit), gives content when it is
/// [wanted](Self::wants), and says what was [received](Self::received), until there is an [`outcome`](Self::outcome).
#[derive(Debug)]
pub struct Exchange {
    sending: Sending,
    /// Content that the service has not been given yet.
    left: u64,
    out: Vec<u8>,
    receiving: Receiving,
    buffer: Vec<u8>,
    heard: bool,
    closes: bool,
    istag: Option<String>,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// So much of the preview is left; `whole` if nothing comes behind it.
    Preview {
        left: u64,
        whole: bool,
    },
    /// The preview is out, and there is more.
    Asked,
    Body,
    Sent,
}

#[derive(Debug)]
enum Receiving {
    Head,
    /// An encapsulated head of so many bytes, then possibly a body.
    Encapsulated {
        len: usize,
        response: bool,
        body: bool,
        found: Option<String>,
    },
    Body {
        skip: Skip,
        passed: usize,
    },
    Done,
}

impl Exchange {
    /// Begins. `preview`: as the service's [`Options`](crate::Options) say.
    pub fn new(service: &ServiceUrl, subject: &Subject, preview: Option<usize>) -> Self {
        let out = request::reqmod(service, subject, preview);
        let sending = match preview {
            _ if subject.size == 0 => Sending::Sent,
            Some(preview) => {
                let left = (preview as u64).min(subject.size);
                Sending::Preview { left, whole: left == subject.size }
            }
            None => Sending::Body,
        };
        let mut exchange = Self {
            sending,
            left: subject.size,
            out,
            receiving: Receiving::Head,
            buffer: Vec::new(),
            heard: false,
            closes: false,
            istag: None,
            outcome: None,
        };
        // A preview of nothing is over already.
        exchange.content(&[]);
        exchange
    }

    /// What is to be sent now.
    pub fn transmit(&self) -> &[u8] {
        &self.out
    }

    /// So much of it was sent.
    pub fn transmitted(&mut self, len: usize) {
        self.out.drain(..len);
    }

    /// How much content it can take now, in bytes; 0: none until something was received, or at all.
    pub fn wants(&self) -> usize {
        let most = match self.sending {
            Sending::Preview { left, .. } => left,
            Sending::Body => self.left,
            Sending::Asked | Sending::Sent => 0,
        };
        most.min(CHUNK_MAX) as usize
    }

    /// Takes content: the next bytes of the file, no more than it [wants](Self::wants); what is more is left out.
    pub fn content(&mut self, data: &[u8]) {
        let data = &data[..data.len().min(self.wants())];
        chunked::put(data, &mut self.out);
        self.left -= data.len() as u64;
        match &mut self.sending {
            Sending::Preview { left, whole } => {
                *left -= data.len() as u64;
                if *left == 0 {
                    let (end, next) = match *whole {
                        true => (chunked::END_OF_ALL, Sending::Sent),
                        false => (chunked::END, Sending::Asked),
                    };
                    self.out.extend_from_slice(end);
                    self.sending = next;
                }
            }
            Sending::Body if self.left == 0 => {
                self.out.extend_from_slice(chunked::END);
                self.sending = Sending::Sent;
            }
            _ => {}
        }
    }

    /// Takes bytes of the service in. Behind an outcome nothing is taken.
    pub fn received(&mut self, data: &[u8]) {
        self.heard |= !data.is_empty();
        self.buffer.extend_from_slice(data);
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // What was found once stays found, whatever comes behind it.
                    self.outcome.get_or_insert(Outcome::Failed(error));
                    self.closes = true;
                    self.receiving = Receiving::Done;
                    return;
                }
            }
        }
    }

    /// The connection was closed by the service.
    pub fn closed(&mut self) {
        self.outcome.get_or_insert(Outcome::Failed(IcapError::Closed));
        self.closes = true;
        self.receiving = Receiving::Done;
    }

    /// Whether anything was heard of the service.
    pub fn has_heard(&self) -> bool {
        self.heard
    }

    /// The answer, once it is there and nothing more is waited for. To be taken once.
    pub fn outcome(&mut self) -> Option<Outcome> {
        match self.receiving {
            Receiving::Done => self.outcome.take(),
            _ => None,
        }
    }

    /// The tag of the service's state, as it answers now.
    pub fn istag(&self) -> Option<&str> {
        self.istag.as_deref()
    }

    /// Whether the connection is good for another question: both sides have said all, and nothing more.
    pub fn is_reusable(&self) -> bool {
        matches!(self.receiving, Receiving::Done)
            && self.sending == Sending::Sent
            && self.out.is_empty()
            && self.buffer.is_empty()
            && !self.closes
    }

    /// Whether something was taken in that may lead further.
    fn step(&mut self) -> Result<bool, IcapError> {
        match &mut self.receiving {
            Receiving::Done => Ok(false),
            Receiving::Head => {
                let Some(end) = Head::end(&self.buffer)? else { return Ok(false) };
                let head = Head::parse(&self.buffer[..end], "ICAP/1.")?;
                self.buffer.drain(..end);
                self.head(&head)?;
                Ok(true)
            }
            Receiving::Encapsulated { len, response, body, found } => {
                if self.buffer.len() < *len {
                    return Ok(false);
                }
                let head = &self.buffer[..*len];
                let answer = match response {
                    true => Head::parse(head, "HTTP/1.").map(|http| (http.status, http.reason))?,
                    false => (0, String::new()),
                };
                self.outcome = Some(judge(found.take(), *response, answer));
                let (len, body) = (*len, *body);
                self.buffer.drain(..len);
                self.receiving = match body {
                    true => Receiving::Body { skip: Skip::new(), passed: 0 },
                    false => Receiving::Done,
                };
                self.answered_early();
                Ok(true)
            }
            Receiving::Body { skip, passed } => {
                let taken = skip.take(&self.buffer)?;
                self.buffer.drain(..taken);
                *passed += taken;
                if skip.is_done() {
                    self.receiving = Receiving::Done;
                    return Ok(false);
                }
                if *passed > SKIP_MAX {
                    self.closes = true;
                    self.receiving = Receiving::Done;
                }
                Ok(false)
            }
        }
    }

    fn head(&mut self, head: &Head) -> Result<(), IcapError> {
        self.istag = head.header("istag").map(printable).or(self.istag.take());
        self.closes |= head.lists("connection", "close");
        match head.status {
            // Once, and only behind a preview (RFC 3507 section 4.5).
            100 if self.sending == Sending::Asked => {
                self.sending = Sending::Body;
                return Ok(());
            }
            204 => {
                self.outcome = Some(match infection(head) {
                    // A service that only reports lets it pass with this header. That is not for it to decide.
                    Some(what) => Outcome::Blocked { what, why: "reported with status 204".to_owned() },
                    None => Outcome::Clean,
                });
                self.receiving = Receiving::Done;
            }
            200 => self.receiving = encapsulated(head)?,
            400..=599 => {
                let reason = head.reason.clone();
                return Err(IcapError::Status { status: head.status, reason });
            }
            100..=199 => return Err(IcapError::Protocol("an interim response that was not asked for")),
            _ => return Err(IcapError::Protocol("a status that was not asked for")),
        }
        self.answered_early();
        Ok(())
    }

    /// The answer is known: nothing more of the file is sent, and if some is missing, the connection is of no more use.
    fn answered_early(&mut self) {
        if self.outcome.is_some() && (self.sending != Sending::Sent || !self.out.is_empty()) {
            self.closes = true;
            self.receiving = Receiving::Done;
        }
    }
}

/// What is in a 200 (RFC 3507 section 4.4.1): `res-hdr=0, res-body=137`.
fn encapsulated(head: &Head) -> Result<Receiving, IcapError> {
    let bad = || IcapError::Protocol("Encapsulated does not say what is in the answer");
    let mut parts = Vec::new();
    for part in head.header("encapsulated").ok_or_else(bad)?.split(',') {
        let (name, offset) = part.trim().split_once('=').ok_or_else(bad)?;
        if parts.len() == PARTS_MAX {
            return Err(bad());
        }
        parts.push((name.trim(), offset.trim().parse::<usize>().map_err(|_| bad())?));
    }
    // In the answer to REQMOD there is one head, of a request or of a response (section 4.8.2).
    let (response, len, body) = match parts[..] {
        [("res-hdr", 0), ("res-body", len)] => (true, len, true),
        [("res-hdr", 0), ("null-body", len)] => (true, len, false),
        [("req-hdr", 0), ("req-body", len)] => (false, len, true),
        [("req-hdr", 0), ("null-body", len)] => (false, len, false),
        _ => return Err(bad()),
    };
    if len == 0 || len > crate::head::HEAD_MAX {
        return Err(IcapError::Protocol("an encapsulated head is empty or too long"));
    }
    Ok(Receiving::Encapsulated { len, response, body, found: infection(head) })
}

fn judge(found: Option<String>, response: bool, (status, reason): (u16, String)) -> Outcome {
    let page = format!("{status} {reason}").trim_end().to_owned();
    match (found, response) {
        (Some(what), true) => {
            Outcome::Blocked { what, why: format!("the service answers {page} in its place") }
        }
        (Some(what), false) => {
            Outcome::Blocked { what, why: "the service would pass on a cleaned file".to_owned() }
        }
        (None, true) => Outcome::Blocked { what: page, why: "the service answers in its place".to_owned() },
        (None, false) => Outcome::Modified {
            why: "the service would pass on another file in its place, or does not answer 204".to_owned(),
        },
    }
}
