//! The innermost service: the session, the welcome, and the link's place in it.
//!
//! A `Hello` may arrive as early data, which an attacker can replay (RFC 8446 section 8). Up to the welcome nothing is changed
//! but counters; the link joins, and a new session is made, only when the handshake is confirmed.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use metra_core::wire::{Frame, Welcome, greeting};
use tower::Service;

use super::greet::VERSION;
use super::{Joined, Known, Refused, lost};
use crate::rates;
use crate::sessions::Sessions;

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct Join {
    sessions: Arc<Sessions>,
}

impl Join {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions }
    }
}

impl Service<Known> for Join {
    type Response = Joined;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<Joined, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, known: Known) -> Self::Future {
        let sessions = self.sessions.clone();
        Box::pin(async move { join(sessions, known).await })
    }
}

async fn join(sessions: Arc<Sessions>, known: Known) -> Result<Joined, Refused> {
    let Known { mut greeted, account, session, permitted, by } = known;
    sessions.audit().gate()?;
    let from = greeted.arrival.peer.ip();
    let id = sessions.admit(&account, from, session)?;
    let (ticket, ticket_lifetime) = sessions.ticket(&id, &account);
    let welcome = Frame::Welcome(Welcome {
        version: VERSION,
        session: id,
        ticket,
        ticket_lifetime,
        user: account.name.clone(),
        receipt_key: sessions.receipts().public(),
        limits: sessions.peer_limits(),
    });
    let link = greeted.arrival.link;
    // What the client sends once it has the welcome must find the limits of a client, not those of a stranger.
    link.trust();
    greeted.send.send(greeting(&welcome, link.kind().is_stream()).into()).await.map_err(lost)?;
    link.handshake_confirmed().await.map_err(lost)?;
    let (live, resumed) = sessions.enter(id, &account, from)?;
    if let Some(permitted) = permitted.filter(|_| sessions.authority().is_on()) {
        let (rt, authority) = (sessions.rt(), sessions.authority().clone());
        let (watched, live) = (link.clone(), live.clone());
        rt.spawn(async move {
            tokio::select! {
                refused = authority.revoked(vec![permitted]) => {
                    watched.close(refused.code, &refused.reason);
                    live.link_revoked(&watched, &refused);
                }
                _ = watched.closed() => {}
            }
        });
    }
    let attached = live.session().attach(link, greeted.send, greeted.recv, greeted.decoder);
    rates::lock(&sessions, &live, attached.map_err(|e| Refused::new(e.code, e.reason))?);
    Ok(Joined { session: id, account, resumed, by })
}
