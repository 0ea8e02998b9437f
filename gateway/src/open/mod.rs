//! The opening of a session: from a new connection to a link that has joined a session.
//!
//! [`stack`] is the whole of it, a layer a line, in the order in which a connection meets them. Everything after it
//! (jobs, chunks) goes over the session and does not pass here again.

mod authenticate;
mod authorize;
mod deadline;
mod greet;
mod join;
mod observe;
mod place;
mod record;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use metra_core::code::Code;
use metra_core::id::SessionId;
use metra_core::wire::{FrameDecoder, Hello};
use metra_policy::engine::Request;
use metra_transport::{ControlRecv, ControlSend, Link, LinkError, LinkKind};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::account::Account;
use crate::sessions::Sessions;
use authenticate::AuthenticateLayer;
use authorize::AuthorizeLayer;
use deadline::DeadlineLayer;
use greet::GreetLayer;
use join::Join;
use observe::{MetricsLayer, TraceLayer};
use place::PlaceLayer;
use record::RecordLayer;

/// A new connection, from whichever listener.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// It.
    pub link: Arc<dyn Link>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// By which way.
    pub kind: LinkKind,
}

/// A connection that has said hello.
pub(crate) struct Greeted {
    arrival: Arrival,
    hello: Hello,
    send: Box<dyn ControlSend>,
    recv: Box<dyn ControlRecv>,
    decoder: FrameDecoder,
}

/// A connection whose user is known.
pub(crate) struct Known {
    greeted: Greeted,
    account: Arc<Account>,
    /// The session that it wants to join, as its ticket says.
    session: Option<SessionId>,
    /// What the policies were asked, once they were.
    permitted: Option<Request>,
    /// By what they are known, or the policies that let them in: for the audit trail.
    by: Cow<'static, str>,
}

/// A link that is part of a session now.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// The session.
    pub session: SessionId,
    /// Whose.
    pub account: Arc<Account>,
    /// Whether the session was there before.
    pub resumed: bool,
    /// The same.
    pub by: Cow<'static, str>,
}

/// Why a connection did not become a link. The peer is told code and reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub(crate) struct Refused {
    /// For programs.
    pub code: Code,
    /// For people; tells the peer nothing that helps it to guess credentials.
    pub reason: String,
    /// Who was refused, if that is known. For the audit trail.
    pub user: Option<String>,
}

impl Refused {
    /// A refusal.
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), user: None }
    }

    /// Of this user.
    fn of(self, user: &str) -> Self {
        Self { user: Some(user.to_owned()), ..self }
    }
}

impl From<Refused> for (Code, String) {
    fn from(refused: Refused) -> Self {
        (refused.code, refused.reason)
    }
}

/// Of a link that was lost before it could be opened. Nobody hears the code, but it is counted.
fn lost(error: LinkError) -> Refused {
    let code = match &error {
        // It was closed for what the peer did.
        LinkError::Protocol(_) => Code::Protocol,
        LinkError::ClosedByPeer { .. } | LinkError::Reset | LinkError::Io { .. } => Code::Cancelled,
        _ => Code::Timeout,
    };
    Refused::new(code, error.to_string())
}

/// The stack as one value, cheap to clone; each clone opens one connection at a time.
pub(crate) type Opener = BoxCloneSyncService<Arrival, Joined, Refused>;

/// The opening stack. Reading order is the order of the layers.
pub(crate) fn stack(sessions: Arc<Sessions>) -> Opener {
    let limits = sessions.config().limits;
    let rt = sessions.rt().clone();
    let stack = ServiceBuilder::new()
        // Outermost, so that its span holds everything, and so that it closes whatever is refused below.
        .layer(TraceLayer::new(rt.clone()))
        // Counts every outcome, the shed ones too.
        .layer(MetricsLayer)
        // One record for each decision, whoever below made it.
        .layer(RecordLayer::new(sessions.audit().clone()))
        // Before anything that waits: a connection over the limit is told "busy" now, not later. Joined links do not count.
        .layer(PlaceLayer::new(OPENINGS.0, OPENINGS.1))
        // Covers all that waits for the peer.
        .layer(DeadlineLayer::new(rt, limits.handshake))
        // Opens the control stream and reads the first frame; from here on the request says what it wants.
        .layer(GreetLayer)
        // Who is it? Nothing below sees a connection without an account.
        .layer(AuthenticateLayer::new(sessions.clone()))
        // May they come in? Policies say.
        .layer(AuthorizeLayer::new(sessions.clone()))
        // Limits per user, the session, the welcome.
        .service(Join::new(sessions));
    BoxCloneSyncService::new(stack)
}

/// Sends a new connection through the stack; ends when it is a link, or has been refused. The flag: whether it is a link.
pub(crate) async fn admit(mut opener: Opener, arrival: Arrival) -> bool {
    let refused = arrival.link.clone();
    match opener.ready().await {
        Ok(ready) => ready.call(arrival).await.is_ok(),
        Err(error) => {
            refused.close(error.code, &error.reason);
            false
        }
    }
}

/// Openings at a time: in all, and from one address.
const OPENINGS: (usize, usize) = (256, 64);
